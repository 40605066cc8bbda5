"""What a scene's files hold, in a few megabytes of reading: so that another scan is noticed."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from generation.errors import MachineError
from generation.scenes.navmesh import navmesh_beside
from generation.scenes.remote import remote_digest
from generation.scenes.scene import Scene, SceneError
from generation.scenes.sources import SceneSource

UNREADABLE = "unreadable"
COMPUTED = "computed"
_BLOCKS = 64
_BLOCK_BYTES = 1 << 16


def scene_digest(source: SceneSource) -> str:
    """Return a digest of every file that a scene is made of; "" for a generated room.

    Of a file above 4 MiB it takes the size and 64 blocks of 64 KiB spread over it: all of a dataset
    of scans would take minutes to read. Another export changes sizes and offsets, which is noticed;
    an edit in place between the blocks, as of some vertices of a binary PLY, is not. A scene that
    cannot be read has a digest too; it fails when it is loaded.
    """
    if source.is_generated:
        return ""
    digest = hashlib.sha256()
    try:
        if source.is_remote:
            return remote_digest(source.path)
        for path in source.files():
            digest.update(os.fsencode(path.name))
            digest.update(_file_digest(path))
    except (OSError, SceneError):
        return UNREADABLE
    return digest.hexdigest()


def load_digested(source: SceneSource, digest: str, navmesh: str = "") -> Scene:
    """Load a scene of the digest that a run was planned with, and of that of its navigation mesh.

    Raises SceneError as load does, and MachineError where this machine does not have the files of
    the one that planned, or they were edited since: what is made of others would say that it is of
    those.
    """
    here = (scene_digest(source), navmesh_digest(source) if navmesh else "")
    for planned, found, what in zip((digest, navmesh), here, ("", " or its navigation mesh")):
        if found != planned != UNREADABLE:
            raise MachineError(
                f"{source.path}: this{what} is not the file that the run began with, or cannot be "
                "read; let all machines have the same, and give the command again"
            )
    return source.load()


def navmesh_digest(source: SceneSource) -> str:
    """Return a digest of the navigation mesh beside a scene's file; COMPUTED if there is none."""
    elsewhere = source.is_generated or source.is_remote
    file = None if elsewhere else navmesh_beside(Path(source.path))
    try:
        return _file_digest(file).hex() if file else COMPUTED
    except OSError:
        return UNREADABLE


def _file_digest(path: Path) -> bytes:
    """Return a file's digest, read again where it has changed; scenes share objects."""
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _digest_of(path: Path, size_bytes: int, modified_ns: int) -> bytes:
    digest = hashlib.sha256(str(size_bytes).encode())
    with open(path, "rb") as stream:
        for block in range(_BLOCKS):
            stream.seek(block * max(_BLOCK_BYTES, (size_bytes - _BLOCK_BYTES) // (_BLOCKS - 1)))
            digest.update(stream.read(_BLOCK_BYTES))
    return digest.digest()
