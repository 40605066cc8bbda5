"""One unit of generation: some pairs of one scene become a shard, or one a level, and a report."""

from __future__ import annotations

import json
import resource
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.keep_last import keep_last
from generation.locations import location, size_of
from generation.overlap import OverlapBand
from generation.pairs import Ledger, Pair, PairConfig, PairFinder, PreparedScene, pair_record
from generation.plain import to_plain
from generation.scenes.digest import UNREADABLE, load_digested
from generation.scenes.sources import SceneSource
from generation.shards.images import encode_depth_png, encode_jpeg
from generation.shards.schema import DEPTHS, META, VIEWS, ShardError, Sidecar, sidecar_path
from generation.shards.verify import sidecar_flaws
from generation.shards.writer import ShardWriter, open_shard
from generation.versions import versions

GENERATION_VERSION = 3
"""To be raised when the same task gives other bytes: older shards are then made anew."""
MAX_MISSES = 3
"""A task gives up after this many pairs in a row that max_tries proposals did not find."""


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


@dataclass(frozen=True, kw_only=True)
class RenderTask:
    """Some pairs of one scene."""

    scene: SceneSource
    """The scene."""
    scene_digest: str
    """Of the scene's files, from scene_digest(); an edited scan makes another task."""
    first_index: int
    """Number of its first pair in the scene."""
    count: int
    """Pairs asked for."""
    seed: int
    """Of the whole run."""
    pairs: PairConfig
    """What a pair is."""
    shards: ShardConfig
    """How pairs are stored."""
    renderer: str
    """Who renders: a name of RENDERERS other than auto."""
    supersampling: int
    """Samples along each side of a pixel."""
    outputs: tuple[tuple[str, OverlapBand], ...]
    """Folder and band of each level; every pair's first view has a second one for all of them."""
    navmesh_digest: str = ""
    """Of what habitat-sim stands on, from navmesh_digest(); "" where others render."""

    @property
    def num_pairs(self) -> int:
        """Pairs asked for, of all levels."""
        return self.count * len(self.outputs)

    @property
    def name(self) -> str:
        """The shards' name, without its ending; one of the dataset's."""
        return f"{self.scene.scene_id}-{self.first_index:06d}"

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """Where the task's tars go, in the order of outputs."""
        return tuple(location(folder) / f"{self.name}.tar" for folder, _ in self.outputs)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the shards' bytes, as plain values; kept in their sidecars."""
        identity = {"generation_version": GENERATION_VERSION, **to_plain(self)}
        identity["outputs"] = [to_plain(band) for _, band in self.outputs]
        identity["scene"]["path"] = Path(self.scene.path).name  # files may move as a whole
        if not self.navmesh_digest:
            del identity["navmesh_digest"]
        return identity

    def finished(self, *, verify: bool = False) -> tuple[Sidecar, ...] | None:
        """Return the sidecars of an earlier run of this very task, or None.

        verify: also read the shards and compare them with all that their sidecars say.
        """
        sidecars = [finished_shard(path, self.identity, verify=verify) for path in self.shard_paths]
        complete = tuple(sidecar for sidecar in sidecars if sidecar)
        return complete if len(complete) == len(sidecars) else None


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
        size_bytes = size_of(shard_path) if sidecar.entry else 0
    except (ShardError, FileNotFoundError):
        return None  # none, or damaged: the task is done again
    digests = identity.keys() & {"scene_digest", "navmesh_digest"}
    if any(identity[name] == UNREADABLE for name in digests):
        identity = {**identity, **{name: sidecar.task.get(name) for name in digests}}
    if sidecar.task != identity:
        return None
    if sidecar.entry and size_bytes != sidecar.entry.size_bytes:
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
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds: 'prepare' loads the scene (0 where the worker had it), 'total' is the rest,
    from loaded scene to closed shard, and the others are parts of it."""
    peak_memory_bytes: int = 0
    """Of the worker's process so far."""
    device: str = ""
    """What really rendered."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package -> version, of those that decide bytes."""


def render_shards(task: RenderTask) -> ShardReport:
    """Find and render a task's pairs; write its shards, then their sidecars.

    The shards' bytes depend on the task and the versions alone. Raises SceneError where the scene
    is no good; nothing is left half-written then.
    """
    start = time.perf_counter()
    digests = (task.scene_digest, task.navmesh_digest)
    prepared = _prepare(task.scene, digests, task.pairs, task.renderer, task.supersampling)
    prepare_seconds = time.perf_counter() - start
    finder = PairFinder(
        prepared, task.pairs, seed=task.seed, bands=[band for _, band in task.outputs]
    )
    ledger = finder.ledger
    for path in task.shard_paths:
        remove_other_sidecar(path, task.identity, prepared.renderer.device)
    with ledger.stage("total"):
        with ExitStack() as stack:
            writers = [
                stack.enter_context(open_shard(path, task.scene.scene_id))
                for path in task.shard_paths
            ]
            missed = _write_samples(task, finder, prepared.renderer.name, writers)
        shortfall = _shortfall(task, ledger) if missed else ""
        for path, writer in zip(task.shard_paths, writers):
            sidecar = Sidecar(
                entry=writer.entry,
                task=task.identity,
                samples=writer.samples,
                attempts=writer.count + ledger.rejections.total(),
                rejections=dict(sorted(ledger.rejections.items())),
                device=prepared.renderer.device,
                shortfall=shortfall,
            )
            sidecar.write(path)
    return ShardReport(
        scene_id=task.scene.scene_id,
        count=ledger.accepted,
        attempts=ledger.attempts,
        shortfall=shortfall,
        num_faces=prepared.num_faces,
        num_renders=ledger.num_renders,
        seconds={**ledger.seconds, "prepare": prepare_seconds},
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device=prepared.renderer.device,
        versions=versions(),
    )


def _write_samples(
    task: RenderTask, finder: PairFinder, renderer: str, writers: list[ShardWriter]
) -> bool:
    """Write the task's pairs, one a writer; return whether any was not found."""
    misses = misses_in_a_row = 0
    for index in range(task.first_index, task.first_index + task.count):
        pairs = finder.find(index)
        if pairs is None:
            misses += 1
            misses_in_a_row += 1
            if misses_in_a_row == MAX_MISSES:
                break
            continue
        misses_in_a_row = 0
        for pair, writer in zip(pairs, writers):
            record = pair_record(pair, task.scene.scene_id, renderer, task.pairs.hfov_deg)
            with finder.ledger.stage("encoding"):
                members = encode_pair(pair, record, task.shards)
            writer.add(f"{task.scene.scene_id}-{index:06d}", members)
    return misses > 0


def _shortfall(task: RenderTask, ledger: Ledger) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in ledger.rejections.most_common(3))
    return (
        f"{ledger.accepted} of {task.num_pairs} pairs after {ledger.attempts} proposals ({reasons})"
    )


def encode_pair(pair: Pair, record: dict[str, Any], config: ShardConfig) -> dict[str, bytes]:
    """Return a sample's members, {ending: bytes}; record is its meta.json."""
    views = (pair.view1, pair.view2)
    members = {META: json.dumps(record).encode()}
    for view, name in zip(views, VIEWS):
        members[name] = encode_jpeg(view.color, config.jpeg_quality)
    if config.depth:
        for view, name in zip(views, DEPTHS):
            members[name] = encode_depth_png(view.depth_m)
    return members


@keep_last
def _prepare(
    source: SceneSource,
    digests: tuple[str, str],
    pairs: PairConfig,
    renderer: str,
    supersampling: int,
) -> PreparedScene:
    """Load a scene and build what its pairs need; a worker keeps the last, while it is the same."""
    scene = load_digested(source, *digests)
    return PreparedScene.prepare(
        scene, pairs, source=source, renderer=renderer, supersampling=supersampling
    )
