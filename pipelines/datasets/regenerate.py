"""Render recorded pairs again: from our own datasets, or from the original project's metadata."""

from __future__ import annotations

import json
import logging
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from generation.bounds import require
from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.plain import Plain, to_plain
from generation.published import JPEG_QUALITY, read_published
from generation.recorded import NUMBERS, RecordedPairs, read_dataset
from generation.regenerate_task import RegenerateTask, regenerate_shard
from generation.renderers.choice import AUTO, RENDERERS, chosen_renderer
from generation.scenes.asset_config import UP_AXES
from generation.scenes.digest import scene_digest
from generation.scenes.sources import SceneSource
from generation.shard_task import ShardConfig
from generation.shards.reader import ShardIndex, ShardReader, read_each
from generation.shards.schema import (
    INDEX_NAME,
    REGENERATED_NAME,
    Sidecar,
)
from pipelines.datasets.card import write_card
from pipelines.datasets.folder import claimed, scenes_of, warn_of_unlisted
from pipelines.datasets.run_log import append_run
from pipelines.datasets.shard_tasks import make_missing
from pipelines.executors.protocol import Executor
from pipelines.tables import format_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegenerateConfig:
    """Recorded pairs, and how they are rendered this time."""

    metadata: Path
    """One of our datasets (its folder or index.json), or the original project's metadata.json: one,
    a folder or a tar of them."""
    roots: tuple[Path, ...] = ()
    """Folders below which the scenes lie."""
    up: str | None = None
    """Up axis of the original's scenes without a stage configuration; null: as habitat-sim takes
    them, z for .glb files and y for others, and y for ReplicaCAD."""
    resolution: int | None = None
    """Height and width in pixels; null: as recorded."""
    hfov_deg: float | None = None
    """Horizontal field of view, degrees; null: as recorded."""
    renderer: str | None = None
    """auto, embree, gl or habitat; null: as recorded, for the original's pairs auto."""
    jpeg_quality: int | None = None
    """1 to 100; null: as recorded, for the original's pairs 75, as its generator stores them."""
    depth: bool = False
    """Also store both depth maps."""

    def __post_init__(self) -> None:
        fits = self.up is None or self.up in UP_AXES
        require(fits, "up", self.up, f"one of {', '.join(UP_AXES)}")
        fits = self.resolution is None or self.resolution >= 16
        require(fits, "resolution", self.resolution, "at least 16")
        fits = self.hfov_deg is None or 1 <= self.hfov_deg <= 170
        require(fits, "hfov_deg", self.hfov_deg, "1 to 170")
        fits = self.renderer is None or self.renderer in RENDERERS
        require(fits, "renderer", self.renderer, f"one of {', '.join(RENDERERS)}")
        fits = self.jpeg_quality is None or 1 <= self.jpeg_quality <= 100
        require(fits, "jpeg_quality", self.jpeg_quality, "1 to 100")

    @property
    def folder(self) -> Path:
        """The dataset, where metadata names its index; else metadata itself."""
        return self.metadata.parent if self.metadata.name == INDEX_NAME else self.metadata


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is rendered again, and how it was rendered before."""

    pieces: tuple[RecordedPairs, ...]
    """Sorted by scene."""
    renderer: str = AUTO
    """Who rendered it."""
    supersampling: int = 1
    """Samples along each side of a pixel."""
    jpeg_quality: int = ShardConfig().jpeg_quality
    """1 to 100."""


@dataclass
class SceneAgreement:
    """What became of one scene."""

    label: str
    """What the record calls it."""
    asked: int = 0
    done: int = 0
    failures: list[str] = field(default_factory=list)
    differences: dict[str, list[float]] = field(default_factory=dict)
    """Number in meta.json -> of each pair, how far it is from the recorded one."""

    def to_plain(self) -> Plain:
        """Return it as the report has it."""
        return {
            "label": self.label,
            "asked": self.asked,
            "pairs": self.done,
            "failures": list(dict.fromkeys(self.failures)),
            "differences": {
                name: {"mean": float(np.mean(values)), "largest": float(np.max(values))}
                for name, values in self.differences.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class RegenerateResult:
    """What a run did."""

    index: ShardIndex
    scenes: dict[str, SceneAgreement]

    @property
    def failures(self) -> list[str]:
        """One line for each scene that is missing or failed."""
        return [
            f"{scene}: {reason}"
            for scene, agreement in self.scenes.items()
            for reason in dict.fromkeys(agreement.failures)
        ]


def regenerate(
    config: RegenerateConfig, out: Path, executor: Executor, *, verify: bool = False
) -> RegenerateResult:
    """Make a dataset of recorded pairs in a folder; what an earlier run made stays.

    Scenes that are missing or fail are reported, the others finish. verify reads every shard that
    is there and makes those anew whose bytes are not what was written. Raises CrossviewError,
    before any work, where the record makes no sense, the folder holds a dataset of another
    configuration or more than is recorded, or another run is writing to it.
    """
    if out.absolute() in (config.metadata.absolute(), config.folder.absolute()):
        raise CrossviewError(f"{out} holds what is recorded; choose another --out")
    record = read_record(config)
    tasks = plan_tasks(config, record, out)
    resolved = _resolved(config, record, tasks)
    recipe = {key: resolved[key] for key in ("pairs", "shards", "renderer", "supersampling")}
    with claimed(out, resolved, recipe, tasks):
        start = time.perf_counter()
        scenes = _scenes_of(record)
        made = make_missing(regenerate_shard, tasks, executor, out, verify=verify)
        for task, reason in made.failures:
            scenes[task.scene.scene_id].failures.append(reason)
        result = _collect(tasks, made.finished, scenes, recipe, out)
        append_run(
            out,
            executor=executor,
            renderer=recipe["renderer"],
            seconds=time.perf_counter() - start,
            reports=made.reports,
            failures={name: scene.failures for name, scene in scenes.items()},
        )
        write_card(result.index, scenes=resolved["scenes"], command=regenerate_command(config))
        return result


def read_record(config: RegenerateConfig) -> Record:
    """Read the recorded pairs. Raises CrossviewError where they make no sense."""
    path, roots = config.metadata, list(config.roots)
    for root in roots:
        if not root.is_dir():
            raise CrossviewError(f"{root}: no such folder; expected one that the scenes lie in")
    folder = config.folder
    if not (folder / INDEX_NAME).is_file():
        pieces = read_published(
            path, roots, up=config.up, pairs_per_piece=ShardConfig().pairs_per_shard
        )
        record = Record(pieces=tuple(pieces), jpeg_quality=JPEG_QUALITY)
        if not record.pieces:
            raise CrossviewError(f"{path}: it records no pairs")
        return record
    index = ShardIndex.open(folder)
    if index.is_plain:
        raise CrossviewError(
            f"{folder}: expected rendered pairs, found tars that `crossview index` made readable; "
            "nothing is known of what made them, so their pairs cannot be rendered again"
        )
    pieces = read_dataset(index, roots, scenes_of(folder))
    return Record(
        pieces=tuple(pieces),
        renderer=index.config.get("renderer", AUTO),
        supersampling=index.config.get("supersampling", 1),
        jpeg_quality=index.config.get("shards", {}).get("jpeg_quality", Record.jpeg_quality),
    )


def plan_tasks(config: RegenerateConfig, record: Record, out: Path) -> list[RegenerateTask]:
    """Return a task for every piece whose scene was found."""
    size = (config.resolution, config.resolution) if config.resolution else None
    quality = config.jpeg_quality or record.jpeg_quality
    shards = ShardConfig(depth=config.depth, jpeg_quality=quality)
    renderer = chosen_renderer(config.renderer or record.renderer)
    tasks = []
    for piece in record.pieces:
        source = piece.scene
        if source is None:
            continue
        digest = scene_digest(source)
        if piece.scene_digest not in ("", digest):
            logger.warning("%s: its file is not the one that was recorded", piece.name)
        tasks.append(
            RegenerateTask(
                scene=source.anywhere(),
                scene_digest=digest,
                recorded=piece,
                image_size=size or piece.image_size,
                hfov_deg=config.hfov_deg or piece.hfov_deg,
                shards=shards,
                renderer=renderer,
                supersampling=record.supersampling,
                out=str(out.absolute()),
            )
        )
    return tasks


def _resolved(config: RegenerateConfig, record: Record, tasks: list[RegenerateTask]) -> Plain:
    """Return the configuration with everything that the record decided.

    Raises CrossviewError where the pairs were recorded with several cameras and none was chosen.
    """
    if not tasks:
        reasons = list(dict.fromkeys(piece.missing for piece in record.pieces))
        raise CrossviewError(
            f"{config.metadata}: none of its {len(reasons)} scenes was found, for example: "
            f"{reasons[0]}"
        )
    for name, option in (("image_size", "--resolution"), ("hfov_deg", "--hfov")):
        values = sorted({getattr(task, name) for task in tasks})
        if len(values) > 1:
            raise CrossviewError(
                f"{config.metadata}: pairs of {name} {values[0]} and {values[-1]}; choose one with "
                f"{option}"
            )
    first = tasks[0]
    plain: Plain = to_plain(config)
    return {
        **plain,
        "scenes": list(dict.fromkeys(_pattern(task.scene) for task in tasks)),
        "pairs": {"image_size": list(first.image_size), "hfov_deg": first.hfov_deg},
        "shards": to_plain(first.shards),
        "renderer": first.renderer,
        "supersampling": first.supersampling,
    }


def _pattern(scene: SceneSource) -> str:
    """Return a scene as --scenes takes it."""
    return scene.path or f"procedural:{scene.room_seed}"


def _scenes_of(record: Record) -> dict[str, SceneAgreement]:
    scenes: dict[str, SceneAgreement] = {}
    for piece in record.pieces:
        scene = scenes.setdefault(piece.scene_id, SceneAgreement(label=piece.label))
        scene.asked += len(piece.keys)
        if piece.missing:
            scene.failures.append(piece.missing)
    return scenes


def _collect(
    tasks: list[RegenerateTask],
    finished: dict[str, Sidecar],
    scenes: dict[str, SceneAgreement],
    recipe: Plain,
    out: Path,
) -> RegenerateResult:
    """Write the index of all finished tasks and the report of how they agree with the record."""
    done = [
        (task, entry)
        for task in tasks
        if task.name in finished and (entry := finished[task.name].entry)
    ]
    index = ShardIndex(folder=out, config=recipe, shards=tuple(entry for _, entry in done))
    index.write()
    warn_of_unlisted(out, index.shards)
    pairs, first = ShardReader(index), 0
    for task, entry in done:
        scene = scenes[task.scene.scene_id]
        scene.done += entry.count
        records = list(read_each(pairs.record, range(first, first + entry.count)))
        first += entry.count
        for name, recorded in task.recorded.covisibility.items():
            now = np.array([record[name] for record in records])
            scene.differences.setdefault(name, []).extend(np.abs(now - recorded).tolist())
    result = RegenerateResult(index=index, scenes=scenes)
    report = {
        "num_pairs": index.num_pairs,
        "scenes": {name: scene.to_plain() for name, scene in scenes.items()},
    }
    write_text_whole(out / REGENERATED_NAME, json.dumps(report, indent=1) + "\n")
    return result


def regenerate_command(config: RegenerateConfig) -> str:
    """Return the command that makes a dataset of this configuration, for a shell."""
    words = ["crossview", "regenerate", "--metadata", str(config.metadata)]
    if config.roots:
        words += ["--root", *map(str, config.roots)]
    for option, value in (
        ("--up", config.up),
        ("--resolution", config.resolution),
        ("--hfov", config.hfov_deg),
        ("--renderer", config.renderer),
        ("--jpeg-quality", config.jpeg_quality),
    ):
        words += [] if value is None else [f"{option}={value}"]  # = : "--up -z" would be an option
    return shlex.join([*words, *["--depth"] * config.depth, "--out", "pairs"])


def agreement_table(result: RegenerateResult) -> str:
    """Return the run's table of scenes as text: how far each number is from the recorded one."""
    recorded = {number for scene in result.scenes.values() for number in scene.differences}
    numbers = [number for number in NUMBERS if number in recorded]
    headers = ["scene", "asked", "pairs"]
    for number in numbers:
        headers += [f"{number} off by", "at most"]
    rows: list[tuple[object, ...]] = []
    for scene_id, scene in result.scenes.items():
        cells: list[str] = []
        for number in numbers:
            values = scene.differences.get(number)
            cells += [f"{np.mean(values):.4f}", f"{np.max(values):.4f}"] if values else ["-", "-"]
        state = "failed" if scene.failures else "ok"
        rows.append((scene_id, scene.asked, scene.done, *cells, state))
    return format_table(rows, (*headers, "state"))
