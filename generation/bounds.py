"""One sentence for every field out of range."""

from __future__ import annotations

from typing import Any

from generation.errors import CrossviewError


def require(holds: bool, field: str, value: Any, allowed: str) -> None:
    """Raise CrossviewError naming field, value and allowed range unless holds."""
    if not holds:
        raise CrossviewError(f"{field} = {value!r}: expected {allowed}")
