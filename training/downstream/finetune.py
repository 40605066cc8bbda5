"""Fine-tuning: the same loop for every task."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from generation.errors import CrossviewError
from generation.files import remove_partial_files
from training.device import resolved_precision
from training.downstream.example import Examples
from training.downstream.features import device_of
from training.downstream.recipe import Recipe
from training.downstream.task import Batch, Task
from training.ema import WeightAverage
from training.host_memory import keep_freed_memory
from training.loader import Readings, batches_ahead
from training.model.croco import CroCo
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

Report = Callable[[int, float], None]
"""Told the steps that are done and the mean loss since it was told before."""


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
        return self.task.sample(self.examples[draw.number], self.recipe, random)


def _draws(num_examples: int, batch_size: int, steps: range, seed: int) -> Iterator[list[_Draw]]:
    """Yield the batches of these steps: epoch after epoch, each example once in each."""
    order = islice(_order(num_examples, seed), steps.start * batch_size, None)
    for step in steps:
        yield [_Draw(int(next(order)), (seed, step, row)) for row in range(batch_size)]


def _order(num_examples: int, seed: int) -> Iterator[int]:
    for epoch in count():
        yield from np.random.default_rng((seed, _ORDER, epoch)).permutation(num_examples)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where training is kept while it runs."""

    path: Path
    fingerprint: str
    """Tells this training from others: what another one kept is left unread."""


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


def layer_decay_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, each with the factor of its rate as lr_scale.

    Block i of the n of the encoder learns at layer_decay ** (n - i), the embedding of patches at
    layer_decay ** (n + 1), all else at 1. Biases and norms (1-d tensors) have no weight decay. Of
    a frozen recipe, only the head is in the groups, and the model takes no gradients from here on.
    Source: Clark et al., ELECTRA, ICLR 2020; counted as in BEiT and MAE.
    """
    model = next((part for part in network.modules() if isinstance(part, CroCo)), None)
    scales: dict[nn.Parameter, float] = {}
    if model is not None:
        model.requires_grad_(not recipe.frozen)
        for below, part in enumerate([*reversed(model.enc_blocks), model.patch_embed], 1):
            scales |= dict.fromkeys(part.parameters(), recipe.layer_decay**below)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in network.parameters():
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups[scales.get(parameter, 1.0), decay].append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


class _Training:
    """All that changes from step to step."""

    def __init__(self, task: Task, network: nn.Module, recipe: Recipe, num_steps: int) -> None:
        self.task, self.network, self.recipe = task, network, recipe
        self.done, self.num_steps = 0, num_steps
        self.device = device_of(network)
        groups = layer_decay_groups(network, recipe)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        self.average = WeightAverage(network, recipe.ema) if recipe.ema else None
        self.began = time.monotonic()
        self.loss_sum, self.summed = torch.zeros((), device=self.device), 0

    @property
    def seconds(self) -> float:
        """Return what it took by the clock, in all goes."""
        return time.monotonic() - self.began

    def step(self, batch: Batch) -> None:
        """Take the next step."""
        on_device = {
            name: value.to(self.device, non_blocking=True) for name, value in batch.items()
        }
        rate = learning_rate(self.recipe, self.done, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        with precision(self.recipe, self.device):
            loss = self.task.loss(self.network, on_device)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average:
            self.average.update(self.done)
        self.done += 1
        self.loss_sum, self.summed = self.loss_sum + loss.detach(), self.summed + 1

    def mean_loss(self) -> float:
        """Return the mean loss since it was asked for before; waits for the device.

        Raises CrossviewError where it is not finite.
        """
        mean = float(self.loss_sum) / self.summed
        if not math.isfinite(mean):
            raise CrossviewError(
                f"{self.task.name}: the loss is {mean} at step {self.done} of {self.num_steps}; "
                f"take a lower lr (now {self.recipe.lr})"
            )
        self.loss_sum, self.summed = torch.zeros_like(self.loss_sum), 0
        return mean

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from what was kept, if anything was."""
        remove_partial_files(snapshot.path.parent)
        if not snapshot.path.exists():
            return
        try:
            state = read_torch_file(snapshot.path)
        except UnusableFile as error:
            logger.warning("%s; training begins anew", error)
            return
        if state["of"] != snapshot.fingerprint:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load(state["average"])
        torch.set_rng_state(state["random"])
        # None: until here it ran on a CPU.
        if self.device.type == "cuda" and state["random_of_device"] is not None:
            torch.cuda.set_rng_state(state["random_of_device"], self.device)
        self.done, self.began = state["step"], time.monotonic() - state["seconds"]
        logger.info("going on from step %d", self.done)

    def save(self, snapshot: Snapshot) -> None:
        """Write it down, whole."""
        cuda = self.device.type == "cuda"
        state = {
            "of": snapshot.fingerprint,
            "step": self.done,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.averages if self.average else {},
            "random": torch.get_rng_state(),
            "random_of_device": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        snapshot.path.parent.mkdir(parents=True, exist_ok=True)
        write_torch_file(state, snapshot.path)


def finetune(
    task: Task,
    network: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    num_workers: int,
    report: Report,
    snapshot: Snapshot | None,
) -> float:
    """Train a network in place, where its weights are; return the seconds of all goes by the clock.

    The same seed gives the same samples in the same order for any number of workers. report is told
    about five times and every half minute. The network is left in evaluation mode. snapshot: where
    training goes on from, as if it had not been stopped. Raises CrossviewError where there is
    nothing to train on, where batches do not fit into the memory that processes share, or where the
    loss is not finite.
    """
    num_steps = recipe.num_steps(len(examples))
    if not num_steps:
        network.eval()
        return 0.0
    if not examples:
        raise CrossviewError(f"{task.name}: this dataset has no training examples; take another")
    training = _Training(task, network, recipe, num_steps)
    if snapshot:
        training.restore(snapshot)
    if training.device.type == "cpu":
        keep_freed_memory()
    samples, steps = _Samples(task, examples, recipe), range(training.done, num_steps)
    draws = partial(_draws, len(examples), recipe.batch_size, steps, seed)
    ahead = None
    if num_workers and steps:
        bytes_a_batch = samples.bytes_a_batch(next(draws())[0])
        ahead = batches_ahead(bytes_a_batch, num_workers, "--num-workers", _BATCHES_AHEAD)
    pin_memory = training.device.type == "cuda"
    network.train()
    every = max(1, num_steps // 5)
    told = kept = time.monotonic()
    for batch in read_all(samples.batch, draws(), num_workers, pin_memory, ahead):
        training.step(batch)
        at_end = training.done == num_steps
        if at_end or training.done % every == 0 or time.monotonic() - told > PATIENCE_S:
            report(training.done, training.mean_loss())
            told = time.monotonic()
            if snapshot and (at_end or told - kept > _KEEP_EVERY_S):
                training.save(snapshot)
                kept = time.monotonic()
    seconds = training.seconds
    if training.average:
        network.load_state_dict(network.state_dict() | training.average.averages)
    network.eval()
    return seconds
