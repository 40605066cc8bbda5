"""Evaluate models on downstream tasks: every model, task, dataset and seed is a cell of a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError
from generation.plain import Plain, diff_plain, to_plain
from generation.shards.files import write_text_whole
from pipelines.evaluation_figures import save_panels
from pipelines.machine import processor
from training.checkpoint import load_model
from training.distributed import join
from training.downstream.evaluation import (
    Outcome,
    at_most,
    evaluate,
    untrained,
    weights_digest,
)
from training.downstream.example import Joined, Splits
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
class Benchmark:
    """A task on a dataset, with its recipe."""

    task: Task
    layout: str
    """Of the dataset, a key of task.datasets."""
    root: Path
    recipe: Recipe
    val_root: Path | None = None
    """Another dataset of the layout, all of which is judged on; then all of root trains."""

    @property
    def name(self) -> str:
        """As folders and tables call it."""
        return self.task.name if self.layout == SHARDS else f"{self.task.name}-{self.layout}"

    def open(self, num_train: int | None, num_val: int | None) -> Splits:
        """Open the dataset, or at most so many examples of it, evenly spread."""
        open_ = self.task.datasets[self.layout]
        splits = open_(self.root)
        if self.val_root is not None:
            other = open_(self.val_root)
            splits = replace(
                splits,
                train=Joined(splits.train, splits.val),
                val=Joined(other.train, other.val),
            )
        if not splits.val:
            raise CrossviewError(f"{self.root}: no examples to judge {self.task.name} on")
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

    Each leaves OUT/BENCHMARK/LABEL/seed_N/result.json and pictures. A model that a task cannot use
    fails before anything is trained. Raises CrossviewError where a cell was made otherwise.
    """
    cells: list[Cell] = []
    with join(device) as process:  # type: ignore[arg-type]
        for benchmark in benchmarks:
            splits = benchmark.open(num_train, num_val)
            for model in models:
                benchmark.task.network(model.model(0), splits, benchmark.recipe)
            for model in models:
                for seed in range(seeds):
                    cells.append(
                        _cell(benchmark, splits, model, seed, out, process.device, num_workers)
                    )
    return cells


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
        "data": str(benchmark.root),
        "val_data": None if benchmark.val_root is None else str(benchmark.val_root),
        "num_train": len(splits.train),
        "num_val": len(splits.val),
        "weights": weights_digest(model),
        "recipe": to_plain(benchmark.recipe),
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
    return Cell(
        benchmark=benchmark.name,
        label=contender.label,
        seed=seed,
        **{name: record[name] for name in _OUTCOME},
    )


_OUTCOME = ("metrics", "num_steps", "train_s", "test_s", "num_parameters")


def _recorded(folder: Path, request: Plain) -> Plain | None:
    """Return a cell's record, where it is there."""
    path = folder / RESULT_NAME
    if not path.exists():
        return None
    try:
        record: Plain = json.loads(path.read_text())
        lines = diff_plain(record["request"], request)
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
    datasets: Mapping[str, Path],
    recipe: Callable[[Task], Recipe],
    val_data: Path | None = None,
) -> list[Benchmark]:
    """Pair every task with every dataset, a folder by its layout, that it can be judged on.

    Raises CrossviewError for a task without a dataset and a dataset without a task.
    """
    for layout in datasets:
        if not any(layout in task.datasets for task in tasks):
            known = sorted({name for task in tasks for name in task.datasets})
            raise CrossviewError(
                f"--dataset {layout}=...: none of the tasks takes it; they take {', '.join(known)}"
            )
    found = []
    for task in tasks:
        layouts = [layout for layout in datasets if layout in task.datasets]
        if not layouts:
            raise CrossviewError(
                f"{task.name}: no dataset for it; give " + " or ".join(map(option, task.datasets))
            )
        found += [
            Benchmark(
                task=task,
                layout=layout,
                root=datasets[layout],
                recipe=recipe(task),
                val_root=val_data if layout == SHARDS else None,
            )
            for layout in layouts
        ]
    return found


def option(layout: str) -> str:
    """Return how a dataset of this layout is named on the command line."""
    return "--data DIR" if layout == SHARDS else f"--dataset {layout}=DIR"
