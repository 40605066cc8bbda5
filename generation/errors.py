"""The one base of all errors that a user can fix, and how they name many things."""

from __future__ import annotations

from collections.abc import Iterable


class CrossviewError(ValueError):
    """Something a user can fix: says what was expected, what was found, where, and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """


class MachineError(CrossviewError):
    """Something is wrong with this machine, or on its way to a store; another may do better."""


class RendererError(CrossviewError):
    """A renderer that cannot run here, with what to do about it."""


def first_few(names: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """Return the first names for a message, and how many more there are."""
    texts = [str(name) for name in names]
    text = separator.join(texts[:most])
    more = len(texts) - most
    return f"{text}{separator}and {more} more" if more > 0 else text
