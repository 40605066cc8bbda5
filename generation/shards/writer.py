"""Write one shard: a tar whose bytes depend on nothing but its samples, then its sidecar."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import webdataset

from generation.shards.files import whole_file
from generation.shards.schema import ShardEntry


def write_tar(
    path: Path, scene: str, samples: Iterable[tuple[str, Mapping[str, Any]]]
) -> tuple[ShardEntry, dict[str, dict[str, tuple[int, int]]]] | None:
    """Write samples (key, {ending: bytes}) to a tar that appears whole or not at all.

    The samples may come from a generator: nothing is kept in memory. Returns the shard's entry and
    its members' places, or None, and no file, where there was no sample.
    """
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        with webdataset.TarWriter(
            str(temporary), encoder=False, mtime=0, user="", group=""
        ) as writer:
            for key, members in samples:
                assert "." not in key, f"a sample's key ends at its first dot: {key!r}"
                writer.write({"__key__": key, **members})
                count += 1
        places = member_places(temporary)
        entry = ShardEntry(
            name=path.name,
            scene=scene,
            count=count,
            size_bytes=temporary.stat().st_size,
            sha256=file_sha256(temporary),
        )
    if count == 0:
        path.unlink()
        return None
    return entry, places


def member_places(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return key -> ending -> (offset, size) of every member of a tar."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            places.setdefault(key, {})[ending] = (member.offset_data, member.size)
    return places


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
