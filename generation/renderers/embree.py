"""The default renderer: ray casting on the CPU, from pip alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from generation.geometry import Camera, Float32
from generation.raycast import RayCaster
from generation.renderers.protocol import NEAR_M
from generation.renderers.texturing import SurfaceColors
from generation.scenes.scene import Scene
from generation.view import View


class EmbreeRenderer:
    """Renders a scene's unlit colour and depth with one ray a pixel."""

    name = "embree"
    device = "CPU"

    def __init__(self, scene: Scene, *, caster: RayCaster | None = None) -> None:
        """Prepare a scene; pass its caster where one exists already."""
        self._caster = caster or RayCaster(scene)
        self._surface = SurfaceColors.of_scene(scene)

    def render(self, camera: Camera) -> View:
        """Render colour and depth at the camera's image size."""
        directions = camera.world_rays()
        hits = self._caster.cast(camera.centre, directions, near=NEAR_M)
        return View(
            camera=camera,
            color=self._surface.shade(camera, directions, hits),
            depth_m=hits.distances.reshape(camera.image_size),
        )

    def render_each(self, cameras: Iterable[Camera]) -> Iterator[View]:
        """Render views in the cameras' order."""
        return map(self.render, cameras)

    def depth(self, camera: Camera) -> Float32:
        """Return the (H, W) depth alone, in metres; 0 where nothing was hit."""
        hits = self._caster.cast(camera.centre, camera.world_rays(), near=NEAR_M)
        return hits.distances.reshape(camera.image_size)
