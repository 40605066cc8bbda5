"""Fine-tuning: the same loop for every task."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, default_collate

from generation.errors import CrossviewError
from generation.files import remove_partial_files
from training.device import resolved_precision
from training.downstream.example import Examples
from training.downstream.features import layer_decay_groups
from training.downstream.recipe import Recipe
from training.downstream.task import Batch, Task
from training.downstream.transforms import covering
from training.ema import WeightAverage
from training.host_memory import keep_freed_memory
from training.loader import Readings, batches_ahead
from training.torch_file import UnusableFile, read_torch_file, write_torch_file

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
Item = TypeVar("Item")

_ORDER, _DRAWS = 1, 2
"""Tell streams of random numbers apart that have the same seed."""
PATIENCE_S = 30.0
"""Without a report for so long, there is one."""
_BATCHES_AHEAD = 2
"""Of each process that reads: they are large, and a step takes long."""
_KEEP_EVERY_S = 600.0
"""What is lost at most when training is killed."""


def read_all(
    read: Callable[[Key], Item],
    keys: Iterable[Key],
    num_workers: int,
    pin_memory: bool = False,
    ahead: int | None = None,
) -> Iterator[Item]:
    """Yield what is read for each key, in their order, by num_workers processes; 0: by this one.

    ahead: most that each of them has read before it is asked for. Raises CrossviewError as read
    does, whichever process it comes from.
    """
    for item in read_or_told(read, keys, num_workers, pin_memory, ahead):
        if isinstance(item, CrossviewError):
            raise item
        yield item


def read_or_told(
    read: Callable[[Key], Item],
    keys: Iterable[Key],
    num_workers: int,
    pin_memory: bool = False,
    ahead: int | None = None,
) -> Iterable[Item | CrossviewError]:
    """Return the same, with the CrossviewErrors among it instead of raised."""
    return DataLoader(
        Readings(read),
        batch_size=None,  # as it is read: nothing is collated
        sampler=keys,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=ahead,
        generator=torch.Generator(),  # else it draws from the one that drop path draws from
    )


class _Draw(NamedTuple):
    """One training sample, before anything is read."""

    number: int
    """Of the example."""
    key: tuple[int, int, int]
    """Decides its crop, flip and jitter: seed, step, row."""


@dataclass(frozen=True)
class _Samples:
    task: Task
    examples: Examples
    recipe: Recipe

    def batch(self, draws: list[_Draw]) -> Batch:
        batch: Batch = default_collate([self._sample(draw) for draw in draws])
        return batch

    def bytes_a_batch(self, draw: _Draw) -> int:
        sample = self._sample(draw)
        return self.recipe.batch_size * sum(tensor.nbytes for tensor in sample.values())

    def _sample(self, draw: _Draw) -> Batch:
        random = np.random.default_rng((_DRAWS, *draw.key))
        example = covering(self.examples[draw.number], self.recipe.resize)
        return self.task.sample(example, self.recipe, random)


class _Draws(Sampler[list[_Draw]]):
    """The batches of a run: epoch after epoch, each example once in each, seed decides."""

    def __init__(self, num_examples: int, batch_size: int, steps: range, seed: int) -> None:
        self._num_examples, self._batch_size = num_examples, batch_size
        self._steps, self._seed = steps, seed

    def __len__(self) -> int:
        return len(self._steps)

    def _order(self) -> Iterator[int]:
        epoch = 0
        while True:
            random = np.random.default_rng((self._seed, _ORDER, epoch))
            yield from random.permutation(self._num_examples)
            epoch += 1

    def __iter__(self) -> Iterator[list[_Draw]]:
        order = islice(self._order(), self._steps.start * self._batch_size, None)
        for step in self._steps:
            rows = range(self._batch_size)
            yield [_Draw(int(next(order)), (self._seed, step, row)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What fine-tuning took."""

    num_steps: int
    seconds: float
    """By the clock, of all goes."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where training is kept while it runs."""

    path: Path
    fingerprint: str
    """Tells this training from others: what another one kept is left unread."""


@dataclass(frozen=True)
class _Training:
    """All that changes from step to step."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None

    def restore(self, snapshot: Snapshot) -> tuple[int, float]:
        """Go on from what was kept, if anything was; return the steps and seconds that it took."""
        remove_partial_files(snapshot.path.parent)
        if not snapshot.path.exists():
            return 0, 0.0
        try:
            state = read_torch_file(snapshot.path)
        except UnusableFile as error:
            logger.warning("%s; training begins anew", error)
            return 0, 0.0
        if state["of"] != snapshot.fingerprint:
            return 0, 0.0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load(state["average"])
        torch.set_rng_state(state["random"])
        # None: until here it ran on a CPU.
        if self._device.type == "cuda" and state["random_of_device"] is not None:
            torch.cuda.set_rng_state(state["random_of_device"], self._device)
        logger.info("going on from step %d", state["step"])
        return state["step"], state["seconds"]

    def save(self, snapshot: Snapshot, step: int, seconds: float) -> None:
        """Write it down, whole."""
        cuda = self._device.type == "cuda"
        state = {
            "of": snapshot.fingerprint,
            "step": step,
            "seconds": seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.averages if self.average else {},
            "random": torch.get_rng_state(),
            "random_of_device": torch.cuda.get_rng_state(self._device) if cuda else None,
        }
        snapshot.path.parent.mkdir(parents=True, exist_ok=True)
        write_torch_file(state, snapshot.path)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then half a cosine to min_lr."""
    warmup = recipe.warmup * num_steps
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, num_steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def precision(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs."""
    enabled = resolved_precision(recipe.precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def finetune(
    task: Task,
    network: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    num_workers: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
    snapshot: Snapshot | None = None,
) -> Trained:
    """Train a network in place, on the device that it is on.

    The same seed gives the same samples in the same order for any number of workers. report is told
    the step and the mean loss since it was told before, about five times and every half minute. The
    network is left in evaluation mode. snapshot: where training goes on from, as if it had not been
    stopped. Raises CrossviewError where there is nothing to train on, where batches do not fit into
    the memory that processes share, or where the loss is not finite.
    """
    num_steps = recipe.num_steps(len(examples))
    if num_steps and not examples:
        raise CrossviewError(f"{task.name}: this dataset has no training examples; take another")
    seconds = 0.0
    if num_steps:
        seconds = _train(
            task, network, examples, recipe, num_steps, seed, num_workers, report, snapshot
        )
    network.eval()
    return Trained(num_steps=num_steps, seconds=seconds)


def _train(
    task: Task,
    network: nn.Module,
    examples: Examples,
    recipe: Recipe,
    num_steps: int,
    seed: int,
    num_workers: int,
    report: Callable[[int, float], None],
    snapshot: Snapshot | None,
) -> float:
    device = next(network.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    groups = layer_decay_groups(network, recipe)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    average = WeightAverage(network, recipe.ema) if recipe.ema else None
    training = _Training(network, optimizer, average)
    done, seconds = training.restore(snapshot) if snapshot else (0, 0.0)
    draws = _Draws(len(examples), recipe.batch_size, range(done, num_steps), seed)
    samples = _Samples(task, examples, recipe)
    ahead = None
    if num_workers and done < num_steps:
        bytes_a_batch = samples.bytes_a_batch(next(iter(draws))[0])
        ahead = batches_ahead(bytes_a_batch, num_workers, "--num-workers", _BATCHES_AHEAD)
    batches = read_all(samples.batch, draws, num_workers, device.type == "cuda", ahead)
    network.train()
    every = max(1, num_steps // 5)
    began = told = kept = time.monotonic()
    loss_sum, since = torch.zeros((), device=device), 0
    for step, batch in enumerate(batches, done):
        on_device = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, num_steps) * group.get("lr_scale", 1.0)
        optimizer.zero_grad(set_to_none=True)
        with precision(recipe, device):
            loss = task.loss(network, on_device)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        if average:
            average.update(step)
        loss_sum, since = loss_sum + loss.detach(), since + 1
        if time.monotonic() - told > PATIENCE_S or (step + 1) % every == 0 or step + 1 == num_steps:
            mean = float(loss_sum) / since
            if not math.isfinite(mean):
                raise CrossviewError(
                    f"{task.name}: the loss is {mean} at step {step + 1} of {num_steps}; take a "
                    f"lower lr (now {recipe.lr})"
                )
            report(step + 1, mean)
            loss_sum, since, told = torch.zeros_like(loss_sum), 0, time.monotonic()
            if snapshot and told - kept > _KEEP_EVERY_S:
                training.save(snapshot, step + 1, seconds + told - began)
                kept = time.monotonic()
    seconds += time.monotonic() - began
    if snapshot and done < num_steps:  # until what is made of it is safe too
        training.save(snapshot, num_steps, seconds)
    if average:
        network.load_state_dict(network.state_dict() | average.averages)
    return seconds
