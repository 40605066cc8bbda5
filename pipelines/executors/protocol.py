"""What an executor does with tasks, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pipelines.executors.worker import Fault

Task = TypeVar("Task")
Report = TypeVar("Report")


@dataclass(frozen=True)
class Outcome(Generic[Task, Report]):
    """What became of a task: a report, or an error."""

    task: Task
    """As it was given."""
    report: Report | None = None
    """What the function returned."""
    error: str | None = None
    """Why there is no report."""
    fault: Fault | None = None
    """What kind of error."""


class Executor(Protocol):
    """Something that runs tasks."""

    def run(
        self,
        function: Callable[[Task], Report],
        tasks: Iterable[Task],
        *,
        group: Callable[[Task], Hashable] | None = None,
        recycle: bool = False,
    ) -> Generator[Outcome[Task, Report], None, None]:
        """Yield one outcome for every task, in any order; closing the generator ends the work.

        function must stand at a module's top level, and tasks and reports must pickle. group names
        what several tasks have in common that a worker keeps, such as a loaded scene: a worker
        stays with a group while it lasts, and once a task of it has taken too long the rest of the
        group is not begun. recycle gives every group worker processes of its own, for a function
        that cannot clean up after itself. Raises CrossviewError where nothing can be written any
        more.
        """
        ...
