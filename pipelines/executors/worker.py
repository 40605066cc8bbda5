"""A child process that does tasks within limits of time and memory, and may die of them.

Scene files are untrusted input: parsers hang, crash in native code and ask for more memory than
there is. Whatever a task does to its child, the parent goes on and says what happened.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from errno import EDQUOT, ENOSPC, EROFS
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from generation.bounds import require
from generation.errors import CrossviewError, MachineError
from pipelines.orphans import signal_when_orphaned

GIB = 2**30
OWN_PATH = "import sys; sys.path = list(filter(None, sys.path)); "
"""What a `python -c` begins with that is to import the same as this one, not what lies around."""
_CHILD = f"{OWN_PATH}from pipelines.executors.worker import serve; serve(*map(int, sys.argv[1:]))"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a task may cost."""

    seconds: float = 1800.0
    """Time for one task; then its worker is killed. Imports, before it, have as much again."""
    memory_gib: float = 8.0
    """Memory that one worker may allocate, in GiB; beyond, it gets no more. Kept on Linux only."""
    attempts: int = 3
    """How often a task is tried whose worker dies (killed, or crashed in native code)."""

    def __post_init__(self) -> None:
        longest = 2_000_000.0  # poll() counts milliseconds in 31 bits
        what = f"more than 0, at most {longest:,.0f}"
        require(0 < self.seconds <= longest, "seconds", self.seconds, what)
        most = 2.0**20
        what = f"more than 0, at most {most:,.0f}"
        require(0 < self.memory_gib <= most, "memory_gib", self.memory_gib, what)
        require(self.attempts >= 1, "attempts", self.attempts, "at least 1")


class Fault(Enum):
    """Why a task gave no report."""

    ERROR = "the function raised an exception"
    MEMORY = "it asked for more memory than its worker may have"
    TIME = "it took longer than a task may"
    DEATH = "its worker died"
    MACHINE = "its machine cannot do it; another may"
    DISK = "nothing can be written any more, by no task"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of a request; unpickled only by who knows the report's class."""

    report: bytes = b""
    """What the function returned, pickled; empty where there is a fault."""
    fault: Fault | None = None
    error: str = ""
    """What happened, in words."""


class Worker:
    """One child process, started by the first request; it lives until it dies or close()."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def do(self, request: bytes, *, fresh: bool = False) -> Reply:
        """Answer a request, (function, task) pickled, once; whatever it does becomes a reply.

        fresh: in a new child.
        """
        if fresh:
            self.close()
        pipe = self._pipe or self._start()
        try:
            pipe.send_bytes(request)
            reply: Reply | None = None
            while reply is None:  # first None: the task begins
                if not pipe.poll(self._limits.seconds):
                    self.close()
                    limit = f"the limit of {self._limits.seconds:g} s for a task (--task-timeout)"
                    return Reply(fault=Fault.TIME, error=f"not finished within {limit}")
                reply = pipe.recv()
        except (EOFError, OSError):
            return Reply(fault=Fault.DEATH, error=self._cause_of_death())
        except BaseException:
            self.close()  # interrupted: the reply to come is nobody's
            raise
        if reply.fault is Fault.MEMORY:
            self.close()  # what it holds would be missing from the next task's share
        return reply

    def close(self) -> None:
        """End the child, at once."""
        if self._child and self._pipe:
            self._child.kill()
            self._child.wait()
            self._pipe.close()
        self._child = self._pipe = None

    def _start(self) -> Connection:
        pipe, theirs = Pipe()
        with theirs:
            numbers = (theirs.fileno(), os.getpid(), int(self._limits.memory_gib * GIB))
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *map(str, numbers)],
                env=os.environ | import_path(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._pipe = pipe
        return pipe

    def _cause_of_death(self) -> str:
        assert self._child is not None
        status = self._child.wait()
        self.close()
        if status >= 0:
            return f"the worker process ended with status {status}"
        name = signal.Signals(-status).name
        how = "was killed" if -status in (signal.SIGKILL, signal.SIGTERM) else "crashed"
        return f"the worker process {how} ({name})"


def import_path() -> dict[str, str]:
    """Return the environment by which another Python imports what this one can."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def serve(pipe_fd: int, parent: int, memory_bytes: int) -> None:
    """Answer the requests that come through a pipe, until it is closed; the child's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    _die_with(parent)
    if sys.platform == "linux":  # elsewhere the kernel takes no notice of it
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        allowed = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))
    with Connection(pipe_fd) as pipe:
        while True:
            try:
                request = pipe.recv_bytes()
            except EOFError:
                return
            pipe.send(_attempt(request, pipe, memory_bytes))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Elsewhere than on Linux an orphan finishes its task and ends when it looks for the next.
    """
    signal_when_orphaned(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this
        os._exit(1)


def _attempt(request: bytes, pipe: Connection, memory_bytes: int) -> Reply:
    """Call the function; the one border at which any exception becomes a reply."""
    try:
        function, task = pickle.loads(request)
        pipe.send(None)
        return Reply(report=pickle.dumps(function(task)))
    except Exception as error:
        for cause in _chain(error):
            if isinstance(cause, MemoryError):
                limit = f"the {memory_bytes / GIB:g} GiB of memory of a worker (--worker-memory)"
                return Reply(fault=Fault.MEMORY, error=f"needs more than {limit}")
            if isinstance(cause, OSError) and cause.errno in (ENOSPC, EDQUOT, EROFS):
                where = f"{cause.filename}: " if cause.filename else ""
                host = socket.gethostname()
                return Reply(fault=Fault.DISK, error=f"{host}: {where}{cause.strerror}")
        if isinstance(error, (MachineError, OSError)):
            return Reply(fault=Fault.MACHINE, error=f"on {socket.gethostname()}: {error}")
        if isinstance(error, CrossviewError):
            return Reply(fault=Fault.ERROR, error=str(error))
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Reply(fault=Fault.ERROR, error=f"{type(error).__name__}: {error} ({where})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
