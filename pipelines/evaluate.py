"""Evaluate models on downstream tasks: every model, task, dataset and seed is a cell of a table."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
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
from training.downstream import constants
from training.downstream.datasets.shards import open_all, open_shards
from training.downstream.evaluation import (
    VERSION,
    Outcome,
    evaluate,
    evaluate_constant,
    untrained,
    weights_digest,
)
from training.downstream.example import Splits, at_most
from training.downstream.recipe import Recipe
from training.downstream.task import Task
from training.model.croco import CroCo, ModelConfig

logger = logging.getLogger(__name__)

SCRATCH = "scratch"
"""Label of the network that is not pre-trained."""
CONSTANT = "constant"
"""Label of what says the same of every example."""
SEED = "{seed}"
SHARDS = "shards"
"""The layout of our own datasets."""
RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is recorded of a model before it is fine-tuned."""

    config: ModelConfig
    sha256: str

    @classmethod
    def of(cls, model: CroCo) -> Weights:
        """Describe a model."""
        return cls(config=model.config, sha256=weights_digest(model))


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model to be judged, under a label."""

    label: str
    path: str | None
    """What holds it; {seed} stands for the number of the seed. None: random weights."""
    weights: tuple[Weights, ...]
    """Of seeds 0, 1, ..."""

    def model(self, seed: int) -> CroCo:
        """Return the model that stands for a seed, new for every cell.

        Raises CrossviewError where it is no longer the one of weights.
        """
        if self.path is None:
            return untrained(self.weights[seed].config, seed)
        path = self.path.replace(SEED, str(seed))
        model = load_model(path)
        if Weights.of(model) != self.weights[seed]:
            raise CrossviewError(
                f"{path}: other weights than when the evaluation began; give the same command "
                "again when their training is over"
            )
        return model


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset on a disk."""

    layout: str
    """A key of Task.datasets."""
    root: Path

    @cached_property
    def record(self) -> Plain:
        """Return what tells it from another."""
        if self.layout == SHARDS:  # wherever it lies
            return {"layout": self.layout, "sha256": file_sha256(self.root / INDEX_NAME)}
        return {"layout": self.layout, "root": str(self.root.resolve())}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task on a dataset, with its recipe."""

    task: Task
    data: Source
    recipe: Recipe
    val: Source | None = None
    """Another dataset to be judged on; of our shards, which have no split of their own, all is, and
    scenes that both show are not trained on."""

    @property
    def name(self) -> str:
        """As folders and tables call it: by what is judged on."""
        layout = (self.val or self.data).layout
        return self.task.name if layout == SHARDS else f"{self.task.name}-{layout}"

    def open(self, num_train: int | None, num_val: int | None) -> Splits:
        """Open the dataset, or at most so many examples of it, evenly spread."""
        if self.val is None:
            splits = self.task.datasets[self.data.layout](self.data.root)
        elif self.data.layout == self.val.layout == SHARDS:
            splits = open_shards(self.data.root, val_root=self.val.root)
        else:
            splits = replace(self._whole(self.data), val=self._whole(self.val).val)
        if not splits.val:
            raise CrossviewError(f"{self.data.root}: no examples to judge {self.task.name} on")
        return replace(
            splits, train=at_most(splits.train, num_train), val=at_most(splits.val, num_val)
        )

    def _whole(self, source: Source) -> Splits:
        """Open a dataset of which one split is used: of our shards, all scenes are in both."""
        if source.layout != SHARDS:
            return self.task.datasets[source.layout](source.root)
        examples = open_all(source.root)
        return Splits(train=examples, val=examples)


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


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no cell."""

    benchmark: str
    label: str
    seed: int
    reason: str
    """In one line."""

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.label}, seed {self.seed}: {self.reason}"


def contenders(texts: Sequence[str], *, seeds: int, scratch: bool) -> list[Contender]:
    """Turn [LABEL=]PATH texts into contenders; scratch adds one of the first's shape.

    Every file is read once. Raises CrossviewError where two have one label, or a path holds no
    model.
    """
    named: list[tuple[str, str | None]] = []
    for text in texts:
        label, equals, path = text.partition("=")
        named.append((label, path) if equals else (Path(text).resolve().name, text))
    if scratch:
        named.append((SCRATCH, None))
    labels = [label for label, _ in named]
    for label, path_of_first in named:
        if labels.count(label) > 1:
            raise CrossviewError(
                f"--weights: two models would be called {label!r}; give them names, as in "
                f"--weights first={path_of_first}"
            )
        if label == CONSTANT:
            raise CrossviewError(
                f"--weights: {CONSTANT!r} is the row of what needs no model; give it another name, "
                f"as in --weights mine={path_of_first}"
            )
        if not label or "/" in label or label.startswith("."):
            raise CrossviewError(f"--weights: {label!r} cannot be a folder's name; give another")
    read = cache(lambda path: Weights.of(load_model(path)))
    found: list[Contender] = []
    for label, pattern in named:
        if pattern is None:
            config = found[0].weights[0].config
            weights = [Weights.of(untrained(config, seed)) for seed in range(seeds)]
        else:
            weights = [read(pattern.replace(SEED, str(seed))) for seed in range(seeds)]
        found.append(Contender(label=label, path=pattern, weights=tuple(weights)))
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
) -> tuple[list[Cell], list[Failure]]:
    """Judge every model on every benchmark with seeds 0, 1, ...; a cell that is there is kept.

    Each leaves OUT/BENCHMARK/LABEL/seed_N/result.json and pictures; one that fails does not keep
    the others from being made. What says the same of every example has a cell of each benchmark.
    Raises CrossviewError, before anything is trained, where a dataset cannot be opened, a task
    cannot use a model, or a cell was made otherwise.
    """
    with join(device) as process:  # type: ignore[arg-type]
        opened = [benchmark.open(num_train, num_val) for benchmark in benchmarks]
        for splits in opened:
            splits.val[0]  # what it complains of is rather known now than after the training
        jobs = [
            _Job(benchmark, splits, model, seed, out, process.device)
            for benchmark, splits in zip(benchmarks, opened)
            for model, seed in (*itertools.product(models, range(seeds)), (None, 0))
        ]
        records = [_recorded(job.folder, job.request) for job in jobs]
        new = [job for job, record in zip(jobs, records) if record is None]
        for (_, config), job in {(job.benchmark.name, job.config): job for job in new}.items():
            if config:
                _require_fit(job.benchmark, job.splits, config)
        cells: list[Cell] = []
        failures: list[Failure] = []
        for job, record in zip(jobs, records):
            key = (job.benchmark.name, job.label, job.seed)
            try:
                if record := record or _made(job, num_workers):
                    cells.append(_cell_of(record, *key))
            except CrossviewError as error:
                reason = " ".join(str(error).split())
                benchmark, label, seed = key
                failures.append(Failure(benchmark=benchmark, label=label, seed=seed, reason=reason))
                logger.warning("failed: %s", failures[-1])
        return cells, failures


def _require_fit(benchmark: Benchmark, splits: Splits, config: ModelConfig) -> None:
    recipe = benchmark.recipe.for_model(config)
    benchmark.task.network(CroCo(config), splits, recipe)
    if splits.train or not recipe.num_steps(1):
        return
    if benchmark.val is not None and benchmark.data.layout == SHARDS:
        raise CrossviewError(
            f"{benchmark.data.root}: nothing to train {benchmark.task.name} on, as all of its "
            f"scenes are judged on in {benchmark.val.root}; render other scenes for one of them, "
            "or leave out --val-data to hold out a tenth"
        )
    raise CrossviewError(
        f"{benchmark.data.root}: nothing to train {benchmark.task.name} on; train on another "
        f"dataset and name this one as --val-dataset {benchmark.data.layout}=DIR"
    )


@dataclass(frozen=True)
class _Job:
    """A cell to be made."""

    benchmark: Benchmark
    splits: Splits
    contender: Contender | None
    """None: what says the same of every example."""
    seed: int
    out: Path
    device: torch.device

    def __str__(self) -> str:
        return f"{self.benchmark.name}, {self.label}, seed {self.seed}"

    @property
    def label(self) -> str:
        return self.contender.label if self.contender else CONSTANT

    @property
    def config(self) -> ModelConfig | None:
        return self.contender.weights[self.seed].config if self.contender else None

    @property
    def folder(self) -> Path:
        return self.out / self.benchmark.name / self.label / f"seed_{self.seed}"

    @cached_property
    def request(self) -> Plain:
        """Return what decides the numbers."""
        benchmark = self.benchmark
        return {
            "benchmark": benchmark.name,
            "version": VERSION,
            "metrics": [metric.name for metric in benchmark.task.metrics],
            "data": benchmark.data.record,
            "val_data": None if benchmark.val is None else benchmark.val.record,
            "num_train": len(self.splits.train),
            "num_val": len(self.splits.val),
            **(self._of_model(self.contender) if self.contender else self._of_constant),
        }

    def _of_model(self, contender: Contender) -> Plain:
        weights, recipe = contender.weights[self.seed], self.benchmark.recipe
        return {
            "model": to_plain(weights.config),
            "weights": weights.sha256,
            "recipe": to_plain(recipe),
            "precision": resolved_precision(recipe.precision, self.device),
            "seed": self.seed,
        }

    @property
    def _of_constant(self) -> Plain:
        return {
            "constants": constants.VERSION,
            "num_fitted": constants.NUM_FITTED,
            "resize": to_plain(self.benchmark.recipe.resize),
        }


def _made(job: _Job, num_workers: int) -> Plain | None:
    """Judge and record; None where there is no constant answer."""
    task, recipe = job.benchmark.task, job.benchmark.recipe
    outcome = (
        _fine_tuned(job, job.contender, num_workers)
        if job.contender
        else evaluate_constant(task, job.splits, recipe, num_workers=num_workers)
    )
    if outcome is None:
        return None
    record = _write(job, outcome)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items())
    logger.info("%s: %s  (%.0f s)", job, shown, outcome.train_s + outcome.test_s)
    return record


def _fine_tuned(job: _Job, contender: Contender, num_workers: int) -> Outcome:
    recipe = job.benchmark.recipe
    try:
        return evaluate(
            job.benchmark.task,
            contender.model(job.seed),
            job.splits,
            recipe,
            seed=job.seed,
            device=job.device,
            num_workers=num_workers,
            report=lambda step, loss: logger.info("%s: step %d, loss %.4f", job, step, loss),
        )
    except torch.OutOfMemoryError as error:
        raise CrossviewError(
            f"batch_size = {recipe.batch_size}: does not fit into the device's memory; take a "
            "smaller one, or a smaller crop"
        ) from error


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


def _write(job: _Job, outcome: Outcome) -> Plain:
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, panels) in enumerate(outcome.pictures.items()):
        save_panels(folder / f"picture_{number}.png", name, panels)
    record: dict[str, Any] = {
        "request": job.request,
        "path": job.contender.path if job.contender else None,
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
