"""Tars of two images a sample, from anywhere, made readable: an index and sidecars beside them.

In a tar, the members whose names agree up to the first dot of the file name are one sample. Those
that end in .jpg or .jpeg are its images, by name: KEY.view1.jpg and KEY.view2.jpg, or
KEY.1.jpg and KEY.2.jpg.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from generation.errors import CrossviewError
from generation.files import file_sha256
from generation.shards.reader import ShardIndex
from generation.shards.schema import (
    INDEX_NAME,
    VIEWS,
    ShardEntry,
    ShardError,
    Sidecar,
    sidecar_path,
)

IMAGE_ENDINGS = (".jpg", ".jpeg")


def index_plain_tars(folder: Path) -> ShardIndex:
    """Write a sidecar beside each tar of a folder, and index.json; return the index.

    Each tar counts as one scene: all of it is trained on, or all held out. Raises CrossviewError
    where there is an index already, no tar, a compressed tar, a sample without two JPEG images, or
    another file where a sidecar would go, such as one that an interrupted render-pairs left.
    """
    if (folder / INDEX_NAME).exists():
        raise CrossviewError(f"{folder / INDEX_NAME} is there already; remove it to index again")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise CrossviewError(f"{folder}: expected tars of two images a sample, found no *.tar")
    for path in map(sidecar_path, tars):
        if path.exists() and not _is_sidecar(path):
            raise CrossviewError(f"{path}: the sidecar would replace this file; move it elsewhere")
    sidecars = [_sidecar(path) for path in tars]
    for path, sidecar in zip(tars, sidecars):
        sidecar.write(path)
    entries = tuple(sidecar.entry for sidecar in sidecars if sidecar.entry)
    index = ShardIndex(folder=folder, config={}, shards=entries)
    index.write()
    return index


def _is_sidecar(path: Path) -> bool:
    """Return whether a file is a sidecar from here: those of rendered pairs name their task."""
    try:
        return Sidecar.read(path).is_plain
    except ShardError:
        return False


def _sidecar(path: Path) -> Sidecar:
    samples = plain_places(path)
    entry = ShardEntry(
        name=path.name,
        scene=path.stem,
        count=len(samples),
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )
    return Sidecar(entry=entry, task={}, samples=samples, attempts=0, rejections={})


def plain_places(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return key -> view -> (offset, size) of the images of a tar. Raises CrossviewError."""
    images: dict[str, list[tuple[str, int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                directory, _, name = member.name.rpartition("/")
                key = "/".join(filter(None, (directory, name.partition(".")[0])))
                if member.isfile() and name.lower().endswith(IMAGE_ENDINGS):
                    place = (name, member.offset_data, member.size)
                    images.setdefault(key, []).append(place)
    except (tarfile.TarError, EOFError) as error:
        raise CrossviewError(
            f"{path}: not a whole tar without compression ({error}); unpack it, or fetch it again"
        ) from error
    for key, found in images.items():
        if len(found) != len(VIEWS):
            raise CrossviewError(
                f"{path}: sample {key!r} has {len(found)} JPEG images, expected two, such as "
                f"{key}.view1.jpg and {key}.view2.jpg"
            )
    if not images:
        raise CrossviewError(f"{path}: expected samples of two JPEG images, found none")
    return {
        key: {view: place[1:] for view, place in zip(VIEWS, sorted(found))}
        for key, found in images.items()
    }
