"""From pairs to batches: a loader that can start at any step."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from generation.errors import CrossviewError
from generation.geometry import UInt8
from generation.shards.reader import SampleError, ShardIndex
from training.data import DataConfig
from training.distributed import processes_that_read
from training.order import Batches, Float64, Int64, Schedule, crop_positions, rank_part
from training.pair_reader import PairReader, centre_crop, crop_at, too_many_damaged
from training.prefetch import prefetching
from training.stopping import heed_only_the_parent, signals_blocked

logger = logging.getLogger(__name__)


class BatchRequest(NamedTuple):
    """One rank's part of a global batch, before anything is read."""

    samples: Int64
    """(b,) sample numbers."""
    crops: Float64
    """(b, 2, 2) uniform numbers in [0, 1): where each view is cropped."""


class Batch(NamedTuple):
    """What a loader hands over: plain values, which cross processes whole."""

    images: Tensor
    """(2, b, S, S, 3) bytes: both views, cropped independently, or whole where that was asked."""
    damaged: dict[int, str]
    """What was wrong with which sample; others stand in their places."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Makes batches of pairs."""

    reader: PairReader
    whole: bool
    """Leave the images uncropped, which must all have one size then."""
    max_damaged: int
    """Pairs of a batch that others may stand in for."""
    random_crop: bool = True

    def batch(self, request: BatchRequest) -> Batch:
        """Return the batch. Raises CrossviewError where there is none."""
        damaged: dict[int, str] = {}
        batch: UInt8 | None = None
        size = self.reader.crop_size
        for row, sample in enumerate(request.samples):
            views = self._good_views(int(sample), damaged)
            if batch is None:
                shape = views[0].shape[:2] if self.whole else (size, size)
                batch = np.empty((2, len(request.samples), *shape, 3), np.uint8)
            for view, image in enumerate(views):
                if not self.whole and self.random_crop:
                    image = crop_at(image, size, request.crops[row, view])
                elif not self.whole:
                    image = centre_crop(image, size)
                elif image.shape != batch.shape[2:]:
                    raise CrossviewError(
                        f"{self.reader.where(int(sample))}: {image.shape[0]} x {image.shape[1]} "
                        f"pixels, others {batch.shape[2]} x {batch.shape[3]}; homographies and "
                        "rotations need images of one size"
                    )
                batch[view, row] = image
        assert batch is not None, "a request has samples"
        return Batch(torch.from_numpy(batch), damaged)

    def _good_views(self, sample: int, damaged: dict[int, str]) -> tuple[UInt8, UInt8]:
        """Return a sample's images or, where they are damaged, those of the next good one.

        Which one that is depends on nothing but the data.
        """
        while True:
            try:
                return self.reader.views(sample)
            except SampleError as error:
                damaged[sample] = str(error)
                if len(damaged) > self.max_damaged:
                    raise too_many_damaged(damaged, self.max_damaged) from error
            sample = (sample + 1) % self.reader.num_pairs


class Readings(Dataset[Any]):
    """What is read for each key or, as a value too, the CrossviewError that says why it is not."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __getitem__(self, key: Any) -> Any:
        """Return what is read, or why it cannot be."""
        try:
            return self._read(key)
        except CrossviewError as error:
            return error


_SHARED_MEMORY = Path("/dev/shm")
"""Where batches wait that other processes have read."""
_BATCHES_AHEAD = 4


def batches_ahead(
    bytes_a_batch: int, num_workers: int, option: str, most: int = _BATCHES_AHEAD
) -> int | None:
    """Return how many batches each process that reads may be ahead; None where there is none.

    Raises CrossviewError, naming the option, where the shared memory has no room for one each:
    PyTorch would hang, or die of SIGBUS.
    """
    if not num_workers:
        return None
    if not _SHARED_MEMORY.is_dir():
        return most
    num_processes = num_workers * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    room = shutil.disk_usage(_SHARED_MEMORY).free
    if ahead := min(most, room // (num_processes * bytes_a_batch)):
        return ahead
    raise CrossviewError(
        f"{option} = {num_workers}: {num_processes} batches of {bytes_a_batch / 1e6:.0f} "
        f"MB do not fit into {_SHARED_MEMORY}, which has {room / 1e6:.0f} MB left; docker run "
        f"--shm-size=8g gives a container more, and {option} = 0 does without"
    )


class Requests(Sampler[BatchRequest]):
    """The requests of one rank from first_step to the last."""

    def __init__(
        self, schedule: Schedule, first_step: int, num_steps: int, rank: int, world_size: int
    ) -> None:
        self.schedule, self.num_steps = schedule, num_steps
        self.steps = range(first_step, num_steps)
        self._rows = rank_part(schedule.batch_size, rank, world_size)
        self.num_rows = len(range(schedule.batch_size)[self._rows])
        """Pairs of a request."""

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yield a request a step; holds one epoch's order of each dataset at a time."""
        schedule = self.schedule
        batches = Batches(schedule, self.num_steps)
        for step in self.steps:
            crops = crop_positions(schedule.seed, step, schedule.batch_size)
            yield BatchRequest(batches.samples(step)[self._rows], crops[self._rows])


def batches(
    index: ShardIndex,
    crop_size: int,
    requests: Requests,
    config: DataConfig,
    *,
    on_gpu: bool,
    whole: bool = False,
) -> Generator[Tensor, None, None]:
    """Yield the (2, b, S, S, 3) bytes of each step; whole: of uncropped images.

    on_gpu: whether they go to one; then they are in pinned memory.
    A damaged pair is named in a warning, and the next good one stands in its place. Raises
    CrossviewError where there are more than config.max_damaged, and on data that cannot be read.
    """
    num_workers = processes_that_read(config.num_workers, on_gpu=on_gpu)
    most = config.max_damaged
    remote = any(map(index.is_remote, range(len(index.shards))))
    cache = config.cache if remote else None
    reader = config.reader(index, crop_size)
    recorded = index.config.get("pairs", {}) if whole else {}
    height, width = reader.size_of(*recorded.get("image_size", (crop_size, crop_size)))
    bytes_a_batch = requests.num_rows * 2 * height * width * 3
    pairs = Pairs(reader=reader, whole=whole, max_damaged=most, random_crop=config.random_crop)
    loader = DataLoader(
        Readings(pairs.batch),
        batch_size=None,  # a request is a whole batch already
        sampler=requests,
        num_workers=num_workers,  # they live for the whole run: one pass covers all epochs
        pin_memory=on_gpu,
        prefetch_factor=batches_ahead(bytes_a_batch, num_workers, "data.num_workers"),
        worker_init_fn=heed_only_the_parent,
    )
    damaged: dict[int, str] = {}
    with signals_blocked():
        incoming = iter(loader)  # starts the workers: no thread of ours may run when they fork
    with prefetching(index, requests.schedule, requests.steps, requests.num_steps, cache) as done:
        for batch in incoming:
            if isinstance(batch, CrossviewError):
                raise batch
            for sample, what in batch.damaged.items():
                if sample not in damaged:
                    damaged[sample] = what
                    logger.warning("damaged pair %d, another stands in: %s", len(damaged), what)
            if len(damaged) > most:
                raise too_many_damaged(damaged, most)
            yield batch.images
            done()
