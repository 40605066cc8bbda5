"""What tasks that leave shards have in common: how pairs are stored, what is finished, a report."""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.locations import size_of
from generation.pairs import Pair, pair_record
from generation.scenes.digest import UNREADABLE
from generation.shards.images import encode_depth_png, encode_jpeg
from generation.shards.schema import DEPTHS, META, VIEWS, ShardError, Sidecar, sidecar_path
from generation.shards.sidecar_flaws import sidecar_flaws
from generation.versions import versions

GENERATION_VERSION = 3
"""To be raised when the same task gives other bytes: older shards are then made anew."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How pairs are stored."""

    pairs_per_shard: int = 256
    """Most pairs in one tar; all of one scene."""
    jpeg_quality: int = 95
    """1 to 100, with 4:2:0 chroma."""
    depth: bool = False
    """Also store both depth maps."""

    def __post_init__(self) -> None:
        fits = self.pairs_per_shard >= 1
        require(fits, "pairs_per_shard", self.pairs_per_shard, "at least 1")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "1 to 100")


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a worker says of a finished task; a few hundred bytes, no images."""

    scene_id: str
    count: int
    """Pairs written, of all levels."""
    attempts: int
    shortfall: str
    """Why there are fewer pairs than asked for; empty where there are not."""
    num_faces: int
    """Triangles of the scene."""
    num_renders: int
    """Views rendered at full resolution."""
    seconds: dict[str, float]
    """Stage -> seconds: 'prepare' loads the scene (0 where the worker had it), 'total' is the rest,
    from loaded scene to closed shard, and the others are parts of it."""
    device: str
    """What really rendered."""
    warning: str = ""
    """What is odd about the scene, and what to do; empty where nothing is."""
    peak_memory_bytes: int = field(default_factory=_peak_memory_bytes)
    """Of the worker's process so far."""
    versions: dict[str, str] = field(default_factory=versions)
    """Package -> version, of those that decide bytes; the worker's."""


def finished_shard(
    shard_path: Path, identity: dict[str, Any], *, verify: bool = False
) -> Sidecar | None:
    """Return the sidecar of a shard that a task of this identity finished earlier, or None.

    Without its samples and task, which for millions of pairs would take gigabytes. verify: also
    read the shard and compare it with all that the sidecar says. A scene that cannot be read now is
    taken for the one it was: that is no sign that it was edited.
    """
    try:
        sidecar = Sidecar.read(sidecar_path(shard_path))
    except ShardError:
        return None  # none, or damaged: the task is done again
    digests = identity.keys() & {"scene_digest", "navmesh_digest"}
    if any(identity[name] == UNREADABLE for name in digests):
        identity = {**identity, **{name: sidecar.task.get(name) for name in digests}}
    if sidecar.task != identity:
        return None
    try:
        found = (shard_path.name, identity["scene"]["scene_id"], size_of(shard_path))
    except FileNotFoundError:
        found = None
    entry = sidecar.entry
    if found != (entry and (entry.name, entry.scene, entry.size_bytes)):
        return None
    if verify and sidecar_flaws(shard_path, sidecar):
        return None
    return replace(sidecar, samples={}, task={})


def remove_other_sidecar(shard_path: Path, identity: dict[str, Any], device: str) -> None:
    """Remove a shard's sidecar before another shard is written: they must never stand together.

    That of this very task and device stays: it says the same of the same bytes. Where two runs work
    in one bucket, the other may have finished the shard since this one looked.
    """
    path = sidecar_path(shard_path)
    try:
        sidecar = Sidecar.read(path)
        if (sidecar.task, sidecar.device) == (identity, device):
            return
    except ShardError:
        pass
    path.unlink(missing_ok=True)


def encode_pair(
    pair: Pair, scene_id: str, renderer: str, hfov_deg: float, config: ShardConfig
) -> dict[str, bytes]:
    """Return a sample's members, {ending: bytes}."""
    views = (pair.view1, pair.view2)
    members = {META: json.dumps(pair_record(pair, scene_id, renderer, hfov_deg)).encode()}
    for view, name in zip(views, VIEWS):
        members[name] = encode_jpeg(view.color, config.jpeg_quality)
    if config.depth:
        for view, name in zip(views, DEPTHS):
            members[name] = encode_depth_png(view.depth_m)
    return members
