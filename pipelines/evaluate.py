"""Evaluate models on downstream tasks: every model, task, dataset and seed is a cell of a table."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError
from generation.plain import Plain, diff_plain, to_plain
from generation.shards.files import write_text_whole
from generation.shards.schema import INDEX_NAME
from generation.shards.writer import file_sha256
from pipelines.evaluation_figures import save_panels
from pipelines.machine import processor
from training.checkpoint import load_model
from training.distributed import join, resolved_precision
from training.downstream.evaluation import (
    Outcome,
    evaluate,
    untrained,
    weights_digest,
)
from training.downstream.example import Joined, Splits, at_most
from training.downstream.recipe import Recipe
from training.downstream.task import Task
from training.model.croco import CroCo, ModelConfig

logger = logging.getLogger(__name__)

SCRATCH = "scratch"
"""Label of the network that is not pre-trained."""
SEED = "{seed}"
SHARDS = "shards"
"""The layout of our own datasets."""
RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model to be judged, under a label."""

    label: str
    path: str | None
    """What holds it; {seed} stands for the number of the seed. None: random weights."""
    config: ModelConfig

    def model(self, seed: int) -> CroCo:
        """Return the model that stands for a seed, new for every cell."""
        if self.path is None:
            return untrained(self.config, seed)
        return load_model(self.path.replace(SEED, str(seed)))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset on a disk."""

    layout: str
    """A key of Task.datasets."""
    root: Path

    def record(self) -> Plain:
        """Return what tells it from another."""
        digest = file_sha256(self.root / INDEX_NAME) if self.layout == SHARDS else None
        return {"layout": self.layout, "root": str(self.root), "sha256": digest}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task on a dataset, with its recipe."""

    task: Task
    data: Source
    recipe: Recipe
    val: Source | None = None
    """Another dataset to be judged on; of our shards, which have no split of their own, all is."""

    @property
    def name(self) -> str:
        """As folders and tables call it: by what is judged on."""
        layout = (self.val or self.data).layout
        return self.task.name if layout == SHARDS else f"{self.task.name}-{layout}"

    def open(self, num_train: int | None, num_val: int | None) -> Splits:
        """Open the dataset, or at most so many examples of it, evenly spread."""
        splits = self.task.datasets[self.data.layout](self.data.root)
        if self.val is not None:
            other = self.task.datasets[self.val.layout](self.val.root)
            if self.data.layout == SHARDS:
                splits = replace(splits, train=Joined(splits.train, splits.val))
            of_shards = self.val.layout == SHARDS
            splits = replace(splits, val=Joined(other.train, other.val) if of_shards else other.val)
        if not splits.val:
            raise CrossviewError(f"{self.data.root}: no examples to judge {self.task.name} on")
        return replace(
            splits, train=at_most(splits.train, num_train), val=at_most(splits.val, num_val)
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is recorded of one model on one benchmark with one seed."""

    benchmark: str
    label: str
    seed: int
    metrics: dict[str, float]
    num_steps: int
    train_s: float
    test_s: float
    num_parameters: int

    @property
    def cost_s(self) -> float:
        """Wall time, in seconds."""
        return self.train_s + self.test_s


def contenders(weights: Sequence[str], *, scratch: bool) -> list[Contender]:
    """Turn [LABEL=]PATH texts into contenders; scratch adds one of the first's shape.

    Raises CrossviewError where two have one label, or a path holds no model.
    """
    found: list[Contender] = []
    for text in weights:
        label, equals, path = text.rpartition("=")
        label = label if equals else Path(text).resolve().name
        config = load_model(path.replace(SEED, "0")).config
        found.append(Contender(label=label, path=path, config=config))
    if scratch:
        found.append(Contender(label=SCRATCH, path=None, config=found[0].config))
    labels = [contender.label for contender in found]
    for label in labels:
        if labels.count(label) > 1:
            raise CrossviewError(
                f"--weights: two models would be called {label!r}; give them names, as in "
                f"--weights first={found[labels.index(label)].path}"
            )
        if not label or "/" in label or label.startswith("."):
            raise CrossviewError(f"--weights: {label!r} cannot be a folder's name; give another")
    return found


def evaluate_all(
    benchmarks: Sequence[Benchmark],
    models: Sequence[Contender],
    *,
    seeds: int,
    out: Path,
    device: str = "auto",
    num_train: int | None = None,
    num_val: int | None = None,
    num_workers: int = 0,
) -> list[Cell]:
    """Judge every model on every benchmark with seeds 0, 1, ...; a cell that is there is kept.

    Each leaves OUT/BENCHMARK/LABEL/seed_N/result.json and pictures. Datasets that cannot be opened,
    and models that a task cannot use, fail before anything is trained. Raises CrossviewError where
    a cell was made otherwise.
    """
    with join(device) as process:  # type: ignore[arg-type]
        opened = [benchmark.open(num_train, num_val) for benchmark in benchmarks]
        for splits in opened:
            splits.val[0]  # what it complains of is rather known now than after the training
        cells = list(itertools.product(zip(benchmarks, opened), models, range(seeds)))
        for (benchmark, splits), model, seed in cells:
            _require_fit(benchmark, splits, model.model(seed))
        return [
            _cell(benchmark, splits, model, seed, out, process.device, num_workers)
            for (benchmark, splits), model, seed in cells
        ]


def _require_fit(benchmark: Benchmark, splits: Splits, model: CroCo) -> None:
    recipe = benchmark.recipe.for_model(model.config)
    benchmark.task.network(model, splits, recipe)
    if recipe.num_steps(1_000_000) and not splits.train:
        raise CrossviewError(
            f"{benchmark.data.root}: nothing to train {benchmark.task.name} on; train on another "
            f"dataset and name this one as --val-dataset {benchmark.data.layout}=DIR"
        )


def _cell(
    benchmark: Benchmark,
    splits: Splits,
    contender: Contender,
    seed: int,
    out: Path,
    device: torch.device,
    num_workers: int,
) -> Cell:
    folder = out / benchmark.name / contender.label / f"seed_{seed}"
    model = contender.model(seed)
    request = {
        "benchmark": benchmark.name,
        "data": benchmark.data.record(),
        "val_data": None if benchmark.val is None else benchmark.val.record(),
        "num_train": len(splits.train),
        "num_val": len(splits.val),
        "model": to_plain(model.config),
        "weights": weights_digest(model),
        "recipe": to_plain(benchmark.recipe),
        "precision": resolved_precision(benchmark.recipe.precision, device),
        "seed": seed,
    }
    record = _recorded(folder, request)
    if record is None:
        where = f"{benchmark.name}, {contender.label}, seed {seed}"
        outcome = evaluate(
            benchmark.task,
            model,
            splits,
            benchmark.recipe,
            seed=seed,
            device=device,
            num_workers=num_workers,
            report=lambda step, loss: logger.info("%s: step %d, loss %.4f", where, step, loss),
        )
        record = _write(folder, request, contender, outcome)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items())
        logger.info("%s: %s  (%.0f s)", where, shown, outcome.train_s + outcome.test_s)
    return _cell_of(record, benchmark.name, contender.label, seed)


_OUTCOME = ("metrics", "num_steps", "train_s", "test_s", "num_parameters")


def _cell_of(record: Plain, benchmark: str, label: str, seed: int) -> Cell:
    outcome = {name: record[name] for name in _OUTCOME}
    return Cell(benchmark=benchmark, label=label, seed=seed, **outcome)


def _recorded(folder: Path, request: Plain) -> Plain | None:
    """Return a cell's record, where it is there."""
    path = folder / RESULT_NAME
    if not path.exists():
        return None
    try:
        record: Plain = json.loads(path.read_text())
        lines = diff_plain(record["request"], request)
        _cell_of(record, "", "", 0)
    except (ValueError, KeyError, TypeError) as error:
        raise CrossviewError(f"{path}: damaged ({error!r}); remove it") from error
    if lines:
        raise CrossviewError(
            f"{folder} holds a result that was made otherwise; take another --out, or remove it:\n"
            "  " + "\n  ".join(lines)
        )
    return record


def _write(folder: Path, request: Plain, contender: Contender, outcome: Outcome) -> Plain:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, panels) in enumerate(outcome.pictures.items()):
        save_panels(folder / f"picture_{number}.png", name, panels)
    record: dict[str, Any] = {
        "request": request,
        "path": contender.path,
        **{name: getattr(outcome, name) for name in _OUTCOME},
        "machine": processor(),
    }
    write_text_whole(folder / RESULT_NAME, json.dumps(record, indent=1) + "\n")
    return record


def benchmarks(
    tasks: Sequence[Task],
    sources: Sequence[Source],
    val_sources: Sequence[Source],
    recipe: Callable[[Task], Recipe],
) -> list[Benchmark]:
    """Pair every task with every dataset that it can be trained on and judged on.

    Without val_sources it is judged on the split of the dataset itself, else on each of them.
    Raises CrossviewError for a task without a dataset and a dataset without a task.
    """
    for source in (*sources, *val_sources):
        if not any(source.layout in task.datasets for task in tasks):
            layouts = ", ".join(sorted({name for task in tasks for name in task.datasets}))
            raise CrossviewError(
                f"{option(source.layout)}: none of the tasks takes it; they take {layouts}"
            )
    found = []
    for task in tasks:
        known = ", ".join(map(option, task.datasets))
        own = [source for source in sources if source.layout in task.datasets]
        vals = [source for source in val_sources if source.layout in task.datasets]
        if not own:
            raise CrossviewError(f"{task.name}: no dataset for it; it takes {known}")
        if val_sources and not vals:
            known = ", ".join(option(layout, judged_on=True) for layout in task.datasets)
            raise CrossviewError(f"{task.name}: no dataset to judge it on; it takes {known}")
        for source, val in itertools.product(own, vals or (None,)):
            found.append(Benchmark(task=task, data=source, recipe=recipe(task), val=val))
    names = [benchmark.name for benchmark in found]
    for name in names:
        if names.count(name) > 1:
            raise CrossviewError(
                f"{name}: several datasets to train on, one to judge on; give one at a time"
            )
    return found


def named_sources(flag: str, texts: Sequence[str]) -> list[Source]:
    """Turn LAYOUT=DIR texts of an option into sources, one of a layout at most."""
    found: dict[str, Source] = {}
    for text in texts:
        layout, equals, root = text.partition("=")
        if not equals or not root:
            raise CrossviewError(f"{flag} {text}: expected LAYOUT=DIR")
        if layout in found:
            raise CrossviewError(f"{flag} {text}: there is {found[layout].root} already")
        found[layout] = Source(layout=layout, root=Path(root))
    return list(found.values())


def option(layout: str, *, judged_on: bool = False) -> str:
    """Return how a dataset of this layout is named on the command line."""
    dashes = "--val-" if judged_on else "--"
    return f"{dashes}data DIR" if layout == SHARDS else f"{dashes}dataset {layout}=DIR"
