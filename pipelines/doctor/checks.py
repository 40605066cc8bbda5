"""The table of all checks, and what it says of this machine."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.doctor.finding import BROKEN, MISSING, Finding
from pipelines.doctor.machine import (
    check_cores,
    check_disk,
    check_gpu,
    check_memory,
    check_shared_memory,
)
from pipelines.doctor.packages import check_packages, check_python, check_ray, check_torchvision
from pipelines.doctor.renderers import check_egl, check_embree, check_gl, check_habitat
from pipelines.tables import format_table


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    what: str
    examine: Callable[[], Finding]
    required: bool = False
    """Whether rendering with Embree and pre-training, the default path, need it."""


CHECKS = (
    Check("Python", check_python, required=True),
    Check("packages", check_packages, required=True),
    Check("torch, torchvision", check_torchvision, required=True),
    Check("cores", check_cores),
    Check("memory", check_memory),
    Check("shared memory", check_shared_memory),
    Check("disk", check_disk),
    Check("GPU", check_gpu),
    Check("EGL", check_egl),
    Check("renderer embree", check_embree, required=True),
    Check("renderer gl", check_gl),
    Check("renderer habitat", check_habitat),
    Check("Ray", check_ray, required=True),
)
"""In the order of the table."""


def examine(checks: Iterable[Check]) -> list[tuple[Check, Finding]]:
    """Do checks, several at a time; one that fails itself is broken."""
    with ThreadPoolExecutor(4) as pool:
        checks = list(checks)
        return list(zip(checks, pool.map(_examine, checks)))


def _examine(check: Check) -> Finding:
    try:
        return check.examine()
    except Exception as error:  # doctor tells of what is broken, also where it did not expect it
        return Finding(BROKEN, f"{type(error).__name__}: {error}", "report this")


def failures(results: Iterable[tuple[Check, Finding]]) -> list[str]:
    """Return what the default path needs and has not."""
    return [
        check.what
        for check, finding in results
        if check.required and finding.state in (MISSING, BROKEN)
    ]


def findings_table(results: Iterable[tuple[Check, Finding]]) -> str:
    """Return the table of all findings."""
    rows = [
        (check.what, finding.state, finding.found, finding.advice) for check, finding in results
    ]
    return format_table(rows, ("what", "state", "found", "what to do"))


def main() -> int:
    """Print the table; return 2 where the default path is broken, else 0."""
    results = examine(CHECKS)
    print(f"crossview doctor on {platform.platform()}\n")
    print(findings_table(results))
    wrong = failures(results)
    if wrong:
        print(f"\nwhat rendering and pre-training need is not there: {', '.join(wrong)}")
        return 2
    print("\nrendering with Embree and pre-training will work here")
    return 0
