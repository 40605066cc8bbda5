"""A whole run in one YAML file: render pairs, pre-train on them, report; each stage once.

What a stage did is recorded in stages.json beside its results: a digest of everything that it
depends on. A stage runs when it never finished, when that digest is another, or when its result is
gone, or its last checkpoint damaged. Results of another configuration are moved aside, never
deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.errors import CrossviewError
from generation.files import file_sha256, write_text_whole
from generation.folder_lock import locked
from generation.locations import is_remote
from generation.plain import merge, to_plain
from generation.renderers.choice import AUTO, chosen_renderer
from generation.scenes.sources import resolve_scenes
from generation.shards.reader import ShardIndex
from generation.shards.schema import INDEX_NAME, ShardError
from pipelines.config import MANIFESTS, load_named
from pipelines.datasets.folder import recorded_configuration
from pipelines.datasets.render_pairs import (
    RenderPairsConfig,
    RenderResult,
    another_configuration,
    plan_tasks,
    render_pairs,
    summary_table,
)
from pipelines.executors.protocol import Executor
from pipelines.pretraining.configuration import pretrain_config
from pipelines.pretraining.launch import train_here
from pipelines.report import ReportConfig, write_report
from pipelines.scene_sets import scene_sets
from training.checkpoint import load_newest, stored
from training.config import PretrainConfig, differences
from training.data import held_out_scenes
from training.provenance import described_run

logger = logging.getLogger(__name__)

STAGES = ("render", "pretrain", "report")
_INPUTS = "inputs.txt"
"""In a run's folder: the digest of what it is trained on; then the scenes without all pairs."""
RECIPES = MANIFESTS / "recipes"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run from scenes to a report."""

    title: str
    """Heading of the report."""
    out: Path
    """Folder of all results."""
    render: RenderPairsConfig
    """The dataset of pairs."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """A pre-training configuration: `preset`, and what differs from it."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""

    def __post_init__(self) -> None:
        if is_remote(self.out):
            raise CrossviewError(
                f"out: expected a folder, got {self.out}; render-pairs and pretrain take datasets "
                "behind URLs"
            )
        if self.pretrain_config.data.path != self.pairs_folder:
            raise CrossviewError("pretrain.data.path: a recipe trains on its own pairs; remove it")
        if self.render.levels:
            raise CrossviewError("render.levels: a recipe has one dataset; give pairs.overlap")

    @property
    def pairs_folder(self) -> Path:
        """Where the shards go."""
        return self.out / "pairs"

    @property
    def pretrain_folder(self) -> Path:
        """Where the run's metrics and checkpoints go."""
        return self.out / "pretrain"

    @property
    def pretrain_config(self) -> PretrainConfig:
        """The resolved pre-training configuration."""
        values = merge({"data": {"path": str(self.pairs_folder)}}, self.pretrain)
        try:
            return pretrain_config(values, source="pretrain")
        except CrossviewError as error:  # its keys are below ours
            raise CrossviewError(f"pretrain.{str(error).removeprefix('pretrain: ')}") from error


def load_recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """Load a recipe by its file, or by the name of one of ours, with overrides.

    Raises ConfigError, or CrossviewError with the names there are.
    """
    return load_named(Recipe, RECIPES, name, overrides, what="recipe")


def run_recipe(
    recipe: Recipe, executor: AbstractContextManager[Executor], *, until: str = STAGES[-1]
) -> list[str]:
    """Do a recipe's stages in order, up to `until`; return the failures of scenes, a line each.

    executor: renders, and is closed before training begins. Scenes that fail do not stop the run
    while others gave pairs. SIGTERM, or Ctrl-C once, ends training, and with it the run, after the
    step at hand, saved.
    """
    recipe.out.mkdir(parents=True, exist_ok=True)
    with locked(recipe.out):
        return _run_stages(recipe, executor, until)


def _run_stages(
    recipe: Recipe, executor: AbstractContextManager[Executor], until: str
) -> list[str]:
    failures: list[str] = []
    stages: dict[str, tuple[Callable[[], bool], Callable[[], bool | None]]] = {
        "render": (
            lambda: _is_rendered(recipe) or (until != "render" and _is_trained_on(recipe)),
            lambda: failures.extend(_render(recipe, executor, until)),
        ),
        "pretrain": (lambda: _is_trained(recipe), lambda: _pretrain(recipe)),
        "report": (lambda: (recipe.out / "report.html").exists(), lambda: _report(recipe)),
    }
    for number, name in enumerate(STAGES, 1):
        has_result, work = stages[name]
        digest = _digest_of(recipe, name)
        if _recorded(recipe).get(name) == digest and has_result():
            logger.info("[%d/%d] %s: up to date", number, len(STAGES), name)
            if name == "render":
                failures.extend(_failures(recipe, executor))
        else:
            logger.info("[%d/%d] %s: running", number, len(STAGES), name)
            if work() is False:  # asked to stop
                break
            # The digest anew: what a stage depends on may be what it has just been given.
            _record(recipe, name, _digest_of(recipe, name))
        if name == until:
            break
    return failures


def _is_rendered(recipe: Recipe) -> bool:
    return (recipe.pairs_folder / INDEX_NAME).exists() and not _unmade(recipe)


def _unmade(recipe: Recipe) -> list[str]:
    """Return the scenes of which not all shards are there, as they are to be."""
    tasks = plan_tasks(_rendering(recipe), recipe.pairs_folder)
    return sorted({task.scene.scene_id for task in tasks if not task.finished()})


def _rendering(recipe: Recipe) -> RenderPairsConfig:
    """Return how pairs are rendered; auto means what it meant where they were begun."""
    if recipe.render.renderer != AUTO:
        return recipe.render
    recorded = recorded_configuration(recipe.pairs_folder)
    return replace(recipe.render, renderer=recorded["renderer"]) if recorded else recipe.render


def _is_trained_on(recipe: Recipe) -> bool:
    """Return whether training has begun with the very pairs that are there, all of the index.

    A scene that failed then is left alone, also where it has been mended: with its pairs, training
    would begin anew. One that is new is not, nor one that was rendered and has been edited since.
    """
    try:
        index = ShardIndex.open(recipe.pairs_folder)
        for shard in range(len(index.shards)):
            index.check_size(shard)
        digest, *failed = (recipe.pretrain_folder / _INPUTS).read_text().splitlines()
    except (ShardError, FileNotFoundError):
        return False
    return digest == _digest_of(recipe, "pretrain") and set(_unmade(recipe)) <= set(failed)


def _failures(recipe: Recipe, executor: AbstractContextManager[Executor]) -> list[str]:
    """Tell of scenes that failed, every time."""
    if not (unmade := _unmade(recipe)):
        return _dataset(recipe, executor).failures
    return [
        f"{scene}: not all of its pairs could be made before training began; `--until render` "
        "tries again, and training then begins anew"
        for scene in unmade
    ]


def _require_trainable(recipe: Recipe) -> None:
    """Raise CrossviewError where training would refuse the pairs that are to be rendered."""
    config, size = recipe.pretrain_config, min(recipe.render.pairs.image_size)
    require(
        size >= config.model.image_size,
        "render.pairs.image_size",
        size,
        f"at least {config.model.image_size}, the model's",
    )
    if config.data.val_path is None:
        scenes = resolve_scenes([*recipe.render.scenes], up=recipe.render.up, sets=scene_sets())
        held_out_scenes(
            tuple(scene.scene_id for scene in scenes), config.data.val_scenes, recipe.pairs_folder
        )


def _render(recipe: Recipe, executor: AbstractContextManager[Executor], until: str) -> list[str]:
    if until != "render":
        _require_trainable(recipe)
    rendering = _rendering(recipe)
    if recipe.render.renderer == AUTO and rendering.renderer == "gl" != chosen_renderer(AUTO):
        raise CrossviewError(
            f"{recipe.pairs_folder}: begun with renderer gl, for which there is no GPU here; go on "
            "where there is one, or give --renderer gl (in software where there is none; scenes "
            "that fail are left out) or --renderer embree (all pairs are made anew)"
        )
    if another_configuration(rendering, recipe.pairs_folder):
        _move_aside(recipe.pairs_folder)
    result = _dataset(recipe, executor)
    logger.info("\n%s", summary_table(result))
    if result.num_pairs == 0:
        raise CrossviewError("no scene gave a pair:\n  " + "\n  ".join(result.failures))
    return result.failures


def _dataset(recipe: Recipe, executor: AbstractContextManager[Executor]) -> RenderResult:
    with executor as workers:
        return render_pairs(_rendering(recipe), recipe.pairs_folder, workers)


def _is_trained(recipe: Recipe) -> bool:
    """Return whether the newest checkpoint that is whole is of the last step."""
    run, state = described_run(recipe.pretrain_folder), load_newest(recipe.pretrain_folder)
    return run is not None and state is not None and run.get("num_steps") == state["step"]


def _pretrain(recipe: Recipe) -> bool:
    """Return whether the run is at its end."""
    # A run of the same inputs that was cut short goes on; any other makes room.
    started = recipe.pretrain_folder / _INPUTS
    digest = _digest_of(recipe, "pretrain")
    if recipe.pretrain_folder.exists() and (
        not started.exists() or started.read_text().splitlines()[:1] != [digest]
    ):
        _move_aside(recipe.pretrain_folder)
    recipe.pretrain_folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(started, "\n".join([digest, *_unmade(recipe)]) + "\n")
    result = train_here(recipe.pretrain_config, recipe.pretrain_folder)
    return result.metrics["step"] == result.num_steps


def _report(recipe: Recipe) -> None:
    sources = resolve_scenes(list(recipe.render.scenes), up=recipe.render.up, sets=scene_sets())
    path = write_report(
        recipe.out,
        title=recipe.title,
        index=ShardIndex.open(recipe.pairs_folder),
        sources={source.scene_id: source for source in sources},
        pretrain_config=recipe.pretrain_config,
        pretrain_folder=recipe.pretrain_folder,
        config=recipe.report,
    )
    logger.info("report: %s", path)


def _digest_of(recipe: Recipe, stage: str) -> str:
    """Return a digest of what a stage depends on: its configuration and the stage before it."""
    parts: list[Any]
    if stage == "render":
        parts = [to_plain(recipe.render)]
    elif stage == "pretrain":
        config, data = recipe.pretrain_config, recipe.pretrain_config.data
        init = [] if config.init is None else [config.init]
        parts = [
            differences({}, config),  # not where and how fast it runs
            [str(path) for path in (data.val_path, *(part.path for part in data.mixture), *init)],
            _file_digest(recipe.pairs_folder / INDEX_NAME),
        ]
    else:
        checkpoints = stored(recipe.pretrain_folder)
        parts = [
            to_plain(recipe.report),
            recipe.title,
            _file_digest(checkpoints[0]) if checkpoints else "",
        ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return file_sha256(path) if path.exists() else ""


def _recorded(recipe: Recipe) -> dict[str, str]:
    path = recipe.out / "stages.json"
    try:
        recorded: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CrossviewError(f"{path}: damaged ({error}); remove it to do all stages") from error
    return recorded


def _record(recipe: Recipe, stage: str, digest: str) -> None:
    recorded = _recorded(recipe) | {stage: digest}
    write_text_whole(recipe.out / "stages.json", json.dumps(recorded, indent=1) + "\n")


def _move_aside(folder: Path) -> None:
    """Give a folder another name. Raises CrossviewError where another run is writing to it."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    with locked(folder):
        folder.rename(aside)
    logger.warning("%s is of another configuration; moved to %s", folder, aside)
