"""How many cores there are for this process."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Return PYTHON_CPU_COUNT, which Python 3.13 knows too, else all cores it may run on."""
    given = os.environ.get("PYTHON_CPU_COUNT", "")
    if given.isdecimal():
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS binds no process to cores
