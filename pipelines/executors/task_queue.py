"""The tasks of a run that are left: who does which next, and which are tried again."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from generation.errors import CrossviewError
from pipelines.executors.protocol import Outcome
from pipelines.executors.worker import Fault, Reply

logger = logging.getLogger(__name__)

Task = TypeVar("Task")


@dataclass(eq=False)
class QueueEntry(Generic[Task]):
    """A task, from the queue to its outcome."""

    task: Task
    group: Hashable
    attempts: int = 0

    def request(self, function: Callable[[Task], Any]) -> bytes:
        """Return what a worker is sent."""
        self.attempts += 1
        return pickle.dumps((function, self.task))

    def goes_on_from(self, last: QueueEntry[Task] | None) -> bool:
        """Return whether a worker that has done `last` stays with its group."""
        return last is not None and last.group == self.group


class TaskQueue(Generic[Task]):
    """The tasks that are left, and who does which next.

    A worker stays with its group. Without one it begins the longest that nobody has begun, and
    where all are begun it helps with the one that has most left: so each group is loaded about
    once, and no worker is left alone with a long one at the end.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        group: Callable[[Task], Hashable] | None,
        *,
        attempts: int,
        several_machines: bool = False,
    ) -> None:
        self._attempts = attempts
        self._tried_again = {Fault.DEATH, *([Fault.MACHINE] if several_machines else [])}
        self._left: dict[Hashable, deque[QueueEntry[Task]]] = {}
        for number, task in enumerate(tasks):
            key = group(task) if group else number
            self._left.setdefault(key, deque()).append(QueueEntry(task, key))
        self.num_open = sum(map(len, self._left.values()))
        """Tasks without an outcome."""
        self._unbegun = deque(sorted(self._left, key=lambda key: -len(self._left[key])))

    def take(self, last: QueueEntry[Task] | None) -> QueueEntry[Task] | None:
        """Return the next task for a worker that has done `last`, or None where none is left."""
        while self._unbegun and self._unbegun[0] not in self._left:
            self._unbegun.popleft()
        if last and last.group in self._left:
            key = last.group
        elif self._unbegun:
            key = self._unbegun.popleft()
        elif self._left:
            key = max(self._left, key=lambda key: len(self._left[key]))
        else:
            return None
        entries = self._left[key]
        entry = entries.popleft()
        if not entries:
            del self._left[key]
        return entry

    def resolve(self, entry: QueueEntry[Task], reply: Reply) -> Iterator[Outcome[Task, Any]]:
        """Yield the outcomes that a reply decides: none where the task is to be tried again.

        Raises CrossviewError where no task can go on.
        """
        error: str | None = reply.error
        if reply.fault in self._tried_again:
            if entry.attempts < self._attempts:
                logger.warning("%s while it did %s; trying again", error, _short(entry.task))
                self._left.setdefault(entry.group, deque()).append(entry)
                return
            error = f"{error}, {entry.attempts} times"
        if reply.fault is Fault.DISK:
            raise CrossviewError(
                f"{error}; what is finished stays. Make room and give the same command again"
            )
        self.num_open -= 1
        if reply.fault is None:
            yield Outcome(entry.task, report=pickle.loads(reply.report))
            return
        yield Outcome(entry.task, error=error, fault=reply.fault)
        if reply.fault is Fault.TIME:
            for other in self._left.pop(entry.group, ()):
                self.num_open -= 1
                yield Outcome(other.task, error=error, fault=reply.fault)


def _short(task: object) -> str:
    text = str(getattr(task, "name", task))
    return text if len(text) <= 120 else text[:117] + "..."
