"""Which samples make up which batch, and every random number of a step: pure functions.

Nothing here knows of workers, and ranks only cut a finished global batch, so a run's batches
depend neither on the number of workers nor on the number of processes, and step n can be had
without going through the steps before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generation.errors import CrossviewError

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# Independent streams of random numbers: the second entry of every generator's seed.
_ORDER, _CROPS, _JITTER, _MASKS, _WEIGHTS, _VALIDATION_MASKS = range(6)


def epoch_order(shard_sizes: Sequence[int], seed: int, epoch: int, window: int) -> Int64:
    """Return the order in which an epoch visits the samples of shards of these sizes.

    Samples are numbered through the shards as listed. The shards are shuffled, put end to end, and
    permuted within windows of this many samples, so that a reader touches few shards at a time; a
    window of at least the number of samples is a uniform permutation.
    """
    generator = np.random.default_rng([seed, _ORDER, epoch])
    ends = np.cumsum(shard_sizes)
    shards = generator.permutation(len(shard_sizes))
    order = np.concatenate([np.arange(ends[i] - shard_sizes[i], ends[i]) for i in shards])
    for start in range(0, len(order), window):
        generator.shuffle(order[start : start + window])
    return order.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cuts epochs into global batches; the ragged last batch of an epoch is dropped."""

    shard_sizes: tuple[int, ...]
    """Samples of each shard."""
    batch_size: int
    """Samples of a global batch."""
    seed: int
    """The run's seed."""
    window: int
    """Samples permuted among each other at a time."""

    def __post_init__(self) -> None:
        if self.batch_size > sum(self.shard_sizes):
            raise CrossviewError(
                f"optim.batch_size = {self.batch_size}, but the training scenes hold only "
                f"{sum(self.shard_sizes)} pairs; render more or take a smaller batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return sum(self.shard_sizes) // self.batch_size

    def order(self, epoch: int) -> Int64:
        """Return the order of an epoch's samples."""
        return epoch_order(self.shard_sizes, self.seed, epoch, self.window)

    def batch(self, order: Int64, step: int) -> Int64:
        """Return the samples of step (counted from 0 over all epochs), given its epoch's order."""
        start = step % self.steps_per_epoch * self.batch_size
        return order[start : start + self.batch_size]


def rank_part(global_batch: int, rank: int, world_size: int) -> slice:
    """Return the rows of a global batch that a rank works on."""
    assert global_batch % world_size == 0, (global_batch, world_size)
    part = global_batch // world_size
    return slice(rank * part, (rank + 1) * part)


def crop_positions(seed: int, step: int, batch_size: int) -> Float64:
    """Return (batch, 2 views, 2) uniform numbers in [0, 1): where to crop, row then column."""
    return np.random.default_rng([seed, _CROPS, step]).random((batch_size, 2, 2))


def jitter_generator(seed: int, step: int) -> np.random.Generator:
    """Return the generator of a step's colour jitter."""
    return np.random.default_rng([seed, _JITTER, step])


def random_masks(
    seed: int, step: int, batch_size: int, num_patches: int, num_masked: int
) -> NDArray[np.bool_]:
    """Return (batch, num_patches) masks, each True at exactly num_masked uniform positions."""
    return _masks(np.random.default_rng([seed, _MASKS, step]), batch_size, num_patches, num_masked)


def validation_masks(count: int, num_patches: int, num_masked: int) -> NDArray[np.bool_]:
    """Return the same (count, num_patches) masks for every run."""
    return _masks(np.random.default_rng([0, _VALIDATION_MASKS]), count, num_patches, num_masked)


def weights_seed(seed: int) -> int:
    """Return the seed of the model's initial weights."""
    return int(np.random.default_rng([seed, _WEIGHTS]).integers(2**62))


def _masks(
    generator: np.random.Generator, count: int, num_patches: int, num_masked: int
) -> NDArray[np.bool_]:
    ranks = generator.random((count, num_patches)).argsort(1).argsort(1)
    return ranks < num_masked
