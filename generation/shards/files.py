"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside path; on success it is flushed to disk and takes path's name.

    On any error nothing is left under either name. A killed process can leave only the temporary
    file, whose name begins with a dot and which the next writer of the same path replaces.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text)
