"""One unit of generation: some pairs of one scene become one shard and a report."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.pairs import Pair, PairConfig, PairFinder, PreparedScene, pair_record
from generation.scenes.sources import SceneSource
from generation.shards.files import write_text_whole
from generation.shards.images import encode_depth_png, encode_jpeg
from generation.shards.schema import DEPTHS, META, VIEWS, ShardError, Sidecar, sidecar_path
from generation.shards.writer import file_sha256, write_tar

GENERATION_VERSION = 1
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
        if self.pairs_per_shard < 1:
            raise CrossviewError(
                f"pairs_per_shard: expected at least 1, got {self.pairs_per_shard}"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise CrossviewError(f"jpeg_quality: expected 1 to 100, got {self.jpeg_quality}")


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
    supersampling: int
    """Rays along each side of a pixel."""
    out: str
    """The dataset's folder."""

    @property
    def shard_path(self) -> Path:
        """Where the task's tar goes."""
        return Path(self.out) / f"{self.scene.scene_id}-{self.first_index:06d}.tar"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the shard's bytes, as plain values; kept in its sidecar."""
        plain = {"generation_version": GENERATION_VERSION, **asdict(self)}
        del plain["out"]
        plain["scene"]["path"] = Path(self.scene.path).name  # files may move as a whole
        identity: dict[str, Any] = json.loads(json.dumps(plain))
        return identity

    def finished(self, *, verify: bool = False) -> Sidecar | None:
        """Return the sidecar of an earlier run of this very task, or None.

        verify: also read the shard and compare its SHA-256.
        """
        path = sidecar_path(self.shard_path)
        if not path.exists():
            return None
        try:
            sidecar = Sidecar.read(path)
        except ShardError:
            return None  # damaged: the task is done again
        if sidecar.task != self.identity:
            return None
        if sidecar.entry and (
            not self.shard_path.exists()
            or self.shard_path.stat().st_size != sidecar.entry.size_bytes
        ):
            return None
        if verify and sidecar.entry and file_sha256(self.shard_path) != sidecar.entry.sha256:
            return None
        return sidecar


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a worker says of a finished task; a few hundred bytes, no images."""

    scene_id: str
    count: int
    """Pairs written."""
    attempts: int
    rejections: dict[str, int]
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


def render_shard(task: RenderTask) -> ShardReport:
    """Find and render a task's pairs; write its shard, then its sidecar.

    The shard's bytes depend on the task and the versions alone. Raises SceneError where the scene
    is no good; nothing is left half-written then.
    """
    start = time.perf_counter()
    prepared = _prepare(task.scene, task.scene_digest, task.pairs, task.supersampling)
    prepare_seconds = time.perf_counter() - start
    finder = PairFinder(prepared, task.pairs, seed=task.seed)
    # First of all the old sidecar goes: it must never stand beside another run's tar.
    sidecar_path(task.shard_path).unlink(missing_ok=True)
    misses: list[int] = []
    with finder.ledger.stage("total"):
        written = write_tar(
            task.shard_path, task.scene.scene_id, _samples(task, finder, prepared, misses)
        )
        entry, places = written or (None, {})
        ledger = finder.ledger
        shortfall = ""
        if misses:
            reasons = ", ".join(f"{n} {reason}" for reason, n in ledger.rejections.most_common(3))
            shortfall = (
                f"{ledger.accepted} of {task.count} pairs after {ledger.attempts} proposals "
                f"({reasons})"
            )
        sidecar = Sidecar(
            entry=entry,
            task=task.identity,
            samples=places,
            attempts=ledger.attempts,
            rejections=dict(sorted(ledger.rejections.items())),
            shortfall=shortfall,
        )
        write_text_whole(sidecar_path(task.shard_path), sidecar.to_json())
    return ShardReport(
        scene_id=task.scene.scene_id,
        count=ledger.accepted,
        attempts=ledger.attempts,
        rejections=dict(ledger.rejections),
        shortfall=shortfall,
        num_faces=prepared.num_faces,
        num_renders=ledger.num_renders,
        seconds={**ledger.seconds, "prepare": prepare_seconds},
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _samples(
    task: RenderTask, finder: PairFinder, prepared: PreparedScene, misses: list[int]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the task's samples; notes the pairs that were not found in misses."""
    misses_in_a_row = 0
    for index in range(task.first_index, task.first_index + task.count):
        pair = finder.find(index)
        if pair is None:
            misses.append(index)
            misses_in_a_row += 1
            if misses_in_a_row == MAX_MISSES:
                return
            continue
        misses_in_a_row = 0
        with finder.ledger.stage("encoding"):
            members = _encode(pair, task, prepared.renderer.name)
        yield f"{task.scene.scene_id}-{index:06d}", members


def _encode(pair: Pair, task: RenderTask, renderer: str) -> dict[str, bytes]:
    views = (pair.view1, pair.view2)
    record = pair_record(pair, task.scene.scene_id, renderer, task.pairs.hfov_deg)
    members = {META: json.dumps(record).encode()}
    for view, name in zip(views, VIEWS):
        members[name] = encode_jpeg(view.color, task.shards.jpeg_quality)
    if task.shards.depth:
        for view, name in zip(views, DEPTHS):
            members[name] = encode_depth_png(view.depth_m)
    return members


@lru_cache(maxsize=1)
def _prepare(
    source: SceneSource, digest: str, pairs: PairConfig, supersampling: int
) -> PreparedScene:
    """Load a scene and build what its pairs need; a worker keeps the last, while it is the same."""
    return PreparedScene.prepare(source.load(), pairs, supersampling=supersampling)
