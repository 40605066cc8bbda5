"""Write one shard: a tar whose bytes depend on nothing but its samples."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import webdataset

from generation.files import file_sha256, whole_file
from generation.shards.schema import ShardEntry


class ShardWriter:
    """A tar that is being written: add samples, then read what has become of it."""

    def __init__(self, tar: webdataset.TarWriter) -> None:
        self._tar = tar
        self.count = 0
        """Samples so far."""
        self.entry: ShardEntry | None = None
        """Of the closed shard; None where there was no sample, and then there is no file."""
        self.samples: dict[str, dict[str, tuple[int, int]]] = {}
        """Its members' places, by key and ending."""

    def add(self, key: str, members: Mapping[str, Any]) -> None:
        """Append a sample, {ending: bytes}."""
        assert "." not in key, f"a sample's key ends at its first dot: {key!r}"
        self._tar.write({"__key__": key, **members})
        self.count += 1


@contextmanager
def open_shard(path: Path, scene: str) -> Iterator[ShardWriter]:
    """Write a tar that appears whole, when the block ends, or not at all.

    Its bytes depend on nothing but its samples, and nothing is kept in memory. Its folder must be
    there: where it is not, such as on a machine that has not mounted it, nothing is made.
    """
    with whole_file(path) as temporary:
        with webdataset.TarWriter(str(temporary), encoder=False, mtime=0, user="", group="") as tar:
            writer = ShardWriter(tar)
            yield writer
        writer.samples = member_places(temporary)
        if writer.count:
            writer.entry = ShardEntry(
                name=path.name,
                scene=scene,
                count=writer.count,
                size_bytes=temporary.stat().st_size,
                sha256=file_sha256(temporary),
            )
    if writer.entry is None:
        path.unlink()


def member_places(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return key -> ending -> (offset, size) of every member of a tar."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            places.setdefault(key, {})[ending] = (member.offset_data, member.size)
    return places
