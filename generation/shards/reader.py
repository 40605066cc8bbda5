"""Read shards: the index of a dataset, and samples by position without unpacking tars."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from generation.locations import filesystem, is_remote, location
from generation.shards.files import write_text_whole
from generation.shards.schema import (
    INDEX_NAME,
    MEND,
    SCHEMA_VERSION,
    ShardEntry,
    ShardError,
    Sidecar,
    read_json,
    sidecar_path,
)


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The shards of a dataset, in a fixed order."""

    folder: Path
    """Where the shards lie."""
    config: dict[str, Any]
    """What decided the pairs (seed, band, camera, ...), as recorded by the run that made them."""
    shards: tuple[ShardEntry, ...]
    """In order of scene, then of pairs within the scene."""

    @classmethod
    def open(cls, folder: Path | str) -> ShardIndex:
        """Open the index of a dataset, by folder or URL.

        Raises ShardError where there is none, or it lists no pairs.
        """
        folder = location(folder)
        path = folder / INDEX_NAME
        raw = read_json(path, "a dataset's index (made by `crossview render-pairs --out DIR`)")
        try:
            index = cls(
                folder=folder,
                config=raw["config"],
                shards=tuple(ShardEntry(**entry) for entry in raw["shards"]),
            )
        except (KeyError, TypeError) as error:
            raise ShardError(f"{path}: not a dataset's index ({error!r})") from error
        if not index.shards:
            raise ShardError(f"{path}: the dataset holds no pairs")
        return index

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
    def num_pairs(self) -> int:
        """Number of pairs in all shards."""
        return sum(entry.count for entry in self.shards)

    @property
    def scenes(self) -> tuple[str, ...]:
        """Scene ids in the index's order, each once."""
        return tuple(dict.fromkeys(entry.scene for entry in self.shards))

    def of_scenes(self, scenes: set[str]) -> ShardIndex:
        """Return the part of the dataset that shows these scenes."""
        return ShardIndex(
            folder=self.folder,
            config=self.config,
            shards=tuple(entry for entry in self.shards if entry.scene in scenes),
        )


class ShardReader:
    """Random access to the samples of a dataset's shards, by offset. Cheap to pickle and fork."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index

    def read(self, shard: int, sample: int, endings: tuple[str, ...]) -> tuple[str, list[bytes]]:
        """Return the key of a shard's sample and the bytes of the members asked for.

        Raises ShardError where the shard is missing, truncated, not the one that the index lists,
        or its samples lack a member.
        """
        path = self.index.folder / self.index.shards[shard].name
        read, samples = _open_shard(str(path), self.index.shards[shard])
        key, members = samples[sample]
        data = []
        for ending in endings:
            if ending not in members:
                raise ShardError(
                    f"{path}: sample {key!r} has no {ending}"
                    + ("; render the pairs again with --depth" if "depth" in ending else "")
                )
            offset, size_bytes = members[ending]
            data.append(read(offset, size_bytes))
            if len(data[-1]) != size_bytes:
                raise ShardError(f"{path}: truncated in sample {key!r}, member {ending}")
        return key, data


def check_size(path: Path, expected: ShardEntry) -> None:
    """Raise ShardError where a shard is missing or has another size than the index says."""
    if not path.is_file():
        raise ShardError(f"{path}: the index lists this shard, but there is no such file; {MEND}")
    size_bytes = path.stat().st_size
    if size_bytes != expected.size_bytes:
        raise ShardError(
            f"{path}: {size_bytes} bytes, but the index says {expected.size_bytes}; {MEND}"
        )


@lru_cache(maxsize=256)
def _open_shard(
    name: str, expected: ShardEntry
) -> tuple[Callable[[int, int], bytes], list[tuple[str, dict[str, tuple[int, int]]]]]:
    """Return what reads (offset, size) of a shard, and its samples.

    Compares its size and sidecar with the index.
    """
    path = location(name)
    sidecar = Sidecar.read(sidecar_path(path))
    if sidecar.entry != expected:
        raise ShardError(f"{path}: its sidecar is not the one that the index lists; {MEND}")
    check_size(path, expected)
    return _reader_of(path), list(sidecar.samples.items())


def _reader_of(path: Path) -> Callable[[int, int], bytes]:
    if is_remote(path):
        store, key = filesystem(path)

        def read_range(offset: int, size_bytes: int) -> bytes:
            data: bytes = store.cat_file(key, start=offset, end=offset + size_bytes)
            return data

        return read_range
    tar = open(path, "rb", buffering=0)  # noqa: SIM115

    def read_file(offset: int, size_bytes: int) -> bytes:
        return os.pread(tar.fileno(), size_bytes, offset)

    return read_file
