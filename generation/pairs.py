"""Find pairs of views whose co-visibility lies in a band.

Proposals are judged with a few hundred rays first; what survives is rendered, measured at full
resolution and judged again, so that what is kept always satisfies the band. Every proposal ends
accepted or rejected for a counted reason.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generation.covisibility import (
    Covisibility,
    covisibility_a_in_b,
    estimate_a_in_b,
    estimate_official_a_in_b,
    measure_pair,
    official_covisibility,
    surface_points,
)
from generation.errors import CrossviewError
from generation.geometry import Camera, Float32, Float64
from generation.raycast import RayCaster
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.protocol import Renderer, View
from generation.scenes.scene import Scene
from generation.viewpoints import ViewpointConfig, ViewpointSampler


@dataclass(frozen=True, kw_only=True)
class OverlapBand:
    """The co-visibility that a pair must have."""

    low: float = 0.4
    """Least co-visibility, 0 to 1."""
    high: float = 0.6
    """Greatest co-visibility, 0 to 1."""
    official: bool = False
    """Judge CroCo's published number instead of the visibility-tested one."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise CrossviewError(
                "overlap: expected low-high with 0 <= low < high <= 1, for example 0.4-0.6, "
                f"got {self.low}-{self.high}"
            )

    @classmethod
    def parse(cls, text: str) -> OverlapBand:
        """Read `low-high` or `official` (what the published generator keeps: 0.5 and more)."""
        if text == "official":
            return cls(low=0.5, high=1.0, official=True)
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*", text)
        if not match:
            raise CrossviewError(
                f"overlap: expected low-high, for example 0.4-0.6, or 'official', got {text!r}"
            )
        return cls(low=float(match[1]), high=float(match[2]))

    def __str__(self) -> str:
        return "official" if self.official else f"{self.low:g}-{self.high:g}"

    def measure(self, view1: View, view2: View) -> Covisibility | None:
        """Return all numbers of a pair of rendered views, or None where it is not in the band.

        The number that the band judges is measured first; the others only for a pair to keep.
        """
        if self.official:
            judged = official_covisibility(view1, view2)
        else:
            judged = covisibility_a_in_b(view1, view2)
            if judged >= self.low:  # else the smaller of both directions is not in the band either
                judged = min(judged, covisibility_a_in_b(view2, view1))
        return measure_pair(view1, view2) if self.low <= judged <= self.high else None


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What a pair is. Defaults: CroCo's published generator, except for the band."""

    image_size: tuple[int, int] = (256, 256)
    """(height, width) in pixels."""
    hfov_deg: float = 60.0
    """Horizontal field of view, degrees."""
    overlap: OverlapBand = OverlapBand()
    """Band of co-visibility."""
    viewpoints: ViewpointConfig = ViewpointConfig()
    """How cameras are drawn."""
    min_valid_fraction: float = 0.7
    """Least fraction of a view's pixels with depth."""
    min_median_depth_m: float = 0.6
    """Views with a smaller median depth stare at something close. Not in official mode."""
    min_contrast: float = 8.0
    """Least standard deviation of a view's luminance, of 255; below it is almost blank. Not in
    official mode."""
    tries_per_first_view: int = 100
    """Second viewpoints tried before another first one is drawn."""
    max_tries: int = 2000
    """Proposals before a pair is given up, to a whole batch."""

    def __post_init__(self) -> None:
        if min(self.image_size) < 16:
            raise CrossviewError(f"image_size: expected at least 16 pixels, got {self.image_size}")
        if not 1 <= self.hfov_deg <= 170:
            raise CrossviewError(f"hfov_deg: expected 1 to 170, got {self.hfov_deg}")
        if not 0 < self.min_valid_fraction <= 1:
            raise CrossviewError(
                f"min_valid_fraction: expected above 0, at most 1, got {self.min_valid_fraction}"
            )
        if self.tries_per_first_view < 1 or self.max_tries < 1:
            raise CrossviewError("tries_per_first_view and max_tries: expected at least 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two rendered views of one scene that satisfy the band."""

    view1: View
    view2: View
    covisibility: Covisibility


@dataclass
class Ledger:
    """Counts what became of every proposal, and where the time went."""

    accepted: int = 0
    """Pairs kept."""
    rejections: Counter[str] = field(default_factory=Counter)
    """Reason -> proposals."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Stage -> seconds."""
    num_renders: int = 0
    """Views rendered at full resolution."""

    @property
    def attempts(self) -> int:
        """Proposals judged: first views that were no good, and pairs."""
        return self.accepted + self.rejections.total()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


PROBE_SIZE = 24
"""Width of the grid of rays that judges a proposal: its co-visibility has a standard error of
about 0.01 (measured against full renders)."""
OFFICIAL_PROBE_MARGIN = 0.15
"""How far below the band an estimate of the published number is still worth a render: rays do not
find neighbours beyond the image's border, which that number counts."""
BATCH = 8
"""Second viewpoints drawn at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedScene:
    """A scene with everything that is built once for all of its pairs."""

    scene_id: str
    num_faces: int
    caster: RayCaster
    """Judges proposals, whatever renders."""
    probe: EmbreeRenderer
    """Renders the few pixels by which a proposal is judged."""
    renderer: Renderer
    """Renders what is kept."""
    sampler: ViewpointSampler

    @classmethod
    def prepare(cls, scene: Scene, config: PairConfig, *, supersampling: int = 1) -> PreparedScene:
        """Build a scene's ray hierarchy, colours and floors.

        Raises SceneError where nobody can stand in it.
        """
        caster = RayCaster(scene)
        probe = EmbreeRenderer(scene, caster=caster)
        sampler = ViewpointSampler(
            scene,
            caster,
            config.viewpoints,
            hfov_deg=config.hfov_deg,
            image_size=config.image_size,
        )
        return cls(
            scene_id=scene.scene_id,
            num_faces=scene.num_faces,
            caster=caster,
            probe=probe,
            renderer=probe.supersampled(supersampling),
            sampler=sampler,
        )


class PairFinder:
    """Finds the pairs of one scene. Pair i is a function of (scene, config, seed, i) alone."""

    def __init__(
        self,
        scene: PreparedScene,
        config: PairConfig,
        *,
        seed: int,
    ) -> None:
        """Start a ledger of its own; everything dear is in the prepared scene."""
        self.ledger = Ledger()
        self._config = config
        self._scene = scene
        self._seed = (seed, *_digest_words(scene.scene_id))

    def find(self, index: int) -> Pair | None:
        """Find pair number index, or None where max_tries proposals gave none."""
        rng = np.random.default_rng([*self._seed, index])
        last_attempt = self.ledger.attempts + self._config.max_tries
        while self.ledger.attempts < last_attempt:
            with self.ledger.stage("proposals"):
                camera1 = self._scene.sampler.first(rng)
                probe1 = self._scene.probe.render(_probe_camera(camera1))
            reason = self._view_flaw(probe1)
            if reason:
                self.ledger.rejections[f"first view {reason}"] += 1
                continue
            pair = self._find_second(camera1, probe1, rng, last_attempt)
            if pair:
                self.ledger.accepted += 1
                return pair
        return None

    def _find_second(
        self, camera1: Camera, probe1: View, rng: np.random.Generator, last_attempt: int
    ) -> Pair | None:
        points1 = surface_points(probe1.camera, probe1.depth_m)
        target = points1.mean(axis=0)
        view1: View | None = None
        tries = 0
        while tries < self._config.tries_per_first_view and self.ledger.attempts < last_attempt:
            with self.ledger.stage("proposals"):
                cameras2 = self._scene.sampler.second(camera1, target, BATCH, rng)
            for camera2 in cameras2:
                tries += 1
                with self.ledger.stage("proposals"):
                    reason = self._probe_flaw(probe1, points1, camera2)
                if reason:
                    self.ledger.rejections[reason] += 1
                    continue
                view1 = view1 or self._render(camera1)
                reason = self._view_flaw(view1)
                if reason:
                    self.ledger.rejections[f"first view {reason}"] += 1
                    return None
                view2 = self._render(camera2)
                reason = self._view_flaw(view2)
                if reason:
                    self.ledger.rejections[f"second view {reason}"] += 1
                    continue
                with self.ledger.stage("covisibility"):
                    covisibility = self._config.overlap.measure(view1, view2)
                if covisibility:
                    return Pair(view1=view1, view2=view2, covisibility=covisibility)
                self.ledger.rejections["overlap outside the band at full resolution"] += 1
        return None

    def _render(self, camera: Camera) -> View:
        self.ledger.num_renders += 1
        with self.ledger.stage("renders"):
            return self._scene.renderer.render(camera)

    def _probe_flaw(self, probe1: View, points1: Float64, camera2: Camera) -> str | None:
        """Judge a second viewpoint with few rays; the reason against it, or None."""
        band = self._config.overlap
        probe_camera2 = _probe_camera(camera2)
        margin = OFFICIAL_PROBE_MARGIN if band.official else 0.0
        forward = self._estimate(points1, probe1.camera, probe_camera2)
        if forward < band.low - margin:
            return "overlap too low"
        depth2_m = self._scene.probe.depth(probe_camera2)
        flaw = self._depth_flaw(depth2_m)
        if flaw:
            return f"second view {flaw}"
        points2 = surface_points(probe_camera2, depth2_m)
        number = min(forward, self._estimate(points2, probe_camera2, probe1.camera))
        if number < band.low - margin:
            return "overlap too low"
        if number > band.high:
            return "overlap too high"
        return None

    def _estimate(self, points_a: Float64, camera_a: Camera, camera_b: Camera) -> float:
        if self._config.overlap.official:
            num_pixels = camera_a.image_size[0] * camera_a.image_size[1]
            return estimate_official_a_in_b(self._scene.caster, points_a, num_pixels, camera_b)
        return estimate_a_in_b(self._scene.caster, points_a, camera_b)

    def _view_flaw(self, view: View) -> str | None:
        """Return what is wrong with a view, or None."""
        flaw = self._depth_flaw(view.depth_m)
        if flaw or self._config.overlap.official:
            return flaw
        luminance = _thinned(view.color).mean(axis=2, dtype=np.float32)
        return "almost blank" if luminance.std() < self._config.min_contrast else None

    def _depth_flaw(self, depth_m: Float32) -> str | None:
        """Return what is wrong with a view's depth, or None."""
        config = self._config
        if np.count_nonzero(depth_m) < config.min_valid_fraction * depth_m.size:
            return "with too little depth"
        if config.overlap.official:
            return None
        thinned = _thinned(depth_m)
        is_close = np.median(thinned[thinned > 0]) < config.min_median_depth_m
        return "too close" if is_close else None


def pair_record(pair: Pair, scene_id: str, renderer: str, hfov_deg: float) -> dict[str, Any]:
    """Return a pair's meta.json."""
    camera1, camera2 = pair.view1.camera, pair.view2.camera
    return {
        "scene": scene_id,
        "renderer": renderer,
        "image_size": list(camera1.image_size),
        "hfov_deg": hfov_deg,
        "intrinsics": camera1.intrinsics.tolist(),
        "world_from_camera1": camera1.world_from_camera.tolist(),
        "world_from_camera2": camera2.world_from_camera.tolist(),
        "covisibility": pair.covisibility.covisibility,
        "covisibility_1_in_2": pair.covisibility.covisibility_1_in_2,
        "covisibility_2_in_1": pair.covisibility.covisibility_2_in_1,
        "covisibility_official": pair.covisibility.covisibility_official,
    }


def _thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Return about 64 x 64 of an image's pixels: statistics need no more."""
    stride = max(1, image.shape[0] // 64)
    return image[::stride, ::stride]


def _probe_camera(camera: Camera) -> Camera:
    height, width = camera.image_size
    return camera.resized((PROBE_SIZE, max(8, round(PROBE_SIZE * width / height))))


def _digest_words(text: str) -> tuple[int, int]:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
