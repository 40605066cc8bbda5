"""Render a dataset of pairs: plan tasks, run what is missing, collect the index."""

from __future__ import annotations

import fcntl
import json
import logging
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.pairs import PairConfig
from generation.plain import diff_plain, to_plain
from generation.scenes.digest import scene_digest
from generation.scenes.sources import SceneSource, resolve_scenes
from generation.shards.files import write_text_whole
from generation.shards.reader import ShardIndex
from generation.shards.schema import SCHEMA_VERSION, ShardEntry, ShardError, Sidecar, read_json
from generation.task import RenderTask, ShardConfig, ShardReport, render_shard
from pipelines.executors import Executor
from pipelines.progress import Progress
from pipelines.tables import format_table

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
VERSIONED = ("crossview", "numpy", "embreex", "numba", "scipy", "simplejpeg", "trimesh", "pillow")


@dataclass(frozen=True, kw_only=True)
class RenderPairsConfig:
    """A whole dataset of pairs."""

    scenes: tuple[str, ...]
    """Mesh files, folders, globs, or procedural:FIRST-LAST."""
    up: str = "y"
    """Up axis of meshes without a stage configuration: x, y, z, -x, -y or -z."""
    num_pairs: int | None = None
    """Pairs in all, dealt evenly to the scenes; or give pairs_per_scene."""
    pairs_per_scene: int | None = None
    """Pairs of each scene; or give num_pairs. 1000 where neither is given."""
    seed: int = 0
    """Same seed, same pairs."""
    pairs: PairConfig = PairConfig()
    """What a pair is."""
    shards: ShardConfig = ShardConfig()
    """How pairs are stored."""
    supersampling: int = 1
    """Rays along each side of a pixel; colour is their mean."""

    def __post_init__(self) -> None:
        for name in ("num_pairs", "pairs_per_scene"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CrossviewError(f"{name}: expected at least 1, got {value}")
        if self.num_pairs is not None and self.pairs_per_scene is not None:
            raise CrossviewError("num_pairs and pairs_per_scene: give one of them, not both")
        if not 1 <= self.supersampling <= 8:
            raise CrossviewError(f"supersampling: expected 1 to 8, got {self.supersampling}")
        if self.seed < 0:
            raise CrossviewError(f"seed: expected 0 or more, got {self.seed}")

    def pairs_of_scene(self, scene: int, num_scenes: int) -> int:
        """Return how many pairs scene number `scene` is asked for."""
        if self.num_pairs is None:
            return self.pairs_per_scene or 1000
        return self.num_pairs // num_scenes + (scene < self.num_pairs % num_scenes)

    def recipe(self) -> dict[str, Any]:
        """Return what decides a pair's bytes, as plain values; the rest may grow or shrink."""
        plain = to_plain(self)
        return {key: plain[key] for key in ("up", "seed", "pairs", "shards", "supersampling")}


@dataclass
class SceneSummary:
    """What became of one scene."""

    asked: int = 0
    accepted: int = 0
    attempts: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RenderResult:
    """What a run did."""

    index: ShardIndex
    summaries: dict[str, SceneSummary]
    rejections: Counter[str]
    reports: list[ShardReport]
    """Of the tasks that this run did, not of those that were done before."""

    @property
    def failures(self) -> list[str]:
        """One line for each scene that failed."""
        return [
            f"{scene}: {reason}"
            for scene, summary in self.summaries.items()
            for reason in dict.fromkeys(summary.failures)
        ]


def plan_tasks(config: RenderPairsConfig, out: Path) -> list[RenderTask]:
    """Cut a dataset into tasks, one shard each; the same for any executor."""
    sources = resolve_scenes(list(config.scenes), up=config.up)
    return [
        task
        for position, source in enumerate(sources)
        for task in _tasks_of_scene(
            config, source, config.pairs_of_scene(position, len(sources)), out
        )
    ]


def _tasks_of_scene(
    config: RenderPairsConfig, source: SceneSource, num_pairs: int, out: Path
) -> list[RenderTask]:
    step = config.shards.pairs_per_shard
    digest = scene_digest(source)
    if source.path:  # a worker may stand in another folder
        source = replace(source, path=str(Path(source.path).resolve()))
    return [
        RenderTask(
            scene=source,
            scene_digest=digest,
            first_index=first,
            count=min(step, num_pairs - first),
            seed=config.seed,
            pairs=config.pairs,
            shards=config.shards,
            supersampling=config.supersampling,
            out=str(out.resolve()),
        )
        for first in range(0, num_pairs, step)
    ]


def render_pairs(
    config: RenderPairsConfig, out: Path, executor: Executor, *, verify: bool = False
) -> RenderResult:
    """Make the dataset in a folder; what an earlier run of the same configuration made stays.

    Scenes that fail are reported, the others finish. verify reads every shard that is there and
    makes those anew whose bytes are not what was written. Raises CrossviewError, before any work,
    where the scenes match nothing, the folder holds a dataset of another configuration, or another
    run is writing to it.
    """
    tasks = plan_tasks(config, out)
    with _claimed(config, out):
        return _render_missing(config, tasks, out, executor, verify)


def _render_missing(
    config: RenderPairsConfig,
    tasks: list[RenderTask],
    out: Path,
    executor: Executor,
    verify: bool,
) -> RenderResult:
    summaries: dict[str, SceneSummary] = {}
    for task in tasks:
        summaries.setdefault(task.scene.scene_id, SceneSummary()).asked += task.count
    finished = {
        task.shard_path: sidecar for task in tasks if (sidecar := task.finished(verify=verify))
    }
    missing = [task for task in tasks if task.shard_path not in finished]
    num_missing = sum(task.count for task in missing)
    logger.info(
        "%d scenes, %d pairs in %d shards; %d pairs to render",
        len(summaries),
        sum(task.count for task in tasks),
        len(tasks),
        num_missing,
    )
    reports: list[ShardReport] = []
    with Progress(num_missing, "pairs") as progress:
        for outcome in executor.run(render_shard, missing):
            summary = summaries[outcome.task.scene.scene_id]
            if outcome.report is None:
                summary.failures.append(outcome.error or "no reason given")
            else:
                reports.append(outcome.report)
                summary.seconds += outcome.report.seconds["total"]
            progress.advance(outcome.task.count)
    for task in missing:
        if sidecar := task.finished():
            finished[task.shard_path] = sidecar
    return _collect(config, tasks, finished, summaries, reports, out)


def _collect(
    config: RenderPairsConfig,
    tasks: list[RenderTask],
    finished: dict[Path, Sidecar],
    summaries: dict[str, SceneSummary],
    reports: list[ShardReport],
    out: Path,
) -> RenderResult:
    """Write the index of all finished tasks, in the plan's order."""
    rejections: Counter[str] = Counter()
    entries: list[ShardEntry] = []
    for task in tasks:
        sidecar = finished.get(task.shard_path)
        if sidecar is None:
            continue
        summary = summaries[task.scene.scene_id]
        summary.attempts += sidecar.attempts
        rejections.update(sidecar.rejections)
        if sidecar.shortfall:
            summary.notes.append(sidecar.shortfall)
        if sidecar.entry:
            entries.append(sidecar.entry)
            summary.accepted += sidecar.entry.count
    for scene, summary in summaries.items():
        if summary.accepted == 0 and not summary.failures:
            summary.failures.append(f"no pair found: {'; '.join(summary.notes)}")
            logger.warning("scene %s gave no pair", scene)
    index = ShardIndex(folder=out, config=config.recipe(), shards=tuple(entries))
    index.write()
    unlisted = {p.name for p in out.glob("*.tar")} - {entry.name for entry in entries}
    if unlisted:
        logger.warning(
            "%d shards in %s are not part of this run and not in its index, for example %s",
            len(unlisted),
            out,
            min(unlisted),
        )
    return RenderResult(index=index, summaries=summaries, rejections=rejections, reports=reports)


def another_configuration(config: RenderPairsConfig, out: Path) -> list[str]:
    """Say, a line each, in what a folder's dataset differs from a configuration; empty: nothing."""
    path = out / CONFIG_NAME
    if path.exists():
        recorded = read_json(path, "the configuration of a dataset")["config"]
        expected = config.recipe()
        return diff_plain({key: recorded.get(key) for key in expected}, expected)
    if any(out.glob("*.tar")):
        return [f"its tar files are of something else (no {CONFIG_NAME})"]
    return []


@contextmanager
def _claimed(config: RenderPairsConfig, out: Path) -> Iterator[None]:
    """Hold a dataset's folder for one run; write the resolved configuration before any work."""
    different = another_configuration(config, out)
    if different:
        raise ShardError(
            f"{out} holds a dataset of another configuration; choose another --out, or remove the "
            "folder:\n  " + "\n  ".join(different)
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShardError(f"{out}: cannot make this output folder: {error}") from error
    with open(out / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process that ends lets it go
        except OSError as error:
            raise ShardError(f"{out}: another run is writing to this folder") from error
        for stale in out.glob(".*.partial"):
            stale.unlink()
        _write_config(config, out)
        yield


def _write_config(config: RenderPairsConfig, out: Path) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "config": to_plain(config),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in VERSIONED},
    }
    write_text_whole(out / CONFIG_NAME, json.dumps(document, indent=1) + "\n")


def summary_table(result: RenderResult) -> str:
    """Return the run's table of scenes, and its rejections by reason, as text."""
    rows: list[tuple[object, ...]] = [
        (
            scene,
            summary.asked,
            summary.accepted,
            summary.attempts,
            f"{summary.accepted / summary.attempts:.1%}" if summary.attempts else "-",
            f"{summary.accepted / summary.seconds:.1f}" if summary.seconds else "-",
            "failed" if summary.failures else "short" if summary.notes else "ok",
        )
        for scene, summary in result.summaries.items()
    ]
    asked, accepted, attempts = (
        sum(getattr(summary, name) for summary in result.summaries.values())
        for name in ("asked", "accepted", "attempts")
    )
    share = f"{accepted / attempts:.1%}" if attempts else "-"
    rows.append(("all", asked, accepted, attempts, share, "", ""))
    headers = ("scene", "asked", "pairs", "proposals", "accepted", "pairs/s", "state")
    reasons = [(reason, count) for reason, count in result.rejections.most_common()]
    text = format_table(rows, headers)
    if reasons:
        text += "\n\n" + format_table(reasons, ("rejected because", "proposals"))
    for scene, summary in result.summaries.items():
        for note in summary.notes[:1]:
            text += f"\nshort: {scene}: {note}"
    return text
