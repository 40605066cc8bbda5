"""Processes of a command, as the kernel sees them, for tests that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CHILD = "pipelines.executors.worker"
"""In the command line of the process that does the tasks."""
ACTOR = "ray::_WorkerActor"
"""In that of its parent, where Ray runs it."""


def wait_for(condition: Callable[[], T], seconds: float = 180) -> T:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def crossview(*words: str | Path, **options) -> subprocess.Popen[str]:
    """Start a crossview command."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes | options)


def tree(pid: int) -> dict[int, str]:
    """Return the command lines of all processes below one, by their ids."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has just ended
            if status[0] != "Z":
                parents[int(entry.name)] = (int(status[1]), command)
    found: dict[int, str] = {}
    level = {pid}
    while level:
        level = {child for child, (parent, _) in parents.items() if parent in level}
        found |= {child: parents[child][1] for child in level}
    return found


def below(process: subprocess.Popen[str], text: str) -> list[int]:
    """Return the processes of a command whose own command lines hold a text."""
    return [pid for pid, command in tree(process.pid).items() if text in command]


def parent_of(pid: int) -> int:
    """Return a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pids: list[int]) -> None:
    """Kill processes, if they are still there; no one gets to clean up."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
