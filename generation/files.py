"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from generation.locations import filesystem, is_remote
from generation.retries import retried

VISIBLE_SECONDS = 60.0
"""By then every machine sees what another wrote: NFS asks again for a name that was not there."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside path; on success it is flushed to disk and takes path's name.

    On any error nothing is left under either name. A killed process can leave only the temporary
    file, for remove_partial_files. Its name is nobody else's: of two who write the same path, such
    as a worker and the orphan of a killed run, neither can publish what the other has half-written.

    Of a URL the temporary file lies on this machine and is uploaded at the end: object stores show
    an upload whole or not at all.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="crossview-") as here:
            temporary = Path(here) / path.name
            yield temporary
            store, key = filesystem(path)
            retried(lambda: store.put_file(str(temporary), key), str(path))
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT) and not error.filename:
            error.filename = str(path)  # a stream does not know its name
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8 in any locale, that appears whole or not at all."""
    with whole_file(path) as temporary:
        # Where the locale is not UTF-8, names of files hold their other bytes as surrogates.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of all whole_files in a folder; who still writes one, fails."""
    for stale in folder.glob(".*.partial"):
        stale.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
