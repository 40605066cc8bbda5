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
_ORDER, _CROPS, _JITTER, _MASKS, _WEIGHTS, _VALIDATION_MASKS, _MIXTURE, _WARPS, _SWAPS = range(9)

_BLOCK = 4096
"""Steps whose sums are kept at a time; a run may have millions."""


def epoch_order(
    shard_sizes: Sequence[int], seed: int, epoch: int, window: int, dataset: int = 0
) -> Int64:
    """Return the order in which an epoch visits the samples of shards of these sizes.

    Samples are numbered through the shards as listed. The shards are shuffled, put end to end, and
    permuted within windows of this many samples, so that a reader touches few shards at a time; a
    window of at least the number of samples is a uniform permutation. dataset: its number in a
    mixture, so that equal datasets are visited in orders of their own.
    """
    generator = np.random.default_rng([seed, _ORDER, epoch, dataset])
    ends = np.cumsum(shard_sizes)
    shards = generator.permutation(len(shard_sizes))
    order = np.concatenate([np.arange(ends[i] - shard_sizes[i], ends[i]) for i in shards])
    for start in range(0, len(order), window):
        generator.shuffle(order[start : start + window])
    return order.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One dataset's part in a mixture."""

    shard_sizes: tuple[int, ...]
    """Samples of each shard."""
    weight: float = 1.0
    """Its part of the samples at the start of the run, in proportion to the others' weights."""
    weight_end: float | None = None
    """The same at the end, with a straight line between; None: as at the start."""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(self.shard_sizes)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a run sees: each dataset epoch after epoch, cut into global batches.

    A batch that reaches the end of an epoch goes on with the next one, so that an epoch shows every
    sample exactly once, whatever the sizes. The datasets' samples are numbered one after another.
    """

    shares: tuple[Share, ...]
    """The datasets; a single one has all of every batch."""
    batch_size: int
    """Samples of a global batch."""
    seed: int
    """The run's seed."""
    window: int
    """Samples of a dataset permuted among each other at a time."""

    def __post_init__(self) -> None:
        if self.batch_size > self.num_samples:
            raise CrossviewError(
                f"optim.batch_size = {self.batch_size}, but the training scenes hold only "
                f"{self.num_samples} pairs; render more or take a smaller batch"
            )

    @property
    def num_samples(self) -> int:
        """Samples of all datasets."""
        return sum(share.num_samples for share in self.shares)

    @property
    def steps_per_epoch(self) -> float:
        """Batches that hold as many samples as all datasets."""
        return self.num_samples / self.batch_size


class Batches:
    """The samples of each global batch of a run; keeps one epoch's order of each dataset."""

    def __init__(self, schedule: Schedule, num_steps: int) -> None:
        self._schedule = schedule
        self._taken = SamplesTaken(schedule, num_steps)
        self._visits = [
            Visits(share.shard_sizes, schedule.seed, schedule.window, number)
            for number, share in enumerate(schedule.shares)
        ]
        sizes = [share.num_samples for share in schedule.shares]
        self._first = np.cumsum([0, *sizes])

    def samples(self, step: int) -> Int64:
        """Return the (batch_size,) sample numbers of a step, counted from 0."""
        starts, ends = self._taken.before(step), self._taken.before(step + 1)
        parts = [
            first + visits.between(start, end)
            for visits, first, start, end in zip(self._visits, self._first, starts, ends)
        ]
        samples = np.concatenate(parts)
        if len(parts) > 1:  # so that every rank gets some of every dataset
            np.random.default_rng([self._schedule.seed, _MIXTURE, step]).shuffle(samples)
        return samples


class Visits:
    """The samples of one dataset in the order of a run, epoch after epoch."""

    def __init__(self, shard_sizes: Sequence[int], seed: int, window: int, dataset: int) -> None:
        self._sizes, self._num_samples = shard_sizes, sum(shard_sizes)
        self._seed, self._window, self._dataset = seed, window, dataset
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def between(self, start: int, stop: int) -> Int64:
        """Return the visits from start to before stop."""
        parts = [np.empty(0, np.int64)]
        while start < stop:
            epoch, place = divmod(int(start), self._num_samples)
            if epoch != self._epoch:
                self._order = epoch_order(
                    self._sizes, self._seed, epoch, self._window, self._dataset
                )
                self._epoch = epoch
            parts.append(self._order[place : place + int(stop - start)])
            start += len(parts[-1])
        return np.concatenate(parts)


class SamplesTaken:
    """How many samples of each dataset were taken before a step; keeps the sums of one block."""

    def __init__(self, schedule: Schedule, num_steps: int) -> None:
        self._schedule, self._num_steps = schedule, num_steps
        self._go_to(0, np.zeros(len(schedule.shares), np.int64))

    def before(self, step: int) -> Int64:
        """Return the (datasets,) sums; from one step to a later one takes 0.1 us a step between."""
        if len(self._schedule.shares) == 1:
            return np.array([step * self._schedule.batch_size])
        if step < self._first:
            self._go_to(0, np.zeros_like(self._sums[0]))
        while step > self._first + _BLOCK:
            self._go_to(self._first + _BLOCK, self._sums[-1])
        return self._sums[step - self._first]

    def _go_to(self, first: int, taken: Int64) -> None:
        counts = samples_of_steps(self._schedule, np.arange(first, first + _BLOCK), self._num_steps)
        self._first, self._sums = first, np.cumsum(np.concatenate([[taken], counts]), axis=0)


def samples_of_steps(schedule: Schedule, steps: Int64, num_steps: int) -> Int64:
    """Return (steps, datasets): how many samples of each dataset these steps of a run take.

    A step takes its weights' part of the batch, rounded down or up. Which of the two turns with the
    golden ratio, which keeps every sum within a few samples of the exact one. Source: systematic
    sampling with a Kronecker sequence.
    """
    start = np.array([share.weight for share in schedule.shares])
    end = np.array(
        [s.weight if s.weight_end is None else s.weight_end for s in schedule.shares], float
    )
    progress = (steps + 0.5) / max(1, num_steps)
    start, end = start / start.sum(), end / end.sum()
    parts = start + progress[:, None] * (end - start)
    ends = schedule.batch_size * np.cumsum(parts, axis=1)
    ends[:, -1] = schedule.batch_size
    turn = (steps * (5**0.5 - 1) / 2 % 1)[:, None]
    places = np.floor(np.concatenate([0 * turn, ends], axis=1) + turn)
    return np.diff(places, axis=1).astype(np.int64)


def rank_part(global_batch: int, rank: int, world_size: int) -> slice:
    """Return the rows of a global batch that a rank works on; their numbers differ by one at most.

    The same function cuts a rank's rows into the parts of a step.
    """
    assert world_size <= global_batch, (world_size, global_batch)
    return slice(rank * global_batch // world_size, (rank + 1) * global_batch // world_size)


def crop_positions(seed: int, step: int, batch_size: int) -> Float64:
    """Return (batch, 2 views, 2) uniform numbers in [0, 1): where to crop, row then column."""
    return np.random.default_rng([seed, _CROPS, step]).random((batch_size, 2, 2))


def jitter_generator(seed: int, step: int) -> np.random.Generator:
    """Return the generator of a step's colour jitter."""
    return np.random.default_rng([seed, _JITTER, step])


def swapped_views(seed: int, step: int, batch_size: int) -> NDArray[np.bool_]:
    """Return (batch,) whether the second view is the target, of a model that sees one alone."""
    return np.random.default_rng([seed, _SWAPS, step]).random(batch_size) < 0.5


def warp_generator(seed: int, step: int) -> np.random.Generator:
    """Return the generator of a step's homographies and rotations."""
    return np.random.default_rng([seed, _WARPS, step])


def random_masks(
    seed: int,
    step: int,
    batch_size: int,
    num_patches: int,
    num_masked: int,
    rows: slice = slice(None),
) -> NDArray[np.bool_]:
    """Return (batch, num_patches) masks, each True at exactly num_masked uniform positions.

    rows: those of the batch that are wanted. Sorting them takes far longer than drawing all.
    """
    numbers = np.random.default_rng([seed, _MASKS, step]).random((batch_size, num_patches))
    return _least(numbers[rows], num_masked)


def validation_masks(count: int, num_patches: int, num_masked: int) -> NDArray[np.bool_]:
    """Return the same (count, num_patches) masks for every run."""
    numbers = np.random.default_rng([0, _VALIDATION_MASKS]).random((count, num_patches))
    return _least(numbers, num_masked)


def weights_seed(seed: int) -> int:
    """Return the seed of the model's initial weights."""
    return int(np.random.default_rng([seed, _WEIGHTS]).integers(2**62))


def _least(numbers: Float64, count: int) -> NDArray[np.bool_]:
    """Return where the count least numbers of each row are."""
    return numbers.argsort(1).argsort(1) < count
