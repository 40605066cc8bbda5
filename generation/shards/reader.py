"""Read shards: the index of a dataset, and samples by position without unpacking tars."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from generation.files import write_text_whole
from generation.geometry import Camera, Float32, UInt8
from generation.locations import filesystem, is_remote, location, size_of
from generation.retries import retried
from generation.shards.cache import ShardCache
from generation.shards.cameras import cameras_of
from generation.shards.images import FARTHEST_M, decode_depth_png, decode_jpeg
from generation.shards.schema import (
    DEPTHS,
    INDEX_AGAIN,
    INDEX_NAME,
    MEND,
    META,
    SCHEMA_VERSION,
    VIEWS,
    ShardEntry,
    ShardError,
    Sidecar,
    read_json,
    sidecar_path,
)

Item = TypeVar("Item")
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The shards of a dataset, in a fixed order."""

    folder: Path
    """Where the shards lie."""
    config: dict[str, Any]
    """What decided the pairs (seed, band, camera, ...), as recorded by the run that made them."""
    shards: tuple[ShardEntry, ...]
    """In order of scene, then of pairs within the scene."""
    datasets: tuple[ShardIndex, ...] = ()
    """The dataset of each shard, where this is several datasets in one; else empty."""

    @classmethod
    def open(cls, folder: Path | str) -> ShardIndex:
        """Open the index of a dataset, by folder or URL.

        Raises ShardError where there is none, or it lists no pairs.
        """
        folder = location(folder)
        path = folder / INDEX_NAME
        what = "a dataset's index (made by `crossview render-pairs --out DIR`)"
        levels = [] if is_remote(path) or path.exists() else sorted(folder.glob(f"*/{INDEX_NAME}"))
        if levels:
            names = ", ".join(level.parent.name for level in levels)
            raise ShardError(
                f"{folder}: holds the datasets {names}; give the folder of one of them"
            )
        raw = read_json(path, what)
        try:
            index = cls(
                folder=folder,
                config=dict(raw["config"]),
                shards=tuple(ShardEntry(**entry) for entry in raw["shards"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{path}: not a dataset's index ({error!r})") from error
        if not index.shards:
            raise ShardError(f"{path}: the dataset holds no pairs")
        return index

    @classmethod
    def joined(cls, parts: Sequence[ShardIndex]) -> ShardIndex:
        """Return the shards of several datasets in one index, one dataset after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            folder=parts[0].folder,
            config=parts[0].config,
            shards=tuple(entry for part in parts for entry in part.shards),
            datasets=tuple(part for part in parts for _ in part.shards),
        )

    def dataset(self, shard: int) -> ShardIndex:
        """Return the dataset that a shard belongs to."""
        return self.datasets[shard] if self.datasets else self

    def path(self, shard: int) -> Path:
        """Return where a shard lies."""
        return self.dataset(shard).folder / self.shards[shard].name

    def is_remote(self, shard: int) -> bool:
        """Return whether a shard lies behind a URL."""
        return is_remote(self.dataset(shard).folder)

    def check_size(self, shard: int) -> None:
        """Raise ShardError where a shard is missing or has another size than the index says."""
        path = location(str(self.path(shard)))  # anew: see _range_reader
        expected, mend = self.shards[shard].size_bytes, self.dataset(shard).mend
        try:
            size_bytes = size_of(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ShardError(
                f"{path}: the index lists this shard, but there is no such file; {mend}"
            ) from None
        if size_bytes != expected:
            raise ShardError(f"{path}: {size_bytes} bytes, but the index says {expected}; {mend}")

    @property
    def has_depth(self) -> bool:
        """Whether the pairs have depth maps, as far as it says."""
        return bool(self.config.get("shards", {}).get("depth"))

    def write(self) -> None:
        """Write index.json, whole."""
        text = json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "num_pairs": self.num_pairs,
                "config": self.config,
                "shards": [asdict(entry) for entry in self.shards],
            },
            indent=1,
        )
        write_text_whole(self.folder / INDEX_NAME, text + "\n")

    @property
    def is_plain(self) -> bool:
        """Whether `crossview index` made it: nothing is known of what made the tars."""
        return not self.config

    @property
    def mend(self) -> str:
        """What to do about a damaged shard; of several datasets, each has its own."""
        return INDEX_AGAIN if self.is_plain else MEND

    @property
    def num_pairs(self) -> int:
        """Number of pairs in all shards."""
        return sum(entry.count for entry in self.shards)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([entry.count for entry in self.shards])

    def shards_of(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (N,) the shard in which each of (N,) pairs lies, by their numbers."""
        return np.searchsorted(self._ends, pairs, side="right")

    def place_of(self, pair: int) -> tuple[int, int]:
        """Return (shard, sample within the shard) of a pair."""
        shard = int(self.shards_of(np.array(pair)))
        return shard, pair - (int(self._ends[shard - 1]) if shard else 0)

    @property
    def scenes(self) -> tuple[str, ...]:
        """Scene ids in the index's order, each once."""
        return tuple(dict.fromkeys(entry.scene for entry in self.shards))

    def of_scenes(self, scenes: set[str]) -> ShardIndex:
        """Return the part of the dataset that shows these scenes."""
        chosen = [i for i, entry in enumerate(self.shards) if entry.scene in scenes]
        return ShardIndex(
            folder=self.folder,
            config=self.config,
            shards=tuple(self.shards[i] for i in chosen),
            datasets=tuple(self.datasets[i] for i in chosen) if self.datasets else (),
        )


class SampleError(ShardError):
    """One sample that is damaged in a shard that is otherwise what the index lists."""


REQUESTS_AT_ONCE = 32
MAX_OPEN = 512
"""Shards that a reader keeps open at most."""


def _most_open() -> int:
    """Return how many shards a reader may keep open: a process has several, and other files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN if limit == resource.RLIM_INFINITY else min(MAX_OPEN, max(1, limit // 8))


class _OpenShard(NamedTuple):
    """What is kept of a shard in use; its file closes with the last reference to it."""

    read: Callable[[int, int], bytes]
    """Returns the bytes at (offset, size)."""
    samples: list[tuple[str, dict[str, tuple[int, int]]]]
    """Keys, and the places of their members."""
    cached_bytes: int
    """What the cache must keep while this is open; 0 of a shard that does not come from it."""


class ShardReader:
    """Random access to the samples of a dataset's shards, by offset, for several threads.

    Keeps the shards open that were used last: at most max_open, MAX_OPEN, or an eighth of the files
    that the process may open, and of those in the cache no more than it allows. Pickled without
    them.
    """

    def __init__(
        self, index: ShardIndex, cache: ShardCache | None = None, max_open: int = MAX_OPEN
    ) -> None:
        """Read remote shards through a cache; without one, a request for each member."""
        self.index = index
        self._cache = cache
        self._max_open = max_open
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ShardReader], tuple[ShardIndex, ShardCache | None, int]]:
        return ShardReader, (self.index, self._cache, self._max_open)

    def read(self, shard: int, sample: int, endings: tuple[str, ...]) -> tuple[str, list[bytes]]:
        """Return the key of a shard's sample and the bytes of the members asked for.

        Raises ShardError where the shard is missing, truncated, not the one that the index lists,
        or its samples lack a member.
        """
        path = self.index.path(shard)
        opened = self._opened(shard)
        key, members = opened.samples[sample]
        data = []
        for ending in endings:
            if ending not in members:
                hint = ""
                if self.index.dataset(shard).is_plain and META not in members:
                    hint = (
                        "; of tars from elsewhere two images a pair are known, and more where "
                        "keys begin with the scene that meta.json names"
                    )
                elif ending in DEPTHS:
                    hint = "; render the pairs again with --depth"
                raise ShardError(f"{path}: sample {key!r} has no {ending}{hint}")
            offset, size_bytes = members[ending]
            data.append(opened.read(offset, size_bytes))
            if len(data[-1]) != size_bytes:
                raise SampleError(f"{path}: truncated in sample {key!r}, member {ending}")
        return key, data

    def pair(self, number: int, endings: tuple[str, ...]) -> tuple[str, list[bytes]]:
        """Return the same of a pair, by its number in the whole dataset."""
        return self.read(*self.index.place_of(number), endings)

    def where(self, number: int) -> str:
        """Name a pair for an error message."""
        path = self.index.path(self.index.place_of(number)[0])
        return f"{path}: sample {self.pair(number, ())[0]!r}"

    def record(self, number: int) -> dict[str, Any]:
        """Return what meta.json says of a pair. Raises SampleError where it is damaged."""
        _, (data,) = self.pair(number, (META,))
        try:
            record = json.loads(data)
            if not isinstance(record, dict):
                raise ValueError(f"expected a JSON object, got {record!r}")
        except ValueError as error:
            raise self.damaged(number, META, error) from error
        return record

    def cameras(self, number: int) -> tuple[Camera, Camera]:
        """Return both cameras of a pair. Raises SampleError where their record is damaged."""
        record = self.record(number)
        try:
            return cameras_of(record)
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(number, META, repr(error)) from error

    def images(self, number: int) -> tuple[UInt8, UInt8]:
        """Return both images of a pair, (H, W, 3) each. Raises SampleError where one is damaged."""
        first, second = self._decoded(number, VIEWS, decode_jpeg)
        return first, second

    def depths(self, number: int) -> tuple[Float32, Float32]:
        """Return both depth maps of a pair, (H, W) metres each, 0 where it is unknown.

        That is where nothing was hit, and beyond the 65.535 m that are stored. Raises as images
        does.
        """
        first, second = self._decoded(number, DEPTHS, decode_depth_png)
        return _known(first), _known(second)

    def _decoded(
        self, number: int, endings: tuple[str, ...], decode: Callable[[bytes], Read]
    ) -> Iterator[Read]:
        for ending, data in zip(endings, self.pair(number, endings)[1]):
            try:
                yield decode(data)
            except (ValueError, OSError, SyntaxError) as error:
                raise self.damaged(number, ending, error) from error

    def damaged(self, number: int, ending: str, error: object) -> SampleError:
        """Return the error that says what is wrong with a pair's member, and how to mend it."""
        mend = self.index.dataset(self.index.place_of(number)[0]).mend
        return SampleError(f"{self.where(number)}, {ending}: damaged ({error}); {mend}")

    def _opened(self, shard: int) -> _OpenShard:
        with self._lock:
            opening = self._opening.setdefault(shard, threading.Lock())
        with opening:  # by one thread, for which others wait
            with self._lock:
                if shard in self._open:
                    self._open.move_to_end(shard)
                    return self._open[shard]
            opened = _open_shard(self.index, shard, self._cache)
            self._keep(shard, opened)
        return opened

    def _keep(self, shard: int, opened: _OpenShard) -> None:
        """Keep a shard open, and let go those used longest ago where they are too many."""
        most_open = min(self._max_open, _most_open())
        most_bytes = self._cache.max_open_bytes if self._cache else 0
        with self._lock:
            self._open[shard] = opened
            while len(self._open) > 1 and (
                len(self._open) > most_open
                or sum(other.cached_bytes for other in self._open.values()) > most_bytes
            ):
                self._open.popitem(last=False)


def _known(depth_m: Float32) -> Float32:
    return np.where(depth_m < np.float32(FARTHEST_M), depth_m, np.float32(0))


def read_each(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """Yield what read makes of each item, in order: for buckets and NFS, many at a time."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        yield from pool.map(read, items)


def _open_shard(index: ShardIndex, shard: int, cache: ShardCache | None) -> _OpenShard:
    """Open a shard, whose size and sidecar must be those of the index."""
    path = location(str(index.path(shard)))  # anew: see _range_reader
    expected = index.shards[shard]
    if cache is not None and is_remote(path):
        tar, sidecar = cache.open(path, expected)
        return _OpenShard(_file_reader(tar), list(sidecar.samples.items()), expected.size_bytes)
    mend = index.dataset(shard).mend
    try:
        sidecar = Sidecar.read(sidecar_path(path))
    except ShardError as error:
        raise ShardError(f"{error}; {mend}") from error
    index.check_size(shard)
    if sidecar.entry != expected:
        raise ShardError(f"{path}: its sidecar is not the one that the index lists; {mend}")
    samples = list(sidecar.samples.items())
    if is_remote(path):
        return _OpenShard(_range_reader(path), samples, 0)
    with _readable(path):
        return _OpenShard(_file_reader(open(path, "rb", buffering=0)), samples, 0)


def _file_reader(file: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, size_bytes: int) -> bytes:
        with _readable(Path(file.name)):
            return os.pread(file.fileno(), size_bytes, offset)

    return read


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a disk says of a shard into a ShardError."""
    try:
        yield
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror or repr(error)})") from error


def _range_reader(path: Path) -> Callable[[int, int], bytes]:
    def read(offset: int, size_bytes: int) -> bytes:
        # By its name: the connections of a path from before a fork are no good after it.
        store, key = filesystem(location(str(path)))
        end = offset + size_bytes
        with _readable(path):
            data: bytes = retried(lambda: store.cat_file(key, start=offset, end=end), str(path))
        if len(data) > size_bytes:  # a server that knows no ranges sends the whole shard
            data = data[offset:end]
        return data

    return read
