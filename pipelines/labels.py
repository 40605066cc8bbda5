"""Labels of what the command line names: folders and rows of tables are called after them."""

from __future__ import annotations

from generation.errors import CrossviewError


def label_and_path(text: str) -> tuple[str | None, str]:
    """Split LABEL=PATH; None for a path alone, which may have an equals sign in its folders."""
    label, equals, path = text.partition("=")
    return (label, path) if equals and "/" not in label else (None, text)


def require_folder_name(flag: str, label: str) -> None:
    """Raise CrossviewError for a label that no folder can be called by."""
    if not label or "/" in label or label.startswith("."):
        raise CrossviewError(f"{flag}: {label!r} cannot be a folder's name; give another")
