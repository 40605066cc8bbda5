"""Run tasks by Ray, on all cores and machines. Ray's one door."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from generation.bounds import require
from generation.errors import CrossviewError
from pipelines.executors.protocol import Outcome
from pipelines.executors.task_queue import QueueEntry, TaskQueue
from pipelines.executors.worker import Fault, Limits, Reply, Worker, import_path

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
MAX_FALSE_STARTS = 3
"""After so many workers in a row that ended before they could take a task, no more are started
before another one answers; where there is none left, the run ends. A machine may be of no use while
the others work."""
PATIENCE_SECONDS = 60.0
"""Without any worker for so long, the run says that it waits."""
PAUSE_SECONDS = 60.0
"""A machine that could not do its task is asked again after so long, each time twice as long."""
CONNECT_SECONDS = 20.0
"""A cluster's head that does not answer for so long is not there."""


@dataclass(kw_only=True)
class RayExecutor:
    """Tasks on Ray workers, outcomes as they come.

    The first run that has tasks connects, unless this process is connected already; close()
    disconnects and ends a local cluster. Workers live as long as there are tasks for them; those of
    a lost machine are made anew elsewhere, and machines that join get their share.
    """

    address: str | None = None
    """A running cluster's HOST:PORT, or "auto" to find it; None starts a local one."""
    num_workers: int | None = None
    """Most tasks at a time; None for one on every CPU."""
    limits: Limits = Limits()
    """What a task may cost."""
    _started: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        fits = self.num_workers is None or self.num_workers >= 1
        require(fits, "num_workers", self.num_workers, "at least 1")

    def run(
        self,
        function: Callable[[Task], Report],
        tasks: Iterable[Task],
        *,
        group: Callable[[Task], Hashable] | None = None,
        recycle: bool = False,
    ) -> Generator[Outcome[Task, Report], None, None]:
        """See Executor. Raises CrossviewError also where Ray, or its workers, do not start."""
        several = self.address is not None
        queue = TaskQueue(tasks, group, attempts=self.limits.attempts, several_machines=several)
        # A local cluster takes seconds to start, which a run with nothing to do need not wait for.
        if not queue.num_open:
            return
        self._connect()
        import ray

        # Retries are ours: Ray's own do not bound those after running out of memory.
        actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_WorkerActor)
        # What each worker is at: a task, or, without one, its own start. One task a worker: the way
        # to the next is a millisecond, and so it is known what each has loaded.
        busy: dict[Any, tuple[Any, QueueEntry[Task] | None]] = {}
        false_starts: list[str] = []  # why, since a worker answered
        # On machines that could not do what another is asked to do now, and when they are asked
        # again. They keep their CPUs, so that Ray starts nobody else there.
        backing_off: dict[Any, float] = {}
        refusals: Counter[Any] = Counter()  # of each, in a row
        try:
            while queue.num_open:
                if len(false_starts) < MAX_FALSE_STARTS:
                    num_actors = min(self._num_actors(), queue.num_open + len(backing_off))
                    for _ in range(num_actors - len(busy) - len(backing_off)):
                        actor = actor_class.remote(self.limits)
                        busy[actor.start.remote()] = (actor, None)
                elif not (busy or backing_off):
                    raise CrossviewError(f"Ray's workers do not start: {false_starts[-1]}")
                now = time.monotonic() if busy else math.inf  # else nobody is left
                for actor in [actor for actor, due in backing_off.items() if due <= now]:
                    del backing_off[actor]
                    busy[actor.start.remote()] = (actor, None)
                done = _first_done(busy, min(backing_off.values(), default=math.inf))
                if done is None:
                    continue
                actor, entry = busy.pop(done)
                reply, lost = _collect(done)
                false_starts = [*false_starts, reply.error] if lost and not entry else []
                outcomes = list(queue.resolve(entry, reply)) if entry else []
                if reply.fault is Fault.MACHINE and not outcomes:
                    pause = PAUSE_SECONDS * 2 ** refusals[actor]
                    backing_off[actor] = time.monotonic() + pause
                    refusals[actor] += 1
                    continue
                if entry:
                    del refusals[actor]
                last = None if reply.fault is Fault.DEATH else entry  # another may live through it
                if not lost and (following := queue.take(last)):
                    fresh = recycle and not following.goes_on_from(entry)
                    busy[actor.do.remote(following.request(function), fresh)] = (actor, following)
                else:
                    ray.kill(actor)
                yield from outcomes
        finally:
            if ray.is_initialized():
                for actor in [*backing_off, *(actor for actor, _ in busy.values())]:
                    ray.kill(actor)

    def close(self) -> None:
        """End what this executor started."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        # No working_dir: other machines import what they have installed.
        environment = ONE_THREAD if self.address else ONE_THREAD | import_path()
        self._started |= connect(
            self.address,
            num_cpus=self.num_workers,
            runtime_env={"env_vars": environment},
            log_to_driver=False,
        )

    def _num_actors(self) -> int:
        """As many as asked for, be there room or not: a cluster that scales makes room."""
        import ray

        return self.num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))


class _WorkerActor:
    """A Ray actor: the parent of one worker. It imports little, and no task can hurt it."""

    def __init__(self, limits: Limits) -> None:
        self._worker = Worker(limits)

    def start(self) -> Reply:
        """Say that this process is there."""
        return Reply()

    def do(self, request: bytes, fresh: bool) -> Reply:
        """See Worker."""
        return self._worker.do(request, fresh=fresh)


def connect(address: str | None, *, num_cpus: int | None, **options: Any) -> bool:
    """Reach a Ray cluster or, without an address, start one here, for ray.shutdown() to end.

    Return whether there was any need to: this process may be connected already. options are
    ray.init's. Raises CrossviewError where that fails.
    """
    # Nothing is sent to Ray's makers. Ray reads this when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    local: dict[str, Any] = {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    where = f"reach the Ray cluster at {address}" if address else "start Ray"
    try:
        if address:
            _check_that_it_listens(address)
        options |= {} if address else local
        ray.init(address=address or "local", configure_logging=False, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise CrossviewError(f"cannot {where}: {error}") from error
    return True


def _check_that_it_listens(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, for which Ray would wait minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _first_done(busy: dict[Any, tuple[Any, QueueEntry[Any] | None]], due: float) -> Any | None:
    """Wait for a worker, or until a time; say so now and then while there is none."""
    import ray

    while True:
        left = max(0.0, due - time.monotonic())
        done, _ = ray.wait(list(busy), num_returns=1, timeout=min(PATIENCE_SECONDS, left))
        if done:
            return done[0]
        if time.monotonic() >= due:
            return None
        if not any(entry for _, entry in busy.values()):
            logger.warning("no Ray worker yet: the cluster has no CPU free; still waiting")


def _collect(reference: Any) -> tuple[Reply, bool]:
    """Return what a worker answered, and whether the worker is lost."""
    import ray

    try:
        return ray.get(reference), False
    except ray.exceptions.OutOfMemoryError:
        return Reply(fault=Fault.DEATH, error="the worker was killed: memory ran out"), True
    except ray.exceptions.ActorDiedError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        return Reply(fault=Fault.DEATH, error=f"the worker was lost: {reason}"), True
    except ray.exceptions.RayError as error:
        reason = str(error).splitlines()[0]
        return Reply(fault=Fault.DEATH, error=f"the worker was lost: {reason}"), True
