"""The default renderer: ray casting on the CPU, from pip alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from generation.geometry import Camera, Float32
from generation.raycast import RayCaster
from generation.renderers.protocol import NEAR_M, View
from generation.renderers.texturing import SurfaceColors
from generation.scenes.scene import Scene


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
        directions = world_rays(camera)
        hits = self._caster.cast(camera_origins(camera), directions, near=NEAR_M)
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
        hits = self._caster.cast(camera_origins(camera), world_rays(camera), near=NEAR_M)
        return hits.distances.reshape(camera.image_size)


def camera_origins(camera: Camera) -> Float32:
    """Return the (H * W, 3) origins of a camera's rays: its centre, again and again."""
    height, width = camera.image_size
    origins = np.empty((height * width, 3), np.float32)
    origins[:] = camera.centre
    return origins


def world_rays(camera: Camera) -> Float32:
    """Return (H * W, 3) world directions, of length 1 along the optical axis.

    Written without matrix products, whose last bit depends on the machine's BLAS.
    """
    x, y = _ray_grid(camera.image_size, camera.intrinsics.tobytes())
    right, down, forward = camera.world_from_camera[:3, :3].T.astype(np.float32)
    directions = x[None, :, None] * right + (y[:, None, None] * down + forward)
    return directions.reshape(-1, 3)


@lru_cache(maxsize=16)
def _ray_grid(image_size: tuple[int, int], intrinsics: bytes) -> tuple[Float32, Float32]:
    """Return the x (W,) and y (H,) of rays with z = 1 in the camera frame."""
    matrix = np.frombuffer(intrinsics).reshape(3, 3)
    height, width = image_size
    x = (np.arange(width) + 0.5 - matrix[0, 2]) / matrix[0, 0]
    y = (np.arange(height) + 0.5 - matrix[1, 2]) / matrix[1, 1]
    return x.astype(np.float32), y.astype(np.float32)
