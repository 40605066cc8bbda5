"""From shards to batches: the split into scenes, and a loader that can start at any step."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from generation.bounds import require
from generation.errors import CrossviewError
from generation.geometry import Camera, Float32, UInt8
from generation.retries import retried
from generation.shards.cache import ShardCache
from generation.shards.reader import SampleError, ShardIndex, ShardReader, check_size
from generation.shards.schema import INDEX_NAME, VIEWS, ShardEntry
from generation.shards.writer import file_sha256
from training.correspondence import centre_crop
from training.distributed import processes_that_read
from training.order import (
    Batches,
    Float64,
    Int64,
    Schedule,
    Share,
    crop_positions,
    rank_part,
)
from training.read_ahead import reading_ahead
from training.stopping import heed_only_the_parent, signals_blocked

logger = logging.getLogger(__name__)

STAT_THREADS = 16
"""NFS answers one question after another in about 0.5 ms each, but many at a time."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A further dataset of a mixture."""

    path: Path
    """Folder or URL of shards, with its index.json."""
    weight: float = 1.0
    """Its part of every batch, in proportion to the other datasets' weights."""
    weight_end: float | None = None
    """The weight at the end of the run, with a straight line between; None: as at the start."""

    def __post_init__(self) -> None:
        _check_weights("data.mixture: ", self)


MOST_HELD_OUT = 32
"""Scenes, where nobody says how many: each of more would show few of the pairs validated on."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pairs come from."""

    path: Path
    """Folder or URL of shards, with its index.json."""
    weight: float = 1.0
    """Of path, where there is a mixture: as Part.weight."""
    weight_end: float | None = None
    """Of path, where there is a mixture: as Part.weight_end."""
    mixture: tuple[Part, ...] = ()
    """Further datasets to train on at the same time, each epoch after epoch of its own."""
    val_path: Path | None = None
    """Another folder of shards to validate on; then all scenes train."""
    val_scenes: int | None = None
    """Scenes of path held out for validation, and of a mixture that shows them too; None: a tenth,
    1 to 32."""
    random_crop: bool = True
    """Crop each view at a place of its own, anew in every epoch; else all in the middle."""
    resize: float | None = 1.2
    """Images whose shorter side is longer than so many crops are scaled to that before they are
    cropped (published: 256 for crops of 224), for small crops at two places of a large view share
    next to nothing; None: none are."""
    window: int = 16384
    """Samples shuffled among each other at a time; the shards of one window are open at once."""
    num_workers: int | None = None
    """Processes that decode images, for each training process; 0: the training process itself.
    None: beside a GPU 8, as far as there are cores for those of all GPUs, else 0."""
    max_damaged: int = 16
    """Damaged pairs that each training process replaces, with a warning, before it stops; as many
    held-out ones."""
    cache_dir: Path = Path("~/.cache/crossview/shards")
    """Where shards of a URL are kept, on a local disk; other processes may share it."""
    cache_gb: float = 50.0
    """Size of the cache, in 1e9 bytes."""

    def __post_init__(self) -> None:
        if self.val_scenes is not None:
            require(self.val_scenes >= 1, "data.val_scenes", self.val_scenes, "at least 1")
            allowed = "none where data.val_path says what is validated on"
            require(self.val_path is None, "data.val_scenes", self.val_scenes, allowed)
        _check_weights("data.", self)
        for name in ("weight", "weight_end"):
            given = [(part.weight, getattr(part, name)) for part in self.parts]
            weights = [start if weight is None else weight for start, weight in given]
            require(sum(weights) > 0, f"data: every {name}", weights, "one above 0")
        require(self.max_damaged >= 0, "data.max_damaged", self.max_damaged, "at least 0")
        require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, "above 0")
        require(self.window >= 1, "data.window", self.window, "at least 1")
        fits = self.resize is None or (math.isfinite(self.resize) and self.resize >= 1)
        require(fits, "data.resize", self.resize, "at least 1")
        fits = self.num_workers is None or self.num_workers >= 0
        require(fits, "data.num_workers", self.num_workers, "at least 0")

    @property
    def parts(self) -> tuple[Part, ...]:
        """All datasets, that of path first."""
        return (Part(path=self.path, weight=self.weight, weight_end=self.weight_end), *self.mixture)

    @property
    def cache(self) -> ShardCache:
        """Where shards of a URL are kept."""
        return ShardCache(folder=self.cache_dir.expanduser(), max_bytes=int(self.cache_gb * 1e9))

    def reader(self, index: ShardIndex, crop_size: int) -> PairReader:
        """Return what reads pairs of an index for crops of a model's size."""
        largest = None if self.resize is None else round(self.resize * crop_size)
        return PairReader(index, crop_size, self.cache, largest=largest)


def _check_weights(where: str, part: Part | DataConfig) -> None:
    for name in ("weight", "weight_end"):
        weight = getattr(part, name)
        if weight is not None:
            holds = math.isfinite(weight) and weight >= 0
            require(holds, f"{where}{name}", weight, "a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two parts of the data, and what they were cut from."""

    train: ShardIndex
    """The training shards of all datasets, one dataset after another."""
    shares: tuple[Share, ...]
    """Each dataset's part in train."""
    val: ShardIndex
    digests: dict[str, str]
    """SHA-256 of each index.json: 'data', where there are more 'data 2' and so on, 'val_data'."""

    @property
    def trained_on_too(self) -> list[str]:
        """Scenes to validate on whose rooms are trained on: none, but with data.val_path."""
        unseen = without_rooms_of(self.train.scenes, self.val).scenes
        return sorted({*self.val.scenes} - {*unseen})


def open_split(config: DataConfig) -> Split:
    """Open the data and hold scenes out for validation, the same ones in every run.

    A room is held out of all datasets that show it, in every scan of it. Raises CrossviewError
    where a shard is missing or has another size than the index says, or where no scene of a dataset
    is left to train on. Remote shards are checked when they are fetched.
    """
    digests: dict[str, str] = {}
    indices: list[ShardIndex] = []
    for number, part in enumerate(config.parts, 1):
        indices.append(_open_index(part.path))
        digests["data" if number == 1 else f"data {number}"] = _digest(part.path)
    if config.val_path is not None:
        val = _open_index(config.val_path)
        digests["val_data"] = _digest(config.val_path)
    else:
        held_out = held_out_scenes(indices[0].scenes, config.val_scenes, config.path)
        val = indices[0].of_scenes(held_out)
        indices = [without_rooms_of(held_out, index) for index in indices]
    for index in indices:
        if not index.shards:
            raise CrossviewError(
                f"{index.folder}: all of its scenes are held out for validation; hold out fewer "
                "(data.val_scenes) or name another folder as data.val_path"
            )
    train = ShardIndex.joined(indices)
    shares = tuple(
        Share(
            shard_sizes=tuple(entry.count for entry in index.shards),
            weight=part.weight,
            weight_end=part.weight_end,
        )
        for part, index in zip(config.parts, indices)
    )
    return Split(train=train, shares=shares, val=val, digests=digests)


def _open_index(path: Path) -> ShardIndex:
    index = ShardIndex.open(path)
    if not index.is_remote(0):
        _check_sizes(index)  # before any work; contents are checked as they are read
    return index


def _check_sizes(index: ShardIndex) -> None:
    """Raise ShardError where a shard is missing or has another size; for NFS, many at a time."""

    def check(entries: tuple[ShardEntry, ...]) -> None:
        for entry in entries:
            check_size(index.folder / entry.name, entry)

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        list(pool.map(check, [index.shards[n::STAT_THREADS] for n in range(STAT_THREADS)]))


def require_cache(config: DataConfig, index: ShardIndex) -> None:
    """Raise CrossviewError for a cache below a window's shards: each would come many times."""
    sizes = [e.size_bytes for i, e in enumerate(index.shards) if index.is_remote(i)]
    pairs = index.num_pairs / len(index.shards)
    shards = min(len(sizes), len(config.parts) * (2 * config.window / pairs + 2))
    needed = shards * sum(sizes) / max(1, len(sizes)) / 1e9
    require(
        config.cache_gb >= needed,
        "data.cache_gb",
        config.cache_gb,
        f"at least {needed:.3g}, which the shards of two windows of {config.window} pairs take",
    )


def room_of(scene: str) -> str:
    """Return what a scene shows: itself, but of ScanNet's rescans, sceneNNNN_NN..., one room."""
    scan = re.fullmatch(r"(scene\d{4})_\d{2}(_vh_clean(_2)?)?", scene)
    return scan[1] if scan else scene


def without_rooms_of(scenes: Iterable[str], index: ShardIndex) -> ShardIndex:
    """Return the part of a dataset that shows no room of these scenes."""
    rooms = set(map(room_of, scenes))
    return index.of_scenes({scene for scene in index.scenes if room_of(scene) not in rooms})


def held_out_scenes(scenes: tuple[str, ...], count: int | None, where: Path) -> set[str]:
    """Choose count validation scenes: those of the rooms whose names have the smallest SHA-256.

    They are more where the last room has more scans. A room keeps its place in this order when
    others are added.
    """
    rooms: dict[str, list[str]] = {}
    for scene in scenes:
        rooms.setdefault(room_of(scene), []).append(scene)
    if len(rooms) < 2:
        raise CrossviewError(
            f"{where}: pairs of only one scene ({scenes[0]}), so none can be held out for "
            "validation; take more scenes (or tars from elsewhere), or name another folder as "
            "data.val_path"
        )
    count = count or min(MOST_HELD_OUT, max(1, round(0.1 * len(scenes))))
    require(count < len(scenes), "data.val_scenes", count, f"below the {len(scenes)} of {where}")
    held_out: set[str] = set()
    for room in sorted(rooms, key=lambda room: hashlib.sha256(room.encode()).digest()):
        held_out.update(rooms[room])
        if len(held_out) >= count:
            break
    return held_out


def require_large_enough(split: Split, crop_size: int, config: DataConfig) -> None:
    """Raise CrossviewError where a dataset's first good training pair is smaller than the crop.

    Also where none is good among the first config.max_damaged + 1 pairs of a dataset.
    """
    reader = config.reader(split.train, crop_size)
    first = 0
    for share in split.shares:
        damaged: dict[int, str] = {}
        for sample in range(first, first + share.num_samples):
            try:
                reader.views(sample)
                break
            except SampleError as error:  # counted and named again when its turn comes
                damaged[sample] = str(error)
                if len(damaged) > config.max_damaged:
                    raise too_many_damaged(damaged, config.max_damaged) from error
        first += share.num_samples


def _digest(folder: Path) -> str:
    path = folder / INDEX_NAME
    return retried(lambda: file_sha256(path), str(path))


class PairReader:
    """Reads pairs by their number in an index, large enough for a crop and, if asked, no larger."""

    def __init__(
        self,
        index: ShardIndex,
        crop_size: int,
        cache: ShardCache | None = None,
        *,
        largest: int | None = None,
    ) -> None:
        """Read remote shards through a cache; without one, a request for each member.

        largest: what a longer shorter side is scaled to, of images, depth and cameras.
        """
        self.crop_size = crop_size
        self._largest = largest
        self.index = index
        self._reader = ShardReader(index, cache)
        self.num_pairs = index.num_pairs

    def members(self, sample: int, endings: tuple[str, ...]) -> list[bytes]:
        """Return the bytes of a sample's members. Raises ShardError as ShardReader does."""
        return self._reader.pair(sample, endings)[1]

    def views(self, sample: int) -> tuple[UInt8, UInt8]:
        """Return both images, (H, W, 3) each.

        Raises CrossviewError where an image is damaged or smaller than the crop.
        """
        first, second = self._reader.images(sample)
        for ending, image in zip(VIEWS, (first, second)):
            if min(image.shape[:2]) < self.crop_size:
                height, width = image.shape[:2]
                raise CrossviewError(
                    f"{self.where(sample)}, {ending}: {height} x {width} pixels, but the model "
                    f"takes crops of {self.crop_size}; render larger pairs or take a smaller "
                    "model.image_size"
                )
        return self._scaled(first), self._scaled(second)

    def depths(self, sample: int) -> tuple[Float32, Float32]:
        """Return both depth maps, (H, W) metres each.

        Raises ShardError where one is damaged, or the pairs have none.
        """
        first, second = self._reader.depths(sample)
        return self._scaled(first), self._scaled(second)

    def cameras(self, sample: int) -> tuple[Camera, Camera]:
        """Return both cameras. Raises ShardError where the record is damaged."""
        first, second = self._reader.cameras(sample)
        size = self.size_of(*first.image_size)
        return first.resized(size), second.resized(size)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size comes in."""
        if self._largest is None or min(height, width) <= self._largest:
            return height, width
        scale = self._largest / min(height, width)
        return round(height * scale), round(width * scale)

    def _scaled(self, image: NDArray[Any]) -> NDArray[Any]:
        """Scale (H, W, 3) bytes smoothly, (H, W) metres to the nearest pixel's."""
        height, width = size = self.size_of(*image.shape[:2])
        if size == image.shape[:2]:
            return image
        how = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(image).resize((width, height), how))

    def where(self, sample: int) -> str:
        """Name a sample for an error message."""
        return self._reader.where(sample)

    def key(self, sample: int) -> tuple[Path, str]:
        """Return a sample's shard, and its key there."""
        shard, _ = self.index.place_of(sample)
        return self.index.path(shard), self._reader.pair(sample, ())[0]


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


class Pairs(Dataset[Batch | CrossviewError]):
    """Answers a request for a batch."""

    def __init__(
        self, reader: PairReader, *, whole: bool, max_damaged: int, random_crop: bool = True
    ) -> None:
        """whole: leave the images uncropped, which must all have one size then."""
        self._reader = reader
        self._random_crop = random_crop
        self._whole = whole
        self._max_damaged = max_damaged

    def __getitem__(self, request: BatchRequest) -> Batch | CrossviewError:
        """Return the batch, or, as a value too, why there is none."""
        damaged: dict[int, str] = {}
        batch: UInt8 | None = None
        size = self._reader.crop_size
        try:
            for row, sample in enumerate(request.samples):
                views = self._good_views(int(sample), damaged)
                if batch is None:
                    shape = views[0].shape[:2] if self._whole else (size, size)
                    batch = np.empty((2, len(request.samples), *shape, 3), np.uint8)
                for view, image in enumerate(views):
                    if not self._whole and self._random_crop:
                        image = crop_at(image, size, request.crops[row, view])
                    elif not self._whole:
                        image = centre_crop(image, size)
                    elif image.shape != batch.shape[2:]:
                        raise CrossviewError(
                            f"{self._reader.where(int(sample))}: {image.shape[0]} x "
                            f"{image.shape[1]} pixels, others {batch.shape[2]} x {batch.shape[3]}; "
                            "homographies and rotations need images of one size"
                        )
                    batch[view, row] = image
        except CrossviewError as error:
            return error
        assert batch is not None, "a request has samples"
        return Batch(torch.from_numpy(batch), damaged)

    def _good_views(self, sample: int, damaged: dict[int, str]) -> tuple[UInt8, UInt8]:
        """Return a sample's images or, where they are damaged, those of the next good one.

        Which one that is depends on nothing but the data.
        """
        while True:
            try:
                return self._reader.views(sample)
            except SampleError as error:
                damaged[sample] = str(error)
                if len(damaged) > self._max_damaged:
                    raise too_many_damaged(damaged, self._max_damaged) from error
            sample = (sample + 1) % self._reader.num_pairs


def too_many_damaged(damaged: dict[int, str], most: int) -> CrossviewError:
    """Return the error that stops a run: what was wrong with which sample, the last one last."""
    *_, last = damaged.values()
    return CrossviewError(
        f"{last}\n{len(damaged)} damaged pairs, of which data.max_damaged = {most} may be replaced"
    )


def crop_at(image: UInt8, size: int, position: Float64) -> UInt8:
    """Cut (size, size, 3) out of an image; uniform numbers in [0, 1) make every place equal."""
    row, column = (int(position[axis] * (image.shape[axis] - size + 1)) for axis in range(2))
    return image[row : row + size, column : column + size]


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
    pairs = index.config.get("pairs", {}) if whole else {}
    height, width = reader.size_of(*pairs.get("image_size", (crop_size, crop_size)))
    bytes_a_batch = requests.num_rows * 2 * height * width * 3
    loader = DataLoader(
        Pairs(reader, whole=whole, max_damaged=most, random_crop=config.random_crop),
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
    with reading_ahead(index, requests.schedule, requests.steps, requests.num_steps, cache) as done:
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
