"""Pairs that were recorded before: their poses, and how much their views saw of each other."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from generation.errors import CrossviewError
from generation.geometry import Float64
from generation.locations import location
from generation.scenes.digest import scene_digest
from generation.scenes.mesh_files import MESH_ENDINGS
from generation.scenes.sets import CONFIG_ENDINGS, scene_names
from generation.scenes.sources import SceneSource
from generation.shards.reader import ShardIndex, ShardReader, read_each
from generation.shards.schema import META, Sidecar, sidecar_path

NUMBERS = ("covisibility", "covisibility_official")
"""What meta.json says of a pair's overlap."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedPairs:
    """Pairs of one scene, in one piece."""

    name: str
    """Of the shard that they become, without its ending."""
    scene: SceneSource | None
    """The scene; None where it was not found."""
    scene_id: str
    """Its id, found or not."""
    label: str
    """What the record calls the scene."""
    missing: str = ""
    """Why the scene was not found; empty where it was."""
    scene_digest: str = ""
    """Of the scene's files, where that was recorded."""
    keys: tuple[str, ...]
    """The pairs' names."""
    world_from_cameras: Float64
    """(N, 2, 4, 4) poses of both views of each pair, OpenCV axes, metres."""
    covisibility: Mapping[str, Float64]
    """Name in meta.json -> (N,) number, 0 to 1, of each pair."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    hfov_deg: float
    """Horizontal field of view, degrees."""

    def digest(self) -> str:
        """Return a digest of the pairs' names and poses."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        digest.update(self.world_from_cameras.astype("<f8").tobytes())
        return digest.hexdigest()


def read_dataset(
    index: ShardIndex, roots: Sequence[Path], known: Sequence[SceneSource]
) -> Iterator[RecordedPairs]:
    """Yield the pairs of one of our own datasets, a shard at a time.

    Scenes are sought below the roots by the name of their file, else among known ones. Raises
    ShardError where a shard is damaged, CrossviewError where it is not of this version.
    """
    pieces = list(_read_pieces(index))
    scenes = {piece.scene_id: piece for piece in pieces}
    sharing = Counter(scene.label for scene in scenes.values())
    files_below = cache(_files_by_name)
    found = {
        name: _find(piece, sharing[piece.label] == 1, roots, known, files_below)
        for name, piece in scenes.items()
    }
    for piece in pieces:
        source, missing = found[piece.scene_id]
        yield replace(piece, scene=source, missing=missing)


def _read_pieces(index: ShardIndex) -> Iterator[RecordedPairs]:
    """Yield the pairs of every shard, with their scenes as they were recorded."""
    reader = ShardReader(index)
    for number, entry in enumerate(index.shards):
        task = Sidecar.read(sidecar_path(index.folder / entry.name)).task
        read = partial(reader.read, number, endings=(META,))
        samples = list(read_each(read, range(entry.count)))
        try:
            scene = SceneSource(**task["scene"])
            metas = [json.loads(data) for _, (data,) in samples]
            height, width = metas[0]["image_size"]
            piece = RecordedPairs(
                name=Path(entry.name).stem,
                scene=scene,
                scene_id=entry.scene,
                label=scene.path or entry.scene,
                scene_digest=task["scene_digest"],
                keys=tuple(key for key, _ in samples),
                world_from_cameras=np.array([_poses(meta) for meta in metas], float),
                covisibility={
                    name: np.array([meta[name] for meta in metas], float) for name in NUMBERS
                },
                image_size=(height, width),
                hfov_deg=metas[0]["hfov_deg"],
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise CrossviewError(
                f"{index.folder / entry.name}: not pairs of this version ({error!r}); "
                "`crossview verify` says more"
            ) from error
        yield piece


def _poses(meta: dict[str, Any]) -> list[Any]:
    return [meta["world_from_camera1"], meta["world_from_camera2"]]


def _files_by_name(root: Path) -> dict[str, list[Path]]:
    """Return the files of scenes below a folder, by name."""
    files: dict[str, list[Path]] = {}
    for file in root.rglob("*"):
        if file.name.lower().endswith((*MESH_ENDINGS, *CONFIG_ENDINGS)):
            files.setdefault(file.name, []).append(file)
    return files


def _find(
    piece: RecordedPairs,
    alone: bool,
    roots: Sequence[Path],
    known: Sequence[SceneSource],
    files_below: Callable[[Path], Mapping[str, Sequence[Path]]],
) -> tuple[SceneSource | None, str]:
    """Return a recorded scene with its file's path, or None and the reason.

    It is the file of its name with the recorded digest, right in a root or anywhere below; where
    none has that, the one with its id. One that is neither is taken if it is the only one and no
    other recorded scene has a file of this name (alone): an edited scan, rather than another one.
    """
    scene = piece.scene
    assert scene is not None
    if scene.is_generated:
        return scene, ""

    direct = [replace(scene, path=str(root / scene.path)) for root in roots]
    for place in direct:
        if Path(place.path).is_file() and scene_digest(place) == piece.scene_digest:
            return place, ""
    below = dict.fromkeys(
        file.absolute() for root in roots for file in files_below(root).get(scene.path, ())
    )
    names = scene_names(below)
    places = [replace(scene, path=str(file)) for file in below]
    same = [place for place in places if scene_digest(place) == piece.scene_digest]
    by_id = [place for place in places if names[Path(place.path)] == scene.scene_id]
    for place in same or by_id or places[: alone and len(places) == 1]:
        return place, ""
    same_file = [source for source in known if Path(source.path).name == scene.path]
    same_id = [source for source in same_file if source.scene_id == scene.scene_id]
    for source in same_id or same_file[: alone and len(same_file) == 1]:
        if location(source.path).is_file():
            return replace(scene, path=source.path), ""
    if places:
        return None, f"{places[0].path} is another file than {scene.scene_id} was recorded from"
    return None, f"{scene.path} was not found; name the folder of the scenes with --root"
