"""Find pairs of views whose co-visibility lies in a band.

Viewpoints are judged with a few hundred rays first; what survives is rendered, measured at full
resolution and judged again, so that what is kept always satisfies the band. Every proposal, a pair
of viewpoints judged for a band, ends accepted or rejected for a counted reason.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from generation.bounds import require
from generation.covisibility import Covisibility
from generation.geometry import Camera
from generation.overlap import OverlapBand
from generation.raycast import RayCaster
from generation.renderers.choice import KINDS, open_renderer
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.protocol import Renderer
from generation.renderers.supersampling import supersampled
from generation.scenes.scene import Scene, SceneError
from generation.scenes.sources import SceneSource
from generation.scenes.untrusted import unlikely_extent
from generation.view import View
from generation.view_proposals import FirstView, JudgedPath, SecondView, ViewLimits, ViewProposer
from generation.viewpoints import HasFloors, ViewpointConfig, ViewpointSampler, find_floors

MAX_HALVINGS = 6
"""Views judged on a camera path, beside its second one."""
OFFICIAL_SECOND_VIEWS = 100
"""Second views drawn for each first view by the published generator."""
OFFICIAL_MARGIN = 0.15
"""How far below the band an estimate of the published number is still worth a render: rays do not
find neighbours beyond the image's border, which that number counts."""


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
    views: ViewLimits = ViewLimits()
    """What each view must be like; views of official pairs, only their valid pixels."""
    second_views: int = 16
    """Second views drawn for each first view; official bands have 100. The more, the more pairs are
    as the published generator draws them; the others lie on paths towards them."""
    max_tries: int = 2000
    """Proposals before a pair is given up, to those of one first view."""

    def __post_init__(self) -> None:
        fits = min(self.image_size) >= 16
        require(fits, "image_size", self.image_size, "at least 16 pixels")
        require(1 <= self.hfov_deg <= 170, "hfov_deg", self.hfov_deg, "1 to 170")
        for name in ("second_views", "max_tries"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    @property
    def view_limits(self) -> ViewLimits:
        """What each view must be like, given the band."""
        if self.overlap.official:
            return replace(self.views, min_median_depth_m=0.0, min_contrast=0.0)
        return self.views


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


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedScene:
    """A scene with everything that is built once for all of its pairs."""

    scene_id: str
    num_faces: int
    proposer: ViewProposer
    """Draws and judges viewpoints."""
    renderer: Renderer
    """Renders what is kept."""
    warning: str
    """What is odd about the scene, and what to do; empty where nothing is."""

    @classmethod
    def prepare(
        cls,
        scene: Scene,
        config: PairConfig,
        *,
        source: SceneSource | None = None,
        renderer: str = "embree",
        supersampling: int = 1,
    ) -> PreparedScene:
        """Build a scene's ray hierarchy, find its floors, open its renderer.

        source: where the scene is from, for renderers that load scenes themselves. Raises
        SceneError where nobody can stand in it, or every view of it would be blank, RendererError
        where it cannot be rendered.
        """
        if config.view_limits.min_contrast > 0 and scene.is_of_one_color:
            raise SceneError(
                f"scene {scene.scene_id!r}: this mesh has neither texture nor vertex colours, so "
                "its views would be blank; export it with colours, or accept such views with "
                "--set pairs.views.min_contrast=0"
            )
        caster = RayCaster(scene)
        embree = EmbreeRenderer(scene, caster=caster)
        opened = embree if renderer == embree.name else open_renderer(renderer, scene, source)
        if KINDS[renderer].has_floors:
            assert isinstance(opened, HasFloors)
            floors = opened.floors(config.viewpoints.floor.step_m)
        else:
            floors = find_floors(scene, caster, config.viewpoints)
        sampler = ViewpointSampler(
            floors, config.viewpoints, hfov_deg=config.hfov_deg, image_size=config.image_size
        )
        return cls(
            scene_id=scene.scene_id,
            num_faces=scene.num_faces,
            proposer=ViewProposer(caster, embree, sampler, config.view_limits),
            renderer=supersampled(opened, supersampling),
            warning=unlikely_extent(scene),
        )


class PairFinder:
    """Finds the pairs of one scene. Pair i is a function of (scene, config, seed, i) alone."""

    def __init__(
        self,
        scene: PreparedScene,
        config: PairConfig,
        *,
        seed: int,
        bands: Sequence[OverlapBand],
    ) -> None:
        """Start a ledger of its own; everything dear is in the prepared scene.

        bands: levels that each first view must have a second one for.
        """
        self.ledger = Ledger()
        self._config = config
        self._limits = config.view_limits
        self._scene = scene
        self._seed = (seed, *_digest_words(scene.scene_id))
        self._bands = tuple(bands)

    def find(self, index: int) -> tuple[Pair, ...] | None:
        """Find pair number index of every band, all of one first view.

        None where max_tries proposals gave none.
        """
        rng = np.random.default_rng([*self._seed, index])
        bands = [band.drawn(rng) for band in self._bands]
        last_attempt = self.ledger.attempts + self._config.max_tries * len(bands)
        while self.ledger.attempts < last_attempt:
            with self.ledger.stage("proposals"):
                first = self._scene.proposer.first(rng)
            if first.flaw:
                self._reject(f"first view {first.flaw}")
                continue
            pairs = self._find_seconds(first, bands, rng)
            if pairs:
                self.ledger.accepted += len(pairs)
                return pairs
        return None

    def _find_seconds(
        self, first: FirstView, bands: list[OverlapBand], rng: np.random.Generator
    ) -> tuple[Pair, ...] | None:
        """Return a pair of this first view for every band, or None and every reason why not."""
        official = any(band.official for band in bands)
        num_paths = OFFICIAL_SECOND_VIEWS if official else self._config.second_views
        with self.ledger.stage("proposals"):
            paths = self._scene.proposer.paths(first, num_paths, rng)
        candidates = [self._candidates(first, paths, band) for band in bands]
        found: dict[int, Pair] = {}
        view1: View | None = None
        while len(found) < len(bands):
            missing = [number for number in range(len(bands)) if number not in found]
            with self.ledger.stage("proposals"):
                cameras2 = [next(candidates[number], None) for number in missing]
            proposed = [camera for camera in cameras2 if camera]
            if len(proposed) < len(missing):  # a level that this first view does not have
                self._reject("no pair at another level of overlap", len(proposed) + len(found))
                return None
            views = self._render(proposed if view1 else [first.camera, *proposed])
            view1 = view1 or views.pop(0)
            flaw = self._limits.flaw_of(view1)
            if flaw:
                self._reject(f"first view {flaw}", len(proposed))
                return None
            for number, view2 in zip(missing, views):
                pair = self._confirmed(view1, view2, bands[number])
                if pair:
                    found[number] = pair
        return tuple(found[number] for number in range(len(bands)))

    def _candidates(
        self, first: FirstView, paths: list[JudgedPath], band: OverlapBand
    ) -> Iterator[Camera]:
        """Yield cameras whose estimated co-visibility lies in a band: second views, then others."""
        undershot: list[bool | None] = []
        for path in paths:
            second, too_low = self._judged(first, path, 1.0, band)
            undershot.append(too_low)
            if second:
                yield second.camera
        if band.official:
            return
        for path, too_low in zip(paths, undershot):
            if too_low is None:
                continue
            near, far = (0.0, 1.0) if too_low else (1.0, 2.0)
            for _ in range(MAX_HALVINGS):
                progress = (near + far) / 2
                second, too_low = self._judged(first, path, progress, band)
                if too_low is None:
                    if second:
                        yield second.camera
                    break
                near, far = (near, progress) if too_low else (progress, far)

    def _judged(
        self, first: FirstView, path: JudgedPath, progress: float, band: OverlapBand
    ) -> tuple[SecondView | None, bool | None]:
        """Return the view at a progress where it will do, and whether it sees too little.

        The latter is None where the view is in the band, or flawed.
        """
        least = band.low - (OFFICIAL_MARGIN if band.official else 0.0)
        second = self._scene.proposer.second(
            first, path, progress, low=least, official=band.official
        )
        if second.backward is None or min(second.forward, second.backward) < least:
            self._reject("overlap too low")
            return None, True
        if min(second.forward, second.backward) > band.high:
            self._reject("overlap too high")
            return None, False
        if second.flaw:
            self._reject(f"second view {second.flaw}")
            return None, None
        return second, None

    def _confirmed(self, view1: View, view2: View, band: OverlapBand) -> Pair | None:
        """Return the pair of two rendered views where it satisfies the band."""
        flaw = self._limits.flaw_of(view2)
        if flaw:
            self._reject(f"second view {flaw}")
            return None
        with self.ledger.stage("covisibility"):
            covisibility = band.measure(view1, view2)
        if covisibility is None:
            self._reject("overlap outside the band at full resolution")
            return None
        return Pair(view1=view1, view2=view2, covisibility=covisibility)

    def _render(self, cameras: list[Camera]) -> list[View]:
        self.ledger.num_renders += len(cameras)
        with self.ledger.stage("renders"):
            return list(self._scene.renderer.render_each(cameras))

    def _reject(self, reason: str, count: int = 1) -> None:
        if count:
            self.ledger.rejections[reason] += count


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


def _digest_words(text: str) -> tuple[int, int]:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
