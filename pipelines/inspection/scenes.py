"""Some pairs of a scene, looked at: what each view sees of the other, and maps of the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from generation.errors import CrossviewError
from generation.geometry import Bool, Float32, UInt8
from generation.raycast import RayCaster
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.digest import scene_digest
from generation.scenes.scene import Scene, SceneError
from generation.scenes.sources import SceneSource
from generation.shards.cameras import cameras_of
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import (
    CONFIG_NAME,
    ShardEntry,
    Sidecar,
    sidecar_path,
)
from generation.view import View
from generation.visibility import seen_pixels
from pipelines.datasets.folder import scenes_of
from pipelines.datasets.pair_table import PairTable
from pipelines.inspection.scene_maps import (
    PlanDrawer,
    StoreyPlan,
    map_figure,
    plan_of_views,
    split_storeys,
)

MAX_MAPPED = 40
"""Pairs drawn on the maps of one scene."""


@dataclass(frozen=True, eq=False, kw_only=True)
class InspectedPair:
    """A pair as a page shows it."""

    row: int
    """In the table."""
    key: str
    record: dict[str, Any]
    """Its meta.json."""
    colors: tuple[UInt8, UInt8]
    """(H, W, 3) of both views."""
    depths_m: tuple[Float32, Float32] | None
    """(H, W) of both views; None where the shard has none and the scene cannot be loaded."""

    @property
    def views(self) -> tuple[View, View] | None:
        """Both views, where there is depth."""
        if self.depths_m is None:
            return None
        first, second = (
            View(camera=camera, color=color, depth_m=depth_m)
            for camera, color, depth_m in zip(
                cameras_of(self.record), self.colors, self.depths_m, strict=True
            )
        )
        return first, second

    @property
    def seen(self) -> tuple[Bool, Bool] | None:
        """(H, W) for each view, which pixels the other one sees; None where there is no depth."""
        if self.views is None:
            return None
        view1, view2 = self.views
        return seen_pixels(view1, view2), seen_pixels(view2, view1)


@dataclass(frozen=True, eq=False, kw_only=True)
class InspectedScene:
    """Some pairs of a scene, and where their cameras stand."""

    name: str
    pairs: list[InspectedPair]
    maps: list[Figure]
    """One a storey that the pairs' first cameras stand on."""
    note: str
    """Why its mesh was not drawn; empty where it was."""


class RecordedScenes:
    """The scenes that a dataset's folder names, where they are still what they were."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._known: dict[str, SceneSource] = {}
        self._problem = ""
        try:
            self._known = {source.scene_id: source for source in scenes_of(index.folder)}
        except CrossviewError as error:
            self._problem = str(error)

    def load(self, name: str) -> Scene:
        """Load a scene. Raises SceneError where it is not found, or was changed since."""
        entry = next(entry for entry in self._index.shards if entry.scene == name)
        source, digest = self._recorded(entry)
        if not source.is_generated:  # only the file's name is recorded there
            known = self._known.get(name)
            if known is None or Path(known.path).name != source.path:
                raise SceneError(
                    self._problem
                    or f"{source.path} was not found among the scenes that {CONFIG_NAME} names"
                )
            source = replace(source, path=known.path)
        if scene_digest(source) != digest:
            raise SceneError(f"{source.path} is not what it was when its pairs were made")
        return source.load()

    def _recorded(self, entry: ShardEntry) -> tuple[SceneSource, str]:
        path = sidecar_path(self._index.folder / entry.name)
        task = Sidecar.read(path).task
        try:
            return SceneSource(**task["scene"]), str(task["scene_digest"])
        except (KeyError, TypeError) as error:
            raise SceneError(f"{path}: it names no scene ({error!r})") from error


def inspect_scene(
    table: PairTable, rows: NDArray[np.int64], scenes: RecordedScenes
) -> InspectedScene:
    """Look at some pairs of one scene, given by their rows in the table.

    Raises ShardError where a shard is not what the index lists.
    """
    name = table.index.scenes[int(table.scenes[rows[0]])]
    note = ""
    drawer = renderer = None
    try:
        scene = scenes.load(name)
        caster = RayCaster(scene)
        drawer = PlanDrawer(scene, caster)
        renderer = EmbreeRenderer(scene, caster=caster)
    except SceneError as error:
        note = str(error)
    reader = ShardReader(table.index)
    pairs = [_read_pair(reader, table, int(row), renderer) for row in rows]
    every = max(1, -(-len(pairs) // MAX_MAPPED))
    return InspectedScene(
        name=name, pairs=pairs, maps=_maps(table, pairs[::every], drawer), note=note
    )


def _read_pair(
    reader: ShardReader, table: PairTable, row: int, renderer: EmbreeRenderer | None
) -> InspectedPair:
    position = int(table.positions[row])
    record = reader.record(position)
    depths_m = None
    if table.index.has_depth:
        depths_m = reader.depths(position)
    elif renderer:
        first, second = cameras_of(record)
        depths_m = renderer.depth(first), renderer.depth(second)
    return InspectedPair(
        row=row,
        key=reader.pair(position, ())[0],
        record=record,
        colors=reader.images(position),
        depths_m=depths_m,
    )


def _maps(
    table: PairTable, pairs: Sequence[InspectedPair], drawer: PlanDrawer | None
) -> list[Figure]:
    rows = np.array([pair.row for pair in pairs])
    maps = []
    for storey in split_storeys(table.centres[rows, 0, 1]):
        centres = table.centres[rows[storey]]
        views = [view for number in storey for view in pairs[number].views or ()]
        plan: StoreyPlan | None = None
        if drawer:
            plan = drawer.draw(centres.reshape(-1, 3))
        elif views:
            plan = plan_of_views(views, centres.reshape(-1, 3))
        hfov_deg = pairs[0].record["hfov_deg"]
        maps.append(map_figure(plan, centres, table.forwards[rows[storey]], hfov_deg))
    return maps
