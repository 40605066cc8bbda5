"""Evaluate models on downstream tasks: every model, task, dataset and seed is a cell of a table."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.machine import processor
from generation.plain import Plain, diff_plain, to_plain
from pipelines.evaluation.benchmarks import SHARDS, Benchmark
from pipelines.evaluation.contenders import CONSTANT, Contender
from pipelines.evaluation.figures import save_panels
from training.device import device_name, resolved_precision
from training.distributed import join, processes_that_read
from training.downstream import baselines
from training.downstream.evaluation import (
    VERSION,
    Fitted,
    Outcome,
    baseline,
    fine_tuned,
    judged,
)
from training.downstream.example import Example, Examples, Splits
from training.downstream.finetune import Snapshot
from training.downstream.tasks import OF_MIDDLES
from training.downstream.transforms import hfov_deg
from training.model.croco import CroCo, ModelConfig

logger = logging.getLogger(__name__)

RESULT_NAME = "result.json"
_TRAINING = "training.pt"
"""In a cell's folder: a fine-tuning that is not at its end, or not judged on all that a command
names."""
MOST_WIDER = 1.05
"""How many times wider the views of one dataset may be than another's, before it is said."""
NUM_PICTURES = 4
"""Of predictions, of each cell."""


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
        """Wall time in seconds, with the training that it may share with other cells."""
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


def evaluate_all(
    benchmarks: Sequence[Benchmark],
    models: Sequence[Contender],
    *,
    seeds: int,
    out: Path,
    device: str = "auto",
    num_train: int | None = None,
    num_val: int | None = None,
    num_workers: int | None = None,
) -> tuple[list[Cell], list[Failure]]:
    """Judge every model on every benchmark with seeds 0, 1, ...; a cell that is there is kept.

    Each leaves OUT/BENCHMARK/LABEL/seed_N/result.json and pictures; one that fails does not keep
    the others from being made. What is trained alike is trained once, and judged on each of its
    benchmarks; in a task without training, seeds of the same weights are one. What says the same of
    every example has a cell of each benchmark. num_workers: see processes_that_read. Raises
    CrossviewError, before anything is trained, where a dataset cannot be opened, a task cannot use
    a model, or a cell was made otherwise.
    """
    with join(device) as process:  # type: ignore[arg-type]
        if process.world_size > 1:
            raise CrossviewError(
                f"evaluate runs in one process, not {process.world_size}; start one for each GPU, "
                "CUDA_VISIBLE_DEVICES=3 crossview evaluate on the fourth, with other tasks or "
                "weights and an --out of its own"
            )
        num_workers = processes_that_read(num_workers, on_gpu=process.device.type == "cuda")
        opened = [benchmark.open(num_train, num_val) for benchmark in benchmarks]
        for benchmark, splits in zip(benchmarks, opened):
            first = splits.val[0]  # fail before training, not after
            _warn_of_views(benchmark, splits.train, first)
        jobs = [
            _Job(benchmark, splits, model, seed, out, process.device)
            for benchmark, splits in zip(benchmarks, opened)
            for model in (*models, None)
            for seed in _seeds_of(benchmark, model, seeds)
        ]
        results: dict[Path, Cell | Failure | None] = {job.folder: _recorded(job) for job in jobs}
        _require_fit([job for job in jobs if results[job.folder] is None])
        for group in _trained_alike(jobs):
            if missing := [job for job in group if results[job.folder] is None]:
                results |= _made(group[0], missing, num_workers)
            # What was trained is kept until all of it is judged.
            if not any(isinstance(results[job.folder], Failure) for job in group):
                (group[0].folder / _TRAINING).unlink(missing_ok=True)
        found = list(results.values())
        return (
            [result for result in found if isinstance(result, Cell)],
            [result for result in found if isinstance(result, Failure)],
        )


def _warn_of_views(benchmark: Benchmark, train: Examples, judged_on: Example) -> None:
    """Warn where angles or metres are learnt from views of another width than those judged on."""
    if benchmark.val is None or benchmark.task.name not in OF_MIDDLES or not train:
        return
    try:
        examples = train[0], judged_on
    except CrossviewError:
        return  # which the training will say
    size = benchmark.recipe.crop or (1, 1)  # else square, as models are
    learnt_deg, judged_deg = (hfov_deg(example, size) for example in examples)
    if learnt_deg is None or judged_deg is None:
        return
    learnt, judged = (math.tan(math.radians(each / 2)) for each in (learnt_deg, judged_deg))
    if max(learnt / judged, judged / learnt) > MOST_WIDER:
        remedy = "train on such views"
        if benchmark.data.layout == SHARDS:
            remedy += f": crossview render-pairs ... --set pairs.hfov_deg={judged_deg:.1f}"
        logger.warning(
            "%s: trained on views of %.1f degrees, but judged on views of %.1f, by which angles "
            "and metres are misread; %s",
            *(benchmark.name, learnt_deg, judged_deg, remedy),
        )


def _seeds_of(benchmark: Benchmark, contender: Contender | None, seeds: int) -> list[int]:
    """Return the seeds that tell something; without training, the first one of each weights."""
    if contender is None:
        return [0]
    if any(recipe.epochs for recipe in benchmark.task.recipes.values()):
        return list(range(seeds))
    digests = [weights.sha256 for weights in contender.weights[:seeds]]
    return sorted({digest: digests.index(digest) for digest in digests}.values())


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

    def trained_as(self, other: _Job) -> bool:
        """Return whether both are the same until they are judged."""
        mine, its = self.benchmark, other.benchmark
        return (
            (mine.task, mine.data, mine.recipe) == (its.task, its.data, its.recipe)
            and (self.label, self.seed) == (other.label, other.seed)
            # Of shards, those are trained on that are not judged on.
            and (mine.data.layout != SHARDS or self.splits.train == other.splits.train)
        )

    @cached_property
    def request(self) -> Plain:
        """Return all that the numbers depend on."""
        benchmark = self.benchmark
        judging: Plain = {
            "benchmark": benchmark.name,
            "version": VERSION,
            "metrics": [metric.name for metric in benchmark.task.metrics],
            "data": benchmark.data.record,
            "val_data": None if benchmark.val is None else benchmark.val.record,
            "num_train": len(self.splits.train),
            "num_val": len(self.splits.val),
        }
        if self.contender is None:
            return {
                **judging,
                "constants": baselines.VERSION,
                "num_fitted": baselines.NUM_FITTED,
                "resize": to_plain(benchmark.recipe.resize),
            }
        weights = self.contender.weights[self.seed]
        return {
            **judging,
            "model": to_plain(weights.config),
            "weights": weights.sha256,
            "recipe": to_plain(benchmark.recipe),
            "precision": resolved_precision(benchmark.recipe.precision, self.device),
            "seed": self.seed,
        }

    @property
    def training(self) -> Plain:
        """Return the part of it that the trained network depends on."""
        of_judging = {"benchmark", "metrics", "num_val"}
        if self.benchmark.data.layout != SHARDS:  # of these, it decides what is trained on
            of_judging.add("val_data")
        return {name: value for name, value in self.request.items() if name not in of_judging}


def _require_fit(jobs: Sequence[_Job]) -> None:
    """Raise CrossviewError where a task cannot use a model, or has nothing to train it on."""
    for job in {(job.benchmark.name, job.config): job for job in jobs}.values():
        if job.config is None:
            continue
        benchmark, recipe = job.benchmark, job.benchmark.recipe.for_model(job.config)
        benchmark.task.network(CroCo(job.config), job.splits, recipe)
        if job.splits.train or not recipe.num_steps(1):
            continue
        nothing = f"{benchmark.data.root}: nothing to train {benchmark.task.name} on"
        if benchmark.val is not None and benchmark.data.layout == SHARDS:
            raise CrossviewError(
                f"{nothing}, as all of its scenes are judged on in {benchmark.val.root}; render "
                "other scenes for one of them, or leave out --val-data to hold out a tenth"
            )
        raise CrossviewError(
            f"{nothing}; train on another dataset and name this one as "
            f"--val-dataset {benchmark.data.layout}=DIR"
        )


def _trained_alike(jobs: Sequence[_Job]) -> list[list[_Job]]:
    groups: list[list[_Job]] = []
    for job in jobs:
        group = next((group for group in groups if job.trained_as(group[0])), None)
        if group is None:
            groups.append([job])
        else:
            group.append(job)
    return groups


def _made(
    first: _Job, missing: Sequence[_Job], num_workers: int
) -> dict[Path, Cell | Failure | None]:
    """Train once, judge and record each, by its folder; None where there is no baseline.

    first: of all that are trained alike, in whose folder training is kept.
    """
    try:
        fitted = _fitted(first, num_workers)
    except CrossviewError as error:
        return {job.folder: _failed(job, error) for job in missing}
    results: dict[Path, Cell | Failure | None] = {}
    for job in missing:
        try:
            results[job.folder] = _judged(job, fitted, num_workers) if fitted else None
        except CrossviewError as error:
            results[job.folder] = _failed(job, error)
    return results


def _failed(job: _Job, error: CrossviewError) -> Failure:
    reason = " ".join(str(error).split())
    failure = Failure(benchmark=job.benchmark.name, label=job.label, seed=job.seed, reason=reason)
    logger.warning("failed: %s", failure)
    return failure


def _fitted(job: _Job, num_workers: int) -> Fitted | None:
    """Fine-tune a job's model, or fit the baseline, where the task has one."""
    task, recipe = job.benchmark.task, job.benchmark.recipe
    if job.contender is None:
        return baseline(task, job.splits, recipe)
    with _told_of_memory(f"batch_size = {recipe.batch_size}", "a smaller one, or a smaller crop"):
        return fine_tuned(
            task,
            job.contender.model(job.seed),
            job.splits,
            recipe,
            seed=job.seed,
            device=job.device,
            num_workers=num_workers,
            report=lambda step, loss: logger.info("%s: step %d, loss %.4f", job, step, loss),
            snapshot=Snapshot(
                path=job.folder / _TRAINING,
                fingerprint=json.dumps(job.training, sort_keys=True),
            ),
        )


def _judged(job: _Job, fitted: Fitted, num_workers: int) -> Cell:
    with _told_of_memory(f"crop = {fitted.recipe.crop}, judged", "a smaller one"):
        outcome = judged(
            job.benchmark.task,
            fitted,
            job.splits.val,
            num_pictures=NUM_PICTURES if job.contender else 0,
            num_workers=num_workers,
            report=lambda done: logger.info("%s: judged %d of %d", job, done, len(job.splits.val)),
        )
    cell = _write(job, outcome)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items())
    logger.info("%s: %s  (%.0f s)", job, shown, cell.cost_s)
    return cell


@contextmanager
def _told_of_memory(what: str, instead: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CrossviewError(
            f"{what}: does not fit into the device's memory; take {instead}"
        ) from error


def _cell_of(job: _Job, record: Plain) -> Cell:
    """Return the cell of a result.json. Raises KeyError where it lacks something."""
    return Cell(
        benchmark=job.benchmark.name,
        label=job.label,
        seed=job.seed,
        metrics=record["metrics"],
        num_steps=record["num_steps"],
        train_s=record["train_s"],
        test_s=record["test_s"],
        num_parameters=record["num_parameters"],
    )


def _recorded(job: _Job) -> Cell | None:
    """Return a cell that is there. Raises CrossviewError where it was made otherwise."""
    path = job.folder / RESULT_NAME
    if not path.exists():
        return None
    try:
        record: Plain = json.loads(path.read_text())
        lines = diff_plain(record["request"], job.request)
        cell = _cell_of(job, record)
    except (ValueError, KeyError, TypeError) as error:
        raise CrossviewError(f"{path}: damaged ({error!r}); remove it") from error
    if lines:
        raise CrossviewError(
            f"{job.folder} holds a result that was made otherwise; take another --out, or remove "
            "it:\n  " + "\n  ".join(lines)
        )
    return cell


def _write(job: _Job, outcome: Outcome) -> Cell:
    job.folder.mkdir(parents=True, exist_ok=True)
    for number, (name, panels) in enumerate(outcome.pictures.items()):
        save_panels(job.folder / f"picture_{number}.png", name, panels)
    record: dict[str, Any] = {
        "request": job.request,
        "path": job.contender.path if job.contender else None,
        "metrics": outcome.metrics,
        "num_steps": outcome.fitted.num_steps,
        "train_s": outcome.fitted.train_s,
        "test_s": outcome.test_s,
        "num_parameters": outcome.fitted.num_parameters,
        "machine": processor(),
        "device": device_name(job.device),
    }
    write_text_whole(job.folder / RESULT_NAME, json.dumps(record, indent=1) + "\n")
    return _cell_of(job, record)
