"""One value kept, where two of its kind would need twice the memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


def keep_last(make: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Keep a function's last value, as lru_cache(maxsize=1), but let it go before the next is made.

    Arguments are positional and hashable.
    """
    kept: dict[object, Value] = {}

    @wraps(make)
    def kept_or_made(*key: Arguments.args, **none: Arguments.kwargs) -> Value:
        if key not in kept:
            kept.clear()
            kept[key] = make(*key, **none)
        return kept[key]

    return kept_or_made
