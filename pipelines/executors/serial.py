"""Run tasks in one process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.executors.protocol import Outcome
from pipelines.executors.task_queue import QueueEntry, TaskQueue
from pipelines.executors.worker import Limits, Worker

Task = TypeVar("Task")
Report = TypeVar("Report")


@dataclass(kw_only=True)
class SerialExecutor:
    """One task after the other, in one worker process on this machine."""

    limits: Limits = Limits()
    """What a task may cost."""
    _worker: Worker = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._worker = Worker(self.limits)

    def run(
        self,
        function: Callable[[Task], Report],
        tasks: Iterable[Task],
        *,
        group: Callable[[Task], Hashable] | None = None,
        recycle: bool = False,
    ) -> Generator[Outcome[Task, Report], None, None]:
        """See Executor."""
        queue = TaskQueue(tasks, group, attempts=self.limits.attempts)
        last: QueueEntry[Task] | None = None
        while entry := queue.take(last):
            fresh = recycle and not entry.goes_on_from(last)
            reply = self._worker.do(entry.request(function), fresh=fresh)
            yield from queue.resolve(entry, reply)
            last = entry

    def close(self) -> None:
        """End the worker, which otherwise waits for the next run, with its scene loaded."""
        self._worker.close()
