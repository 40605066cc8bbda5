"""Python, and whether the packages that crossview needs are there and work."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import metadata

from pipelines.doctor.finding import BROKEN, INSTALL, MISSING, OK, WARN, Finding
from pipelines.doctor.probes import IMPORTED, ask

LEAST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 10), (3, 14)
_MODULE_OF = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "universal-pathlib": "upath",
}
"""Distributions whose modules have other names."""


def check_python() -> Finding:
    """Check the version of Python."""
    return python_finding(sys.version_info[:3], sys.executable)


def python_finding(version: tuple[int, ...], executable: str) -> Finding:
    """Judge a version of Python."""
    found = f"{'.'.join(map(str, version))} at {executable}"
    first, last = (f"3.{v}" for v in (LEAST_PYTHON[1], FIRST_UNTRIED_PYTHON[1] - 1))
    if version[:2] < LEAST_PYTHON:
        return Finding(BROKEN, found, f"install Python {first} to {last}")
    if version[:2] >= FIRST_UNTRIED_PYTHON:
        return Finding(WARN, found, f"not tried with this one; take Python {first} to {last}")
    return Finding(OK, found)


def check_packages() -> Finding:
    """Check that every package that crossview asks for is there, new enough, and imports."""
    try:
        requirements = metadata.requires("crossview") or []
    except metadata.PackageNotFoundError:
        return Finding(BROKEN, "crossview is not installed for this Python", INSTALL)
    try:
        wrong, names = unmet(requirements, installed_versions())
    except ImportError:
        return Finding(MISSING, "packaging is not installed", INSTALL)
    wrong |= failed_imports(names - set(wrong))
    if wrong:
        found = "; ".join(f"{name} {what}" for name, what in sorted(wrong.items()))
        return Finding(BROKEN, found, INSTALL)
    return Finding(OK, f"{len(names)} packages, as new as they must be, and they import")


def unmet(
    requirements: Iterable[str], versions: Mapping[str, str]
) -> tuple[dict[str, str], set[str]]:
    """Return what is wrong (name -> what), and the names of all requirements that hold here.

    versions: of the installed distributions, by name as PyPI spells it.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wrong: dict[str, str] = {}
    names: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        version = versions.get(name)
        if version is None:
            wrong[name] = "is missing"
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong[name] = f"is {version}, expected {requirement.specifier}"
    return wrong, names


def failed_imports(names: Iterable[str]) -> dict[str, str]:
    """Import distributions in another process; return what went wrong, by name."""
    left = sorted(names)
    failed: dict[str, str] = {}
    while left:
        answer = ask("import_each", *(_MODULE_OF.get(name, name) for name in left))
        done = [line for line in answer.output.splitlines() if line.startswith(IMPORTED)]
        for name, line in zip(left, done):
            if line != IMPORTED:
                failed[name] = f"does not import ({line.removeprefix(IMPORTED)})"
        if len(done) == len(left):
            break
        failed[left[len(done)]] = f"does not import ({answer.failure})"
        left = left[len(done) + 1 :]
    return failed


def check_torchvision() -> Finding:
    """Check that torchvision was built for this torch."""
    versions = installed_versions()
    found = ", ".join(f"{n} {versions.get(n, 'missing')}" for n in ("torch", "torchvision"))
    answer = ask("register_torchvision")
    if answer.failure:
        return Finding(
            BROKEN,
            f"{found}: {answer.failure}",
            "install both from the same place, so that their builds match: "
            "pip install --force-reinstall torch torchvision",
        )
    return Finding(OK, found)


def check_ray() -> Finding:
    """Check that a Ray cluster starts here and does a task."""
    answer = ask("start_ray")
    if answer.failure:
        return Finding(BROKEN, answer.failure, "until it starts: --executor serial")
    return Finding(OK, answer.output)


def installed_versions() -> dict[str, str]:
    """Return the versions of all installed distributions, by name as PyPI spells it."""
    from packaging.utils import canonicalize_name

    return {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }
