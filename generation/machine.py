"""What this machine is, and how much of it there is for this process."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def num_cores() -> int:
    """Return PYTHON_CPU_COUNT, which Python 3.13 knows too, else all cores it may run on."""
    given = os.environ.get("PYTHON_CPU_COUNT", "")
    if given.isdecimal():
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS binds no process to cores


def memory_bytes() -> int:
    """Return the size of the memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
