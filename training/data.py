"""From shards to batches: the split into scenes, and a loader that can start at any step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from generation.errors import CrossviewError
from generation.geometry import Float32, UInt8
from generation.shards.images import decode_depth_png, decode_jpeg
from generation.shards.reader import ShardIndex, ShardReader, check_size
from generation.shards.schema import DEPTHS, INDEX_NAME, MEND, META, VIEWS, ShardError
from generation.shards.writer import file_sha256
from training.bounds import require
from training.order import Float64, Int64, Schedule, crop_positions, rank_part

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pairs come from."""

    path: Path
    """Folder of shards, with its index.json."""
    val_path: Path | None = None
    """Another folder of shards to validate on; then all scenes of path train."""
    val_scenes: int | None = None
    """Scenes of path held out for validation; None: a tenth, at least 1."""
    window: int = 16384
    """Samples shuffled among each other at a time; the shards of one window are open at once."""
    num_workers: int = 0
    """Processes that decode images, for each training process; 0: the training process itself."""

    def __post_init__(self) -> None:
        if self.val_scenes is not None:
            require(self.val_scenes >= 1, "data.val_scenes", self.val_scenes, "at least 1")
        require(self.window >= 1, "data.window", self.window, "at least 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "at least 0")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two parts of the data, and what they were cut from."""

    train: ShardIndex
    val: ShardIndex
    digests: dict[str, str]
    """SHA-256 of each index.json: 'data' and, where there is one, 'val_data'."""


def open_split(config: DataConfig) -> Split:
    """Open the data and hold scenes out for validation, the same ones in every run.

    Raises CrossviewError where a shard is missing or has another size than the index says, or
    where no scene is left to train on.
    """
    index = ShardIndex.open(config.path)
    _check_sizes(index)
    digests = {"data": _digest(config.path)}
    if config.val_path is not None:
        val = ShardIndex.open(config.val_path)
        _check_sizes(val)
        return Split(train=index, val=val, digests=digests | {"val_data": _digest(config.val_path)})
    held_out = held_out_scenes(index.scenes, config.val_scenes, config.path)
    return Split(
        train=index.of_scenes(set(index.scenes) - held_out),
        val=index.of_scenes(held_out),
        digests=digests,
    )


def held_out_scenes(scenes: tuple[str, ...], count: int | None, where: Path) -> set[str]:
    """Choose the validation scenes: those whose ids have the smallest SHA-256.

    A scene keeps its place in this order when others are added.
    """
    if len(scenes) < 2:
        raise CrossviewError(
            f"{where}: pairs of only one scene ({scenes[0]}), so none can be held out for "
            "validation; render more scenes or name another folder as data.val_path"
        )
    count = count or max(1, round(0.1 * len(scenes)))
    require(count < len(scenes), "data.val_scenes", count, f"below the {len(scenes)} of {where}")
    by_digest = sorted(scenes, key=lambda scene: hashlib.sha256(scene.encode()).digest())
    return set(by_digest[:count])


def _digest(folder: Path) -> str:
    return file_sha256(folder / INDEX_NAME)


def _check_sizes(index: ShardIndex) -> None:
    """Find missing and cut shards before any work; contents are checked as they are read."""
    for entry in index.shards:
        check_size(index.folder / entry.name, entry)


class PairReader:
    """Reads pairs of images by their number in an index, cropped to one size."""

    def __init__(self, index: ShardIndex, crop_size: int) -> None:
        self.crop_size = crop_size
        self._reader = ShardReader(index)
        self._ends = np.cumsum([entry.count for entry in index.shards])

    def locate(self, sample: int) -> tuple[int, int]:
        """Return (shard, sample within the shard)."""
        shard = int(np.searchsorted(self._ends, sample, side="right"))
        return shard, sample - (int(self._ends[shard - 1]) if shard else 0)

    def members(self, sample: int, endings: tuple[str, ...]) -> list[bytes]:
        """Return the bytes of a sample's members. Raises ShardError as ShardReader does."""
        return self._reader.read(*self.locate(sample), endings)[1]

    def views(self, sample: int) -> tuple[UInt8, UInt8]:
        """Return both images, (H, W, 3) each, uncropped.

        Raises CrossviewError where an image is damaged or smaller than the crop.
        """
        first, second = self._decoded(sample, VIEWS, decode_jpeg)
        for ending, image in zip(VIEWS, (first, second)):
            if min(image.shape[:2]) < self.crop_size:
                height, width = image.shape[:2]
                raise CrossviewError(
                    f"{self.where(sample)}, {ending}: {height} x {width} pixels, but the model "
                    f"takes crops of {self.crop_size}; render larger pairs or take a smaller "
                    "model.image_size"
                )
        return first, second

    def depths(self, sample: int) -> tuple[Float32, Float32]:
        """Return both depth maps, (H, W) metres each, uncropped.

        Raises ShardError where one is damaged, or the pairs have none.
        """
        first, second = self._decoded(sample, DEPTHS, decode_depth_png)
        return first, second

    def record(self, sample: int) -> dict[str, Any]:
        """Return what meta.json says of a pair. Raises ShardError where it is damaged."""
        (record,) = self._decoded(sample, (META,), _decode_record)
        return record

    def _decoded(
        self, sample: int, endings: tuple[str, ...], decode: Callable[[bytes], Decoded]
    ) -> list[Decoded]:
        decoded = []
        for ending, data in zip(endings, self.members(sample, endings)):
            try:
                decoded.append(decode(data))
            except (ValueError, OSError, SyntaxError) as error:
                raise ShardError(
                    f"{self.where(sample)}, {ending}: damaged ({error}); {MEND}"
                ) from error
        return decoded

    def where(self, sample: int) -> str:
        """Name a sample for an error message."""
        shard, position = self.locate(sample)
        index = self._reader.index
        key, _ = self._reader.read(shard, position, ())
        return f"{index.folder / index.shards[shard].name}: sample {key!r}"


def _decode_record(data: bytes) -> dict[str, Any]:
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {record!r}")
    return record


class BatchRequest(NamedTuple):
    """One rank's part of a global batch, before anything is read."""

    samples: Int64
    """(b,) sample numbers."""
    crops: Float64
    """(b, 2, 2) uniform numbers in [0, 1): where each view is cropped."""


class CroppedPairs(Dataset[Tensor | CrossviewError]):
    """Answers a request with (2, b, S, S, 3) bytes: both views, cropped independently."""

    def __init__(self, index: ShardIndex, crop_size: int) -> None:
        self._pairs = PairReader(index, crop_size)

    def __getitem__(self, request: BatchRequest) -> Tensor | CrossviewError:
        """Return the batch, or, as a value that crosses processes whole, why there is none."""
        size = self._pairs.crop_size
        batch = np.empty((2, len(request.samples), size, size, 3), np.uint8)
        try:
            for row, sample in enumerate(request.samples):
                for view, image in enumerate(self._pairs.views(int(sample))):
                    batch[view, row] = random_crop(image, size, request.crops[row, view])
        except CrossviewError as error:
            return error
        return torch.from_numpy(batch)


def random_crop(image: UInt8, size: int, position: Float64) -> UInt8:
    """Cut (size, size, 3) out of an image; uniform numbers in [0, 1) make every place equal."""
    row, column = (int(position[axis] * (image.shape[axis] - size + 1)) for axis in range(2))
    return image[row : row + size, column : column + size]


class Requests(Sampler[BatchRequest]):
    """The requests of one rank from first_step to the last."""

    def __init__(
        self, schedule: Schedule, first_step: int, num_steps: int, rank: int, world_size: int
    ) -> None:
        self._schedule = schedule
        self._steps = range(first_step, num_steps)
        self._rows = rank_part(schedule.batch_size, rank, world_size)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yield a request a step; holds one epoch's order at a time."""
        schedule, epoch, order = self._schedule, -1, np.empty(0, np.int64)
        for step in self._steps:
            if step // schedule.steps_per_epoch != epoch:
                epoch = step // schedule.steps_per_epoch
                order = schedule.order(epoch)
            crops = crop_positions(schedule.seed, step, schedule.batch_size)
            yield BatchRequest(schedule.batch(order, step)[self._rows], crops[self._rows])


def batches(
    index: ShardIndex, crop_size: int, requests: Requests, num_workers: int, pin_memory: bool
) -> Iterator[Tensor]:
    """Yield (2, b, S, S, 3) bytes a step. Raises CrossviewError on data that cannot be read."""
    loader = DataLoader(
        CroppedPairs(index, crop_size),
        batch_size=None,  # a request is a whole batch already
        sampler=requests,
        num_workers=num_workers,  # they live for the whole run: one pass covers all epochs
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
    )
    for batch in loader:
        if isinstance(batch, CrossviewError):
            raise batch
        yield batch
