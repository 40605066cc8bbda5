"""One sentence for every field out of range."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from generation.errors import CrossviewError


def require(holds: bool, field: str, value: Any, allowed: str) -> None:
    """Raise CrossviewError naming field, value and allowed range unless holds."""
    if not holds:
        raise CrossviewError(f"{field} = {value!r}: expected {allowed}")


def require_choices(config: object, where: str = "") -> None:
    """Raise CrossviewError where a field of a dataclass is not among its Literal's values."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal:
            value, choices = getattr(config, name), get_args(kind)
            require(value in choices, f"{where}{name}", value, " or ".join(choices))
