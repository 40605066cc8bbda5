"""Which packages decide the bytes of a shard."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata

_PACKAGES = (
    "crossview", "embreex", "habitat_sim", "llvmlite", "moderngl", "numba", "numpy", "pillow",
    "scipy", "simplejpeg", "trimesh", "webdataset",
)  # fmt: skip


@lru_cache
def versions() -> dict[str, str]:
    """Return package -> version of Python and of those packages that are installed here."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of a renderer that is not used here
            continue
    return found


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name the packages that both have, of which the versions differ."""
    return [name for name in now if name in before and before[name] != now[name]]
