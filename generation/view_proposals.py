"""First views of a scene, camera paths to second ones, and the co-visibility along them.

Few rays find it. From each first view lead paths to second views as the published generator draws
them. Most of those see too little of the first, so that drawing until one has some level takes the
longer the rarer the level is. But along a path co-visibility falls from 1, and beyond its second
view to 0: where no second view has the level, one between or beyond has it, found by halving in a
few steps whatever the level. All that is found is kept as long as its first view: other levels of
it begin there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generation.bounds import require
from generation.covisibility import estimate_a_in_b, estimate_official_a_in_b, surface_points
from generation.geometry import Camera, Float32, Float64
from generation.raycast import RayCaster
from generation.renderers.embree import EmbreeRenderer
from generation.view import View
from generation.viewpoints import CameraPath, ViewpointSampler

PROBE_SIZE = 24
"""Height of the grid of rays that judges a viewpoint: co-visibility found with it has a standard
error of about 0.01 (measured against full renders)."""


@dataclass(frozen=True, kw_only=True)
class ViewLimits:
    """What a view must be like."""

    min_valid_fraction: float = 0.7
    """Least fraction of a view's pixels with depth."""
    min_median_depth_m: float = 0.6
    """Views with a smaller median depth stare at something close."""
    min_contrast: float = 8.0
    """Least standard deviation of a view's luminance, of 255; below it is almost blank."""

    def __post_init__(self) -> None:
        share = self.min_valid_fraction
        require(0 < share <= 1, "min_valid_fraction", share, "above 0, at most 1")

    def flaw_of_depth(self, depth_m: Float32) -> str | None:
        """Return what is wrong with a view's depth, or None."""
        if np.count_nonzero(depth_m) < self.min_valid_fraction * depth_m.size:
            return "with too little depth"
        thinned = _thinned(depth_m)
        is_close = np.median(thinned[thinned > 0]) < self.min_median_depth_m
        return "too close" if is_close else None

    def flaw_of(self, view: View) -> str | None:
        """Return what is wrong with a view, or None."""
        flaw = self.flaw_of_depth(view.depth_m)
        if flaw:
            return flaw
        luminance = _thinned(view.color).mean(axis=2, dtype=np.float32)
        return "almost blank" if luminance.std() < self.min_contrast else None


@dataclass(frozen=True, eq=False, kw_only=True)
class FirstView:
    """A first viewpoint with what few rays see from it."""

    camera: Camera
    probe: View
    """Of PROBE_SIZE."""
    points: Float64
    """(N, 3) what it sees, in the world, in metres."""
    flaw: str | None
    """Why no pair should begin here."""


@dataclass(frozen=True, eq=False)
class JudgedPath:
    """A camera path, and the views on it that have been judged so far."""

    path: CameraPath
    views: dict[tuple[float, bool], SecondView] = field(default_factory=dict)
    """By progress, and whether the published number was judged."""


@dataclass(eq=False)
class SecondView:
    """A viewpoint on a camera path, and what few rays tell of it so far."""

    camera: Camera
    forward: float
    """Estimated share of the first view that it sees."""
    backward: float | None = None
    """Estimated share of it that the first view sees."""
    flaw: str | None = None
    """Why no pair should end here."""


class ViewProposer:
    """Draws and judges the viewpoints of one scene. Embree's rays do it, whatever renders."""

    def __init__(
        self,
        caster: RayCaster,
        probe: EmbreeRenderer,
        sampler: ViewpointSampler,
        limits: ViewLimits,
    ) -> None:
        self._caster = caster
        self._probe = probe
        self._sampler = sampler
        self._limits = limits

    def first(self, rng: np.random.Generator) -> FirstView:
        """Draw a first view."""
        camera = self._sampler.first(rng)
        probe = self._probe.render(_probe_camera(camera))
        return FirstView(
            camera=camera,
            probe=probe,
            points=surface_points(probe.camera, probe.depth_m),
            flaw=self._limits.flaw_of(probe),
        )

    def paths(self, first: FirstView, count: int, rng: np.random.Generator) -> list[JudgedPath]:
        """Draw camera paths from a first view that has points."""
        target = first.points.mean(axis=0)
        paths = self._sampler.paths(first.camera, target, count, rng)
        return [JudgedPath(path) for path in paths]

    def second(
        self, first: FirstView, path: JudgedPath, progress: float, *, low: float, official: bool
    ) -> SecondView:
        """Return the view at a progress, judged as far as it takes to know that it is below low.

        official: judge CroCo's published number.
        """
        key = (progress, official)
        if key not in path.views:
            camera = self._sampler.camera_at(path.path, progress)
            forward = self._estimate(
                first.points, first.probe.camera, _probe_camera(camera), official
            )
            path.views[key] = SecondView(camera, forward)
        second = path.views[key]
        if second.forward >= low and second.backward is None and second.flaw is None:
            probe_camera = _probe_camera(second.camera)
            depth_m = self._probe.depth(probe_camera)
            second.flaw = self._limits.flaw_of_depth(depth_m)
            points = surface_points(probe_camera, depth_m)
            second.backward = self._estimate(points, probe_camera, first.probe.camera, official)
        return second

    def _estimate(
        self, points_a: Float64, camera_a: Camera, camera_b: Camera, official: bool
    ) -> float:
        if official:
            num_pixels = camera_a.image_size[0] * camera_a.image_size[1]
            return estimate_official_a_in_b(self._caster, points_a, num_pixels, camera_b)
        return estimate_a_in_b(self._caster, points_a, camera_b)


def _thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Return about 64 x 64 of an image's pixels: statistics need no more."""
    stride = max(1, image.shape[0] // 64)
    return image[::stride, ::stride]


def _probe_camera(camera: Camera) -> Camera:
    height, width = camera.image_size
    return camera.resized((PROBE_SIZE, max(8, round(PROBE_SIZE * width / height))))
