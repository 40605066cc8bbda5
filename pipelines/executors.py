"""Run independent tasks: in this process, or by Ray on all cores and machines. Ray's one door."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from generation.errors import CrossviewError

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Report = TypeVar("Report")

# Workers are as many as cores, so each keeps to one.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
# Workers write shards themselves; only tasks and reports, of a few kilobytes, pass through it.
# Ray's own choice, 30 % of the memory, does not fit the /dev/shm of most containers.
OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Outcome(Generic[Task, Report]):
    """What became of a task: a report, or an error."""

    task: Task
    """As it was given."""
    report: Report | None = None
    """What the function returned."""
    error: str | None = None
    """Why there is no report."""


class Executor(Protocol):
    """Something that runs tasks."""

    def run(
        self, function: Callable[[Task], Report], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Report]]:
        """Yield one outcome for every task, in any order; closing the iterator ends the work.

        The function must stand at a module's top level, and tasks and reports must pickle.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SerialExecutor:
    """One task after the other, in this process and in the given order."""

    def run(
        self, function: Callable[[Task], Report], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Report]]:
        """See Executor."""
        for task in tasks:
            yield _attempt(function, task)


@dataclass(kw_only=True)
class RayExecutor:
    """Tasks on Ray workers, outcomes as they come.

    The first run that has tasks connects, unless this process is connected already; close()
    disconnects and ends a local cluster. Worker processes stay alive between tasks.
    """

    address: str | None = None
    """A running cluster's HOST:PORT, or "auto" to find it; None starts a local one."""
    num_workers: int | None = None
    """Most tasks at a time; None for one on every CPU."""
    max_retries: int = 2
    """Further attempts for a task whose worker died (killed, crashed, out of memory)."""
    _started: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise CrossviewError(f"num_workers = {self.num_workers}: expected at least 1")
        if self.max_retries < 0:
            raise CrossviewError(f"max_retries = {self.max_retries}: expected at least 0")

    def run(
        self, function: Callable[[Task], Report], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Report]]:
        """See Executor. Raises CrossviewError where the cluster cannot be reached."""
        queue = iter(tasks)
        # A local cluster takes seconds to start, which a run with nothing to do need not wait for.
        for first in queue:
            yield from self._run(function, chain([first], queue))

    def _run(
        self, function: Callable[[Task], Report], queue: Iterator[Task]
    ) -> Iterator[Outcome[Task, Report]]:
        self._connect()
        import ray

        # Retries are ours: Ray's own do not bound those after running out of memory.
        attempt: Any = ray.remote(num_cpus=1, max_retries=0)(_attempt)
        max_in_flight = self._max_in_flight()
        in_flight: dict[Any, tuple[Task, int]] = {}
        try:
            while True:
                for task in islice(queue, max_in_flight - len(in_flight)):
                    in_flight[attempt.remote(function, task)] = (task, 1)
                if not in_flight:
                    return
                (done,), _ = ray.wait(list(in_flight), num_returns=1)
                task, tries = in_flight.pop(done)
                outcome, death = _collect(done, task)
                if outcome:
                    yield outcome
                elif tries <= self.max_retries:
                    logger.warning("%s while it ran %s; trying again", death, _short(task))
                    in_flight[attempt.remote(function, task)] = (task, tries + 1)
                else:
                    yield Outcome(task, error=f"{death}, {tries} times")
        finally:
            if ray.is_initialized():
                for left in in_flight:
                    ray.cancel(left, force=True)

    def close(self) -> None:
        """End what this executor started."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        # Nothing is sent to Ray's makers. Ray reads this when it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        local: dict[str, Any] = {
            "num_cpus": self.num_workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        try:
            ray.init(
                address=self.address or "local",
                # No working_dir: workers import the installed packages, nothing is uploaded.
                runtime_env={"env_vars": ONE_THREAD},
                log_to_driver=False,
                configure_logging=False,
                **({} if self.address else local),
            )
        except (OSError, RuntimeError, ValueError) as error:
            where = f"reach the Ray cluster at {self.address}" if self.address else "start Ray"
            raise CrossviewError(f"cannot {where}: {error}") from error
        self._started = True

    def _max_in_flight(self) -> int:
        """Two tasks a worker, so that the next one waits where the last one ends.

        One where the cluster has more CPUs than num_workers, whose idle ones would start the other.
        """
        import ray

        num_cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        if self.num_workers is not None and self.num_workers < num_cpus:
            return self.num_workers
        return 2 * num_cpus


@contextmanager
def make_executor(
    name: str, *, address: str | None = None, num_workers: int | None = None
) -> Iterator[Executor]:
    """Yield the executor of that name, serial or ray; what it started ends with the block."""
    if name == "serial":
        yield SerialExecutor()
    elif name == "ray":
        with closing(RayExecutor(address=address, num_workers=num_workers)) as executor:
            yield executor
    else:
        raise CrossviewError(f"executor {name!r}: expected serial or ray")


def _attempt(function: Callable[[Task], Report], task: Task) -> Outcome[Task, Report]:
    """Call the function; the one border at which any exception becomes a failed outcome."""
    try:
        return Outcome(task, report=function(task))
    except CrossviewError as error:
        return Outcome(task, error=str(error))
    except Exception as error:
        logger.debug("%s failed", _short(task), exc_info=True)
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Outcome(task, error=f"{type(error).__name__}: {error} ({where})")


def _collect(reference: Any, task: Task) -> tuple[Outcome[Task, Any] | None, str]:
    """Return a finished task's outcome, or None and how its worker died."""
    import ray

    try:
        return replace(ray.get(reference), task=task), ""
    except ray.exceptions.RayTaskError as error:  # the task or its report did not pickle
        return Outcome(task, error=f"{type(error.cause).__name__}: {error.cause}"), ""
    except ray.exceptions.OutOfMemoryError:
        return None, "the worker was killed because memory ran out"
    except ray.exceptions.WorkerCrashedError:
        return None, "the worker process died (killed, or crashed in native code)"
    except ray.exceptions.RayError as error:
        return None, f"the worker was lost ({str(error).splitlines()[0]})"


def _short(task: object) -> str:
    text = repr(task)
    return text if len(text) <= 120 else text[:117] + "..."
