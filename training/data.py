"""Where the pairs come from, and which scenes are held out for validation."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from generation.bounds import require
from generation.errors import CrossviewError, first_few
from generation.files import file_sha256
from generation.retries import retried
from generation.shards.cache import ShardCache
from generation.shards.reader import SampleError, ShardIndex
from generation.shards.schema import INDEX_NAME
from training.order import Share
from training.pair_reader import PairReader, too_many_damaged

STAT_THREADS = 16
"""NFS answers one question after another in about 0.5 ms each, but many at a time."""


@dataclass(frozen=True, kw_only=True)
class Source:
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
    """Of path, where there is a mixture: as Source.weight."""
    weight_end: float | None = None
    """Of path, where there is a mixture: as Source.weight_end."""
    mixture: tuple[Source, ...] = ()
    """Further datasets to train on at the same time, each epoch after epoch of its own."""
    val_path: Path | None = None
    """Another folder of shards to validate on; then all scenes train."""
    val_scenes: int | None = None
    """Scenes of path held out for validation, and of a mixture that shows them too; None: a tenth,
    1 to 32. Rooms of several scans are held out whole or not at all, so it may be fewer; or more,
    where every room has more."""
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
            given = [(source.weight, getattr(source, name)) for source in self.sources]
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
    def sources(self) -> tuple[Source, ...]:
        """All datasets, that of path first."""
        first = Source(path=self.path, weight=self.weight, weight_end=self.weight_end)
        return (first, *self.mixture)

    @property
    def cache(self) -> ShardCache:
        """Where shards of a URL are kept."""
        return ShardCache(folder=self.cache_dir.expanduser(), max_bytes=int(self.cache_gb * 1e9))

    def reader(self, index: ShardIndex, crop_size: int) -> PairReader:
        """Return what reads pairs of an index for crops of a model's size."""
        largest = None if self.resize is None else round(self.resize * crop_size)
        most = self.shards_of_two_windows(index)
        return PairReader(index, crop_size, self.cache, largest=largest, max_open=most)

    def shards_of_two_windows(self, index: ShardIndex) -> int:
        """Return about how many shards two windows of each dataset lie in: all that is in use."""
        return sum(map(self.shards_in_use, _datasets(index)))

    def shards_in_use(self, dataset: ShardIndex) -> int:
        """Return the same of one dataset."""
        count = len(dataset.shards)
        return min(count, math.ceil(2 * self.window * count / dataset.num_pairs + 2))


def source_names(count: int) -> list[str]:
    """Return what so many datasets, as DataConfig.sources has them, are called in digests."""
    return ["data", *(f"data {number}" for number in range(2, count + 1))]


def _datasets(index: ShardIndex) -> list[ShardIndex]:
    """Return the datasets that are joined in an index, each once."""
    return [*{id(each): each for each in index.datasets or (index,)}.values()]


def _check_weights(where: str, source: Source | DataConfig) -> None:
    for name in ("weight", "weight_end"):
        weight = getattr(source, name)
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
    """SHA-256 of each index.json: by source_names, and 'val_data'."""

    @property
    def datasets(self) -> list[ShardIndex]:
        """The training part of each dataset, in the order of shares."""
        return _datasets(self.train)

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
    for name, source in zip(source_names(len(config.sources)), config.sources):
        indices.append(_open_index(source.path))
        digests[name] = _digest(source.path)
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
            weight=source.weight,
            weight_end=source.weight_end,
        )
        for source, index in zip(config.sources, indices)
    )
    return Split(train=train, shares=shares, val=val, digests=digests)


def _open_index(path: Path) -> ShardIndex:
    index = ShardIndex.open(path)
    if not index.is_remote(0):
        _check_sizes(index)  # before any work; contents are checked as they are read
    return index


def _check_sizes(index: ShardIndex) -> None:
    """Raise ShardError where a shard is missing or has another size; for NFS, many at a time."""

    def check(shards: range) -> None:
        for shard in shards:
            index.check_size(shard)

    num_shards = len(index.shards)
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        list(pool.map(check, [range(n, num_shards, STAT_THREADS) for n in range(STAT_THREADS)]))


def require_cache(config: DataConfig, index: ShardIndex) -> None:
    """Raise CrossviewError for a cache below a window's shards: each would come many times."""
    needed = 0.0
    for dataset in _datasets(index):
        if dataset.is_remote(0):
            mean_gb = sum(entry.size_bytes for entry in dataset.shards) / len(dataset.shards) / 1e9
            needed += config.shards_in_use(dataset) * mean_gb
    require(
        config.cache_gb >= needed,
        "data.cache_gb",
        config.cache_gb,
        f"at least {needed:.3g}, which the shards of two windows of {config.window} pairs take",
    )


_SCANNET = re.compile(r"(scene\d{4})_\d{2}(_vh_clean(_2)?)?")
_REPLICA_CAD = re.compile(r"(Baked|(remake_v0_)?v\d)_sc\d+_staging_\d+|frl_apartment_[0-5]")


def room_of(scene: str) -> str:
    """Return what a scene shows: itself, but of ScanNet's rescans, sceneNNNN_NN..., one room.

    ReplicaCAD's stagings are one apartment, furnished anew; Replica has six scans of the same one,
    frl_apartment_0 to 5. ReplicaCAD's apt_N and empty_stage do not count: others name flats so.
    """
    if scan := _SCANNET.fullmatch(scene):
        return scan[1]
    return "frl_apartment" if _REPLICA_CAD.fullmatch(scene) else scene


def without_rooms_of(scenes: Iterable[str], index: ShardIndex) -> ShardIndex:
    """Return the part of a dataset that shows no room of these scenes."""
    rooms = set(map(room_of, scenes))
    return index.of_scenes({scene for scene in index.scenes if room_of(scene) not in rooms})


def held_out_scenes(scenes: tuple[str, ...], count: int | None, where: Path) -> set[str]:
    """Choose count validation scenes, or fewer: whole rooms, by the SHA-256 of their names.

    Rooms that would make them more are passed over; where each would, it is the smallest: no less
    than half of the scenes train, unless count says so. A room keeps its place in this order when
    others are added. Raises CrossviewError where there is only one room.
    """
    rooms: dict[str, list[str]] = {}
    for scene in scenes:
        rooms.setdefault(room_of(scene), []).append(scene)
    if len(rooms) < 2:
        rule = "ReplicaCAD's stagings and Replica's frl_apartment are one"
        if _SCANNET.fullmatch(scenes[0]):
            rule = f"ScanNet's scans of {room_of(scenes[0])}"
        several = f"room ({first_few(scenes)}: {rule})"
        only = f"scene ({scenes[0]})" if len(scenes) == 1 else several
        raise CrossviewError(
            f"{where}: pairs of only one {only}, so none can be held out for validation; take more "
            "scenes (or tars from elsewhere), or name another folder as data.val_path"
        )
    count = count or min(MOST_HELD_OUT, max(1, round(0.1 * len(scenes))))
    require(count < len(scenes), "data.val_scenes", count, f"below the {len(scenes)} of {where}")
    held_out: set[str] = set()
    in_order = sorted(rooms, key=lambda room: hashlib.sha256(room.encode()).digest())
    for room in in_order:
        if len(held_out) + len(rooms[room]) <= count:
            held_out.update(rooms[room])
    return held_out or {*min((rooms[room] for room in in_order), key=len)}


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
