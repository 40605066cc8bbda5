"""A model is fine-tuned on a task with a seed, and judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from generation.errors import CrossviewError, first_few
from training.downstream.example import Example, Examples, Splits, spread
from training.downstream.finetune import (
    PATIENCE_S,
    Report,
    Snapshot,
    finetune,
    precision,
    read_or_told,
)
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Panels, Prediction, Task
from training.downstream.transforms import covering
from training.model.croco import CroCo, ModelConfig, initialise
from training.order import weights_seed

VERSION = 7
"""Raised when losses or scores change: results from before are then not compared with those after.
"""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What can be judged: a fine-tuned network, or what says the same of every example."""

    answer: Answer
    """Of an example at the recipe's size."""
    recipe: Recipe
    num_steps: int = 0
    """Of fine-tuning."""
    train_s: float
    """Wall time of fine-tuning, in seconds."""
    num_parameters: int = 0
    """Of the network, pre-trained ones and head."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out."""

    fitted: Fitted
    """What was judged."""
    metrics: dict[str, float]
    """By name; one that no example says anything about is missing."""
    test_s: float
    """Wall time of prediction and scoring, in seconds."""
    pictures: dict[str, Panels]
    """Of some examples, by their names."""


def fine_tuned(
    task: Task,
    model: CroCo,
    splits: Splits,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    num_workers: int,
    report: Report,
    snapshot: Snapshot | None,
) -> Fitted:
    """Fine-tune a model on splits.train.

    seed decides the head's weights and the order and crops of the training examples. model is
    changed. report and snapshot: as finetune has them. Raises CrossviewError where
    model, data and recipe do not go together.
    """
    recipe = recipe.for_model(model.config)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = task.network(model, splits, recipe).to(device)
        seconds = finetune(
            task,
            network,
            _Sized(splits.train, recipe),
            recipe,
            seed=seed,
            num_workers=num_workers,
            report=report,
            snapshot=snapshot,
        )

    def answer(example: Example) -> Prediction:
        with torch.inference_mode(), precision(recipe, device):
            return task.predict(network, example, recipe)

    return Fitted(
        answer=answer,
        recipe=recipe,
        num_steps=recipe.num_steps(len(splits.train)),
        train_s=seconds,
        num_parameters=sum(weight.numel() for weight in network.parameters()),
    )


def baseline(task: Task, splits: Splits, recipe: Recipe) -> Fitted | None:
    """Return what says the same of every example, fitted to splits.train; None where none can."""
    began = time.perf_counter()
    answer = task.baseline(replace(splits, train=_Sized(splits.train, recipe)))
    if answer is None:
        return None
    return Fitted(answer=answer, recipe=recipe, train_s=time.perf_counter() - began)


def judged(
    task: Task,
    fitted: Fitted,
    examples: Examples,
    *,
    num_pictures: int = 0,
    num_workers: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Judge on examples; num_pictures of them, evenly spread, are drawn.

    report: told now and then how many are done. Raises CrossviewError naming all examples that
    cannot be read.
    """
    began = told = time.monotonic()
    shown = {int(n) for n in spread(len(examples), num_pictures)}
    sized = _Sized(examples, fitted.recipe)
    scores, pictures, damaged = [], {}, []
    for number, example in enumerate(
        read_or_told(sized.__getitem__, range(len(sized)), num_workers)
    ):
        if isinstance(example, CrossviewError):
            damaged.append(" ".join(str(example).split()))
        elif not damaged:  # else all that is left to know is what else is
            prediction = fitted.answer(example)
            scores.append(task.score(prediction, example))
            if number in shown:
                pictures[example.name] = task.pictures(example, prediction)
        if time.monotonic() - told > PATIENCE_S:
            told = time.monotonic()
            report(number + 1)
    if damaged:
        several = f"{len(damaged)} of {len(sized)} examples cannot be read; "
        named = first_few(damaged, most=100, separator="; ")
        raise CrossviewError(named if len(damaged) == 1 else several + named)
    return Outcome(
        fitted=fitted,
        metrics=_known(task, task.summarise(scores)),
        test_s=time.monotonic() - began,
        pictures=pictures,
    )


@dataclass(frozen=True)
class _Sized:
    """Examples at the size that a recipe says."""

    examples: Examples
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> Example:
        return covering(self.examples[number], self.recipe.resize)


def _known(task: Task, values: dict[str, float]) -> dict[str, float]:
    """Return the task's metrics, in their order, without those of which nothing is known."""
    names = [metric.name for metric in task.metrics]
    return {
        name: float(values[name]) for name in names if not math.isnan(values.get(name, math.nan))
    }


def untrained(config: ModelConfig, seed: int) -> CroCo:
    """Return a model with the random weights that pre-training with this seed begins with."""
    model = CroCo(config)
    initialise(model, torch.Generator().manual_seed(weights_seed(seed)))
    return model
