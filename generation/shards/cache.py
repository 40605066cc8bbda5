"""Shards from afar, kept on the local disk: bounded, checked, shared by a machine's processes."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from generation.errors import CrossviewError
from generation.files import file_sha256, whole_file
from generation.locations import filesystem
from generation.retries import retried
from generation.shards.schema import ShardEntry, ShardError, Sidecar, sidecar_path

logger = logging.getLogger(__name__)

T = TypeVar("T")

UPLOAD = "upload the shard, its sidecar and index.json again"


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """A folder of whole shards, named by where they are from and what they hold.

    A shard is there whole or not at all. Whoever has one open holds a shared lock on it, and what
    is locked is never removed: the folder can grow beyond its limit only by what is in use, and
    by what is being fetched.
    """

    folder: Path
    """On a local disk; made where it is missing."""
    max_bytes: int
    """When one is fetched, those used longest ago go, as long as all together take more."""

    @property
    def max_open_bytes(self) -> int:
        """What one reader may hold open; the other half is for what is read ahead."""
        return self.max_bytes // 2

    def open(self, path: Path, entry: ShardEntry) -> tuple[BinaryIO, Sidecar]:
        """Return the open tar and the sidecar of a remote shard, fetched where need be.

        Raises ShardError where it or its sidecar is not what the index lists, CrossviewError
        where it cannot be had in ATTEMPTS attempts.
        """
        name = hashlib.sha256(f"{path} {entry.sha256}".encode()).hexdigest()
        own = self.folder / f"{name}.tar"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._only_one(name):
                found = _open_whole(own, entry)
                if found is not None:
                    return found
                for partial in self.folder.glob(f".{name[:2]}*.partial"):
                    partial.unlink()  # whoever wrote it was killed: we hold its lock
                while found is None:
                    _fetch(path, own, entry)
                    found = _open_whole(own, entry)
            self._make_room()
        except OSError as error:
            raise CrossviewError(
                f"data.cache_dir = {self.folder}: cannot hold {path} ({error}); make room there, "
                "or name a folder that can be written"
            ) from error
        return found

    def fetch(self, path: Path, entry: ShardEntry) -> None:
        """Bring a shard here, or count it as used just now."""
        tar, _ = self.open(path, entry)
        tar.close()

    @contextmanager
    def _only_one(self, name: str, wait: int = 0) -> Iterator[None]:
        """Keep other processes and threads from fetching or removing the same shard meanwhile.

        wait: 0, or LOCK_NB to raise BlockingIOError where another one is at it.
        """
        with open(self.folder / f"{name[:2]}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | wait)
            yield

    def _make_room(self) -> None:
        shards = []
        for path in self.folder.glob("[!.]*.tar"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            shards.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in shards) - self.max_bytes
        for _, size, path in sorted(shards):
            if excess <= 0:
                return
            if self._remove_unused(path):
                excess -= size

    def _remove_unused(self, path: Path) -> bool:
        """Remove a shard unless somebody opens it or has it open; return whether it is gone."""
        try:
            with self._only_one(path.stem, fcntl.LOCK_NB), path.open("rb") as tar:
                fcntl.flock(tar, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sidecar_path(path).unlink(missing_ok=True)
                path.unlink()
        except BlockingIOError:
            return False
        except FileNotFoundError:
            pass
        return True


def _open_whole(own: Path, entry: ShardEntry) -> tuple[BinaryIO, Sidecar] | None:
    """Open and lock a shard that is here, as used just now; None where it is not all here."""
    try:
        tar = open(own, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        return None
    fcntl.flock(tar, fcntl.LOCK_SH)
    sidecar = _sidecar_of(entry, sidecar_path(own))
    if sidecar is None or os.fstat(tar.fileno()).st_size != entry.size_bytes:
        tar.close()
        return None
    os.utime(tar.fileno())
    return tar, sidecar


def _sidecar_of(entry: ShardEntry, path: Path) -> Sidecar | None:
    """Return the sidecar at a path; None where it is missing, damaged or another shard's."""
    try:
        sidecar = Sidecar.read(path)
    except ShardError:
        return None
    return sidecar if sidecar.entry == entry else None


def _fetch(path: Path, own: Path, entry: ShardEntry) -> None:
    """Download a shard as often as it takes. Raises ShardError where there is none."""
    try:
        retried(lambda: _download(path, own, entry), str(path))
    except (FileNotFoundError, PermissionError) as error:
        raise ShardError(f"{path}: {type(error).__name__}: {error}") from error


def _download(path: Path, own: Path, entry: ShardEntry) -> None:
    """Download a shard and its sidecar, the tar last. Raises ShardError on other bytes."""
    store, key = filesystem(path)
    _, sidecar_key = filesystem(sidecar_path(path))
    with whole_file(own) as tar, whole_file(sidecar_path(own)) as sidecar:
        store.get_file(sidecar_key, str(sidecar))
        if _sidecar_of(entry, sidecar) is None:
            raise ShardError(
                f"{sidecar_path(path)}: not the sidecar that the index lists; {UPLOAD}"
            )
        store.get_file(key, str(tar))
        size_bytes = tar.stat().st_size
        if size_bytes != entry.size_bytes or file_sha256(tar) != entry.sha256:
            raise ShardError(
                f"{path}: {size_bytes} bytes that are not those that the index lists "
                f"({entry.size_bytes} bytes, SHA-256 {entry.sha256[:12]}...); {UPLOAD}"
            )
