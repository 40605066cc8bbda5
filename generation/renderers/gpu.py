"""Is there a GPU, and is it what renders? Answered by the standard library alone."""

from __future__ import annotations

from pathlib import Path

_NODES = ("nvidia[0-9]*", "dri/renderD*", "dxg")
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")


def has_gpu() -> bool:
    """Return whether the system shows a device that could be a GPU."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _NODES)


def is_gpu(device: str) -> bool:
    """Return whether a device name, as OpenGL gives it, is not that of a software driver."""
    return not any(word in device.lower() for word in _SOFTWARE)
