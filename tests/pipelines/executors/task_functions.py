"""Functions that the tests of executors have done in other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from generation.errors import CrossviewError, MachineError


def square(task: int) -> int:
    if task == 3:
        raise CrossviewError("scene three has no floor")
    if task == 5:
        raise KeyError("five")
    return task * task


def die_on_one(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die_unless_marked(task: tuple[int, str]) -> int:
    number, marker = task
    if number == 1 and not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return number


def crash(task: int) -> None:
    os.abort()


def unpicklable(task: int) -> object:
    return (each for each in ())


def process(task: int) -> tuple[int, int, str | None]:
    time.sleep(0.02)
    return os.getpid(), os.getppid(), os.environ.get("OPENBLAS_NUM_THREADS")


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def parse_memory(num_bytes: int) -> int:
    """Fail for want of memory as a library does that gives every error its own class."""
    try:
        return allocate(num_bytes)
    except MemoryError as error:
        raise CrossviewError("cannot read this mesh") from error


def write_to_full_disk(task: int) -> None:
    Path("/dev/full").write_text("data")


def fetch_to_full_disk(task: int) -> None:
    """Fail as a scene does whose files find no room here."""
    try:
        write_to_full_disk(task)
    except OSError as error:
        raise CrossviewError("the scene cannot be fetched") from error


def sleep_if_marked(task: tuple[str, int]) -> int:
    """Hang where the scene is the slow one."""
    scene, number = task
    if scene == "slow":
        time.sleep(600)
    return number


def begin_and_hang(folder: str) -> None:
    """Say that the work has begun, and by whom; never end."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def write_where_nothing_is(task: int) -> None:
    Path("/nowhere/at/all").write_text("data")


def need_scans(task: int) -> tuple[int, bool]:
    """Fail where they are mounted late, until they are; elsewhere take long until then."""
    scans, late = Path(os.environ["SCANS"]), "LATE" in os.environ
    if late and not scans.exists():
        raise MachineError("no scans here")
    if late:
        (scans / "in use").touch()
    elif not (scans / "in use").exists():
        time.sleep(0.1)
    return task, late
