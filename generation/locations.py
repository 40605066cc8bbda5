"""Files and folders by path or by URL: s3://, gs://, https:// and whatever else fsspec opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from upath import UPath

from generation.errors import MachineError
from generation.retries import asked_again, retried

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""Scheme -> the extra of our package that brings what opens it."""
WEB_SCHEMES = ("http", "https")


def location(text: str | Path) -> Path:
    """Return where a path or URL points: a Path, or a UPath, which has the same methods.

    Raises MachineError for a scheme that nothing installed here opens.
    """
    if not isinstance(text, str):
        return text
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    try:
        # Other processes write there too: what a listing said a while ago is no answer.
        options: dict[str, Any] = {"use_listings_cache": False}
        if scheme in WEB_SCHEMES:
            options["client_kwargs"] = {"middlewares": (asked_again,)}
        path = UPath(text, **options)
        _ = path.fs
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(scheme)
        hint = f"pip install 'crossview[{extra}]'" if extra else "is the scheme right?"
        raise MachineError(f"{text}: cannot be opened here ({error}); {hint}") from error
    return cast(Path, path)


def is_remote(path: Path) -> bool:
    """Return whether a location is a URL's."""
    return not isinstance(path, Path)


def is_listed(path: Path) -> bool:
    """Return whether a folder's files can be asked for: a web server need not show them."""
    return not is_remote(path) or cast(Any, path).protocol not in WEB_SCHEMES


def filesystem(path: Path) -> tuple[Any, str]:
    """Return a remote location's fsspec file system and its path there."""
    remote = cast(Any, path)
    return remote.fs, remote.path


def contents(path: Path) -> bytes:
    """Return a file's bytes; a store is asked as often as it takes.

    Raises OSError, and MachineError where a store does not answer.
    """
    if not is_remote(path):
        return path.read_bytes()
    store, key = filesystem(path)
    data: bytes = retried(lambda: store.cat_file(key), str(path))
    return data


def size_of(path: Path) -> int:
    """Return a file's size in bytes, as contents returns its bytes."""
    status = retried(path.stat, str(path)) if is_remote(path) else path.stat()
    return status.st_size
