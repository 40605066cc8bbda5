"""The folder of a run: what is said where it cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generation.errors import CrossviewError


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Raise CrossviewError, naming the run's folder and the file, where a write in it fails."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        what = f" ({error.filename})" if error.filename not in (None, str(out)) else ""
        raise CrossviewError(
            f"{out}: cannot write the run here: {reason}{what}; take another folder, or make this "
            "one a writable folder with free space"
        ) from error
