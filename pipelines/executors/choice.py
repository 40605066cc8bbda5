"""The executors, by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing

from generation.errors import CrossviewError
from pipelines.executors.on_ray import RayExecutor
from pipelines.executors.protocol import Executor
from pipelines.executors.serial import SerialExecutor
from pipelines.executors.worker import Limits


def make_executor(
    name: str,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    limits: Limits | None = None,
) -> AbstractContextManager[Executor]:
    """Return the executor of that name; what it started ends with the block.

    Raises CrossviewError for another name, and for an address or workers of serial, which has one.
    """
    if name not in EXECUTORS:
        raise CrossviewError(f"executor {name!r}: expected {' or '.join(EXECUTORS)}")
    return closing(EXECUTORS[name](address, num_workers, limits or Limits()))


def _serial(address: str | None, num_workers: int | None, limits: Limits) -> SerialExecutor:
    for given, what in ((address, "a Ray address"), (num_workers, "a number of workers")):
        if given is not None:
            raise CrossviewError(f"executor serial: {what}, {given}, needs --executor ray")
    return SerialExecutor(limits=limits)


def _ray(address: str | None, num_workers: int | None, limits: Limits) -> RayExecutor:
    return RayExecutor(address=address, num_workers=num_workers, limits=limits)


EXECUTORS: dict[str, Callable[[str | None, int | None, Limits], SerialExecutor | RayExecutor]] = {
    "ray": _ray,
    "serial": _serial,
}
"""Name -> how one is made of an address, a number of workers, and what a task may cost."""
