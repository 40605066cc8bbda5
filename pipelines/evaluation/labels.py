"""Labels of what the command line names: folders and rows of tables are called after them."""

from __future__ import annotations

from generation.errors import CrossviewError


def label_and_path(flag: str, text: str) -> tuple[str | None, str]:
    """Split LABEL=PATH; None for a path alone, which may have an equals sign in its folders.

    Raises CrossviewError where there is no path.
    """
    label, equals, path = text.partition("=")
    labelled = bool(equals) and "/" not in label
    if not (path if labelled else text):
        raise CrossviewError(f"{flag} {text}: expected a path")
    return (label, path) if labelled else (None, text)


def require_folder_name(flag: str, label: str) -> None:
    """Raise CrossviewError for a label that no folder can be called by."""
    if not label or "/" in label or label.startswith("."):
        raise CrossviewError(f"{flag}: {label!r} cannot be a folder's name; give another")
