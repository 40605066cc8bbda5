"""Render a dataset of pairs, or one a level of overlap: plan, run what is missing, index."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.errors import CrossviewError
from generation.overlap import OverlapBand
from generation.pairs import PairConfig
from generation.plain import to_plain
from generation.render_task import RenderTask, render_shards
from generation.renderers.choice import KINDS, RENDERERS, chosen_renderer
from generation.scenes.asset_config import DEFAULT_UP
from generation.scenes.digest import navmesh_digest, scene_digest
from generation.scenes.sources import SceneSource, resolve_scenes, tell_of_assumed_up
from generation.shard_task import ShardConfig, ShardReport
from generation.shards.reader import ShardIndex
from generation.shards.schema import Sidecar
from pipelines.config import dump_yaml
from pipelines.datasets.card import write_card
from pipelines.datasets.folder import (
    claimed,
    other_configuration,
    require_continued,
    warn_of_unlisted,
    what_would_be_lost,
)
from pipelines.datasets.run_log import append_run
from pipelines.datasets.shard_tasks import Made, make_missing
from pipelines.executors.protocol import Executor
from pipelines.scene_sets import scene_sets
from pipelines.tables import format_table

logger = logging.getLogger(__name__)

DIGEST_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class RenderPairsConfig:
    """A whole dataset of pairs."""

    scenes: tuple[str, ...]
    """Mesh files, folders, globs, or procedural:FIRST-LAST."""
    up: str = DEFAULT_UP
    """Up axis of meshes without a stage configuration: x, y, z, -x, -y or -z."""
    num_pairs: int | None = None
    """Pairs in all, of each level where there are levels, dealt evenly to the scenes; or give
    pairs_per_scene."""
    pairs_per_scene: int | None = None
    """Pairs of each scene; or give num_pairs. 1000 where neither is given."""
    seed: int = 0
    """Same seed, same pairs."""
    pairs: PairConfig = PairConfig()
    """What a pair is."""
    levels: dict[str, OverlapBand] = field(default_factory=dict)
    """Name -> band: makes one dataset for each, in a folder of its name, in place of pairs.overlap.
    All have the same first views, and equally many pairs of every scene."""
    shards: ShardConfig = ShardConfig()
    """How pairs are stored."""
    renderer: str = "auto"
    """A name of RENDERERS; auto is gl on a GPU, else embree."""
    supersampling: int = 1
    """Samples along each side of a pixel; colour is their mean."""

    def __post_init__(self) -> None:
        for name in ("num_pairs", "pairs_per_scene"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        if self.num_pairs is not None and self.pairs_per_scene is not None:
            raise CrossviewError("num_pairs and pairs_per_scene: give one of them, not both")
        require(1 <= self.supersampling <= 8, "supersampling", self.supersampling, "1 to 8")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        known = f"one of {', '.join(RENDERERS)}"
        require(self.renderer in RENDERERS, "renderer", self.renderer, known)
        for name in self.levels:
            if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9]", name):
                raise CrossviewError(f"levels: {name!r} cannot be the name of a folder")
        if len(set(self.levels.values())) < len(self.levels):
            raise CrossviewError("levels: two of them have the same band")
        if self.levels and any(b.official for b in (*self.levels.values(), self.pairs.overlap)):
            raise CrossviewError(
                "levels: `official` chooses first views by rules of its own, and shares them with "
                "no other level; make it alone, with --overlap official"
            )

    def pairs_of_scene(self, scene: int, num_scenes: int) -> int:
        """Return how many pairs scene number `scene` is asked for."""
        if self.num_pairs is None:
            return self.pairs_per_scene or 1000
        return self.num_pairs // num_scenes + (scene < self.num_pairs % num_scenes)

    def resolved(self) -> RenderPairsConfig:
        """Return the configuration with the renderer that auto means on this machine."""
        return replace(self, renderer=chosen_renderer(self.renderer))

    def datasets(self, out: Path) -> dict[Path, OverlapBand]:
        """Return the folder and band of each dataset, by rising co-visibility."""
        if not self.levels:
            return {out: self.pairs.overlap}
        # In one order, however they were given: it decides what is drawn at random for whom.
        levels = sorted(self.levels.items(), key=lambda level: astuple(level[1]))
        return {out / name: band for name, band in levels}

    def of_band(self, band: OverlapBand) -> RenderPairsConfig:
        """Return the configuration of one of the datasets, by its band."""
        return replace(self, pairs=replace(self.pairs, overlap=band))

    def recipe(self) -> dict[str, Any]:
        """Return what decides a pair's bytes, as plain values; the rest may grow."""
        plain = to_plain(self)
        decisive = ("up", "seed", "pairs", "levels", "shards", "renderer", "supersampling")
        return {key: plain[key] for key in decisive}


@dataclass
class SceneSummary:
    """What became of one scene."""

    asked: int = 0
    accepted: int = 0
    attempts: int = 0
    made: int = 0
    """Of those accepted, by this run."""
    seconds: float = 0.0
    """That this run's workers took for them."""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RenderResult:
    """What a run did."""

    indexes: tuple[ShardIndex, ...]
    """Of each level's dataset; of the one where there are no levels."""
    summaries: dict[str, SceneSummary]
    rejections: Counter[str]
    reports: list[ShardReport]
    """Of the tasks that this run did, not of those that were done before."""

    @property
    def index(self) -> ShardIndex:
        """The one dataset's."""
        (index,) = self.indexes
        return index

    @property
    def num_pairs(self) -> int:
        """Number of pairs in all datasets."""
        return sum(index.num_pairs for index in self.indexes)

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
    config = config.resolved()
    sources = resolve_scenes(list(config.scenes), up=config.up, sets=scene_sets())
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:  # blocks of thousands of files, from NFS maybe
        digests = pool.map(scene_digest, sources)
        return [
            task
            for position, (source, digest) in enumerate(zip(sources, digests))
            for task in _tasks_of_scene(
                config, source, digest, config.pairs_of_scene(position, len(sources)), out
            )
        ]


def _tasks_of_scene(
    config: RenderPairsConfig, source: SceneSource, digest: str, num_pairs: int, out: Path
) -> list[RenderTask]:
    step = config.shards.pairs_per_shard
    stands_on = navmesh_digest(source) if KINDS[config.renderer].has_floors else ""
    outputs = tuple((str(path), band) for path, band in config.datasets(out.absolute()).items())
    source = source.anywhere()
    return [
        RenderTask(
            scene=source,
            scene_digest=digest,
            first_index=first,
            count=min(step, num_pairs - first),
            seed=config.seed,
            pairs=config.pairs,
            shards=config.shards,
            renderer=config.renderer,
            supersampling=config.supersampling,
            outputs=outputs,
            navmesh_digest=stands_on,
        )
        for first in range(0, num_pairs, step)
    ]


def render_pairs(
    config: RenderPairsConfig, out: Path, executor: Executor, *, verify: bool = False
) -> RenderResult:
    """Make the dataset in a folder; what an earlier run of the same configuration made stays.

    Scenes that fail are reported, the others finish. verify reads every shard that is there and
    makes those anew whose bytes are not what was written. Raises CrossviewError, before any work,
    where the scenes match nothing, the folder holds a dataset of another configuration or more than
    this one asks for, or another run is writing to it.
    """
    config = config.resolved()
    tasks = plan_tasks(config, out)
    tell_of_assumed_up(dict.fromkeys(task.scene for task in tasks))
    with _claimed(config, out, tasks):
        start = time.perf_counter()
        made = make_missing(render_shards, tasks, executor, out, verify=verify)
        result = _collect(config, tasks, made, out)
        _document(config, result, executor, time.perf_counter() - start)
        return result


def _document(
    config: RenderPairsConfig, result: RenderResult, executor: Executor, seconds: float
) -> None:
    """Write each dataset's card, and this run into its log."""
    for index in result.indexes:
        append_run(
            index.folder,
            executor=executor,
            renderer=config.renderer,
            seconds=seconds,
            reports=result.reports,
            failures={scene: summary.failures for scene, summary in result.summaries.items()},
            num_datasets=len(result.indexes),
        )
        write_card(index, scenes=config.scenes, command=render_command(config))


def _collect(
    config: RenderPairsConfig, tasks: list[RenderTask], made: Made[RenderTask], out: Path
) -> RenderResult:
    """Write the index of all finished tasks, in the plan's order."""
    summaries: dict[str, SceneSummary] = {}
    for task in tasks:
        summaries.setdefault(task.scene.scene_id, SceneSummary()).asked += task.num_pairs
    for task, reason in made.failures:
        summaries[task.scene.scene_id].failures.append(reason)
    for report in made.reports:
        summaries[report.scene_id].made += report.count
        summaries[report.scene_id].seconds += report.seconds["total"]
    rejections: Counter[str] = Counter()
    for task in tasks:
        if task.name not in made.finished:
            continue
        sidecars: tuple[Sidecar, ...] = made.finished[task.name]
        summary = summaries[task.scene.scene_id]
        accepted = sum(sidecar.entry.count for sidecar in sidecars if sidecar.entry)
        summary.accepted += accepted
        summary.attempts += accepted + sum(sidecars[0].rejections.values())
        rejections.update(sidecars[0].rejections)  # all levels' have the same
        if sidecars[0].shortfall:
            summary.notes.append(sidecars[0].shortfall)
    for scene, summary in summaries.items():
        if summary.accepted == 0 and not summary.failures:
            summary.failures.append(f"no pair found: {'; '.join(summary.notes)}")
            logger.warning("scene %s gave no pair", scene)
    indexes = []
    for level, (folder, band) in enumerate(config.datasets(out).items()):
        done = [made.finished[task.name] for task in tasks if task.name in made.finished]
        entries = tuple(entry for sidecars in done if (entry := sidecars[level].entry))
        indexes.append(
            ShardIndex(folder=folder, config=config.of_band(band).recipe(), shards=entries)
        )
        indexes[-1].write()
        warn_of_unlisted(folder, entries)
    return RenderResult(
        indexes=tuple(indexes), summaries=summaries, rejections=rejections, reports=made.reports
    )


def another_configuration(config: RenderPairsConfig, out: Path) -> bool:
    """Return whether a folder's dataset is of another configuration, or more than this asks."""
    other = other_configuration(out, config.resolved().recipe())
    return bool(other or what_would_be_lost(out, plan_tasks(config, out)))


@contextmanager
def _claimed(config: RenderPairsConfig, out: Path, tasks: list[RenderTask]) -> Iterator[None]:
    """Hold the folder, and those of all levels in it, for one run."""
    datasets = config.datasets(out).items()
    levels = {folder: config.of_band(band) for folder, band in datasets if folder != out}
    for folder, level in levels.items():
        require_continued(folder, level.recipe(), tasks)
    with ExitStack() as stack:
        stack.enter_context(claimed(out, to_plain(config), config.recipe(), tasks))
        for folder, level in levels.items():
            stack.enter_context(claimed(folder, to_plain(level), level.recipe(), tasks))
        yield


def summary_table(result: RenderResult) -> str:
    """Return the run's table of scenes, and its rejections by reason, as text."""
    rows: list[tuple[object, ...]] = [
        (
            scene,
            summary.asked,
            summary.accepted,
            summary.attempts,
            f"{summary.accepted / summary.attempts:.1%}" if summary.attempts else "-",
            f"{summary.made / summary.seconds:.1f}" if summary.seconds else "-",
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


def render_command(config: RenderPairsConfig) -> str:
    """Return the command that makes a dataset of this configuration, for a shell."""
    plain, default = to_plain(config), to_plain(type(config)(scenes=config.scenes))
    lines = ["crossview render-pairs", shlex.join(["--scenes", *config.scenes])]
    if config.num_pairs is not None:
        lines.append(f"--num-pairs {config.num_pairs}")
    if not config.levels and _reads_back(config.pairs.overlap):
        lines.append(f"--overlap {config.pairs.overlap}")
        default["pairs"]["overlap"] = plain["pairs"]["overlap"]
    lines.append(f"--seed {config.seed} --renderer {config.renderer}")
    settings = []
    for key, value in _changes(plain, default):
        if key == "pairs.image_size" and value[0] == value[1]:
            lines.append(f"--image-size {value[0]}")
        elif key == "shards.depth":
            lines.append("--depth")
        elif key == "levels" and all(map(_reads_back, config.levels.values())):
            texts = {name: str(band) for name, band in config.levels.items()}
            settings.append(f"levels={dump_yaml(texts, inline=True)}")
        elif key not in ("scenes", "num_pairs", "seed", "renderer"):
            settings.append(f"{key}={dump_yaml(value, inline=True)}")
    if settings:
        lines.append(shlex.join(["--set", *settings]))
    return " \\\n    ".join([*lines, "--out pairs"])


def _changes(plain: Any, default: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names of what is not as it is by default; a band is one value."""
    if plain == default:
        return
    if isinstance(plain, dict) and key not in ("pairs.overlap", "levels"):
        for name, value in plain.items():
            yield from _changes(value, default[name], f"{key}.{name}" if key else name)
    else:
        yield key, plain


def _reads_back(band: OverlapBand) -> bool:
    try:
        return OverlapBand.parse(str(band)) == band
    except CrossviewError:
        return False
