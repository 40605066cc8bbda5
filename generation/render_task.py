"""One unit of generation: some pairs of one scene become a shard, or one a level, and a report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.keep_last import keep_last
from generation.locations import location
from generation.overlap import OverlapBand
from generation.pairs import Ledger, PairConfig, PairFinder, PreparedScene
from generation.plain import to_plain
from generation.scenes.digest import load_digested
from generation.scenes.sources import SceneSource
from generation.shard_task import (
    GENERATION_VERSION,
    ShardConfig,
    ShardReport,
    encode_pair,
    finished_shard,
    remove_other_sidecar,
)
from generation.shards.schema import Sidecar
from generation.shards.writer import ShardWriter, open_shard

MAX_MISSES = 3
"""A task gives up after this many pairs in a row that max_tries proposals did not find."""


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
        device=prepared.renderer.device,
        warning=prepared.warning,
    )


def _write_samples(
    task: RenderTask, finder: PairFinder, renderer: str, writers: list[ShardWriter]
) -> bool:
    """Write the task's pairs, one a writer; return whether any was not found."""
    scene_id = task.scene.scene_id
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
            with finder.ledger.stage("encoding"):
                members = encode_pair(pair, scene_id, renderer, task.pairs.hfov_deg, task.shards)
            writer.add(f"{scene_id}-{index:06d}", members)
    return misses > 0


def _shortfall(task: RenderTask, ledger: Ledger) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in ledger.rejections.most_common(3))
    return (
        f"{ledger.accepted} of {task.num_pairs} pairs after {ledger.attempts} proposals ({reasons})"
    )


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
