"""Files of torch.save: written whole, read so that a damaged or malicious one is only refused."""

from __future__ import annotations

import argparse
import errno
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError
from generation.files import whole_file


class UnusableFile(CrossviewError):
    """A file that is not there, is damaged or is something else: reading it again will not help."""


def read_torch_file(path: Path) -> Any:
    """Load a file of torch.save to the CPU: tensors, plain values and argparse namespaces.

    Raises UnusableFile where there is no such file, where it is damaged, down to a single bit, or
    where it holds anything else, of which nothing is run; CrossviewError where the disk or the
    memory fails.
    """
    try:
        if zipfile.is_zipfile(path):
            _compare_checksums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UnusableFile(f"{path}: expected a checkpoint, found no such file") from None
    except Exception as error:  # where a bit is wrong, zipfile and pickle can raise any
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise CrossviewError(f"{path}: cannot be read: {error.strerror}") from error
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise CrossviewError(f"{path}: cannot be read: there is not enough memory") from error
        unknown = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and unknown:
            raise UnusableFile(
                f"{path}: holds {unknown[1]}, which would run code when loaded, and was not; "
                "expected tensors and plain values alone"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run what it holds
            raise UnusableFile(f"{path}: a damaged checkpoint, or no checkpoint at all") from error
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise UnusableFile(f"{path}: a damaged checkpoint ({reason})") from error


def write_torch_file(contents: Any, path: Path) -> None:
    """Write a file of torch.save, whole. Raises OSError where it cannot be written."""
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        try:
            torch.save(contents, stream)
        except RuntimeError as error:  # torch's own, at the end of a file that was cut short
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _compare_checksums(path: Path) -> None:
    """Raise where a record is not what was written; torch itself does not compare its CRC-32."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise zipfile.BadZipFile(f"wrong checksum of {broken}")
