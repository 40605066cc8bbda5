"""What workers on other machines wrote, once this one sees it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from generation.shards.files import VISIBLE_SECONDS


class Finishable(Protocol):
    """A task that leaves files."""

    @property
    def name(self) -> str:
        """Of its shard."""
        ...

    def finished(self, *, verify: bool = False) -> Any:
        """Return what it left, where it is finished, or None; verify: read all of it."""
        ...


Task = TypeVar("Task", bound=Finishable)


def awaited(
    tasks: Iterable[Task], reported: Container[str], *, verify: bool
) -> Iterator[tuple[Task, Any]]:
    """Yield tasks and what they left, or None, once what workers reported is seen here too.

    Those that none reported are asked once, as strictly as verify says: a damaged shard whose task
    failed is damaged still.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    for task in tasks:
        done = task.finished(verify=verify and task.name not in reported)
        while not done and task.name in reported and time.monotonic() < deadline:
            time.sleep(1)
            done = task.finished()
        yield task, done


def not_seen(name: str, out: Path) -> str:
    """Return what to say of a shard that was reported, and is not there."""
    return (
        f"a worker wrote {name}.tar, but it is not in {out}: every machine must see the same "
        "folder there, and have the same version of crossview"
    )
