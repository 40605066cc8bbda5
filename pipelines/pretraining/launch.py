"""Start the processes of a pre-training: this one, or several that an agent of torchrun watches."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType

import torch

from generation.errors import CrossviewError
from generation.machine import num_cores
from pipelines.log import log_to_stderr
from pipelines.orphans import signal_when_orphaned
from training.config import PretrainConfig
from training.stopping import SIGNALS, StopRequest, signals_blocked
from training.trainer import PretrainResult, pretrain

GIVE_UP = signal.SIGUSR1
"""What a process sends the agent that must not start it again."""
_POLL_S = 1.0


def train_here(config: PretrainConfig, out: Path, stop_file: Path | None = None) -> PretrainResult:
    """Train in this process, and with those that were started together with it.

    SIGTERM, Ctrl-C once, or a file at stop_file ends the run after the step at hand, saved.
    """
    with StopRequest() as asked:
        result = pretrain(config, out, lambda: asked() or bool(stop_file and stop_file.exists()))
    if int(os.environ.get("RANK", 0)) == 0:
        print_result(result)
    return result


def print_result(result: PretrainResult) -> None:
    """Print the last metrics, and whether the run is at its end."""
    for name, value in result.metrics.items():
        print(f"{name:32} {value if isinstance(value, int) else f'{value:.6g}'}")
    print(f"checkpoint: {result.checkpoint}")
    if result.metrics["step"] < result.num_steps:
        print(f"stopped before step {result.num_steps}; the same command goes on from here")


def train_in_processes(
    config: PretrainConfig,
    out: Path,
    *,
    num_processes: int | None = None,
    num_machines: int = 1,
    rendezvous: str | None = None,
    max_restarts: int = 3,
) -> None:
    """Train in several processes on this machine, and on others.

    num_processes: on this machine; None for one a GPU. rendezvous: HOST:PORT of the first machine,
    the same on all, where they meet. When a process dies, all are started again, so many times, and
    go on from the last checkpoint. SIGTERM and Ctrl-C end the run as in train_here, also those that
    come while processes start. Raises CrossviewError where machines have nowhere to meet, where
    pretrain does, and where processes die too often.
    """
    if num_machines > 1 and not re.fullmatch(r".+:\d+", rendezvous or ""):
        raise CrossviewError(
            f"{num_machines} machines: expected --rendezvous HOST:PORT, the first machine's "
            f"address, the same on all of them, got {rendezvous}"
        )
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = num_processes or max(1, torch.cuda.device_count())
    threads = max(1, num_cores() // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Else processes that are started again meet in the store of those before them, and may wait for
    # ever at the addresses of the dead (torch 2.15, gloo).
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    launch = elastic_launch(
        LaunchConfig(
            min_nodes=num_machines,
            max_nodes=num_machines,
            nproc_per_node=count,
            run_id="crossview",
            rdzv_backend="c10d",
            rdzv_endpoint=rendezvous or "localhost:0",
            max_restarts=max_restarts,
            signals_to_handle=GIVE_UP.name,
        ),
        _member,
    )
    with tempfile.TemporaryDirectory() as folder:
        reason, stop_file = Path(folder) / "reason", Path(folder) / "stop"
        try:
            with _signals_passed_on(stop_file):
                launch(config, out, reason, stop_file, os.getpid())
        except (ChildFailedError, RendezvousError, SignalException) as error:
            if reason.exists():
                raise CrossviewError(reason.read_text()) from error
            if isinstance(error, RendezvousError):
                raise CrossviewError(
                    f"{num_machines} machines did not meet at {rendezvous} ({error}); is that the "
                    "first machine's address, and does the command run on all of them? It goes on "
                    "from the last checkpoint, if there is one"
                ) from error
            raise CrossviewError(
                f"processes still died after {max_restarts} restarts ({_first_line(error)}); the "
                "same command goes on from the last checkpoint"
            ) from error


def _member(config: PretrainConfig, out: Path, reason: Path, stop_file: Path, agent: int) -> None:
    """Be one of the processes; what a user can mend goes into the file `reason`, once."""
    trained = threading.Event()
    # When the agent is killed, torch has this sent SIGINT, which may come twice: once too often.
    signal_when_orphaned(0)
    threading.Thread(target=_end_with, args=(agent, trained), daemon=True).start()
    signal.signal(GIVE_UP, signal.SIG_IGN)  # the agent's way to hand it on; each ends by itself
    log_to_stderr()
    try:
        train_here(config, out, stop_file)
    except CrossviewError as error:
        with suppress(FileExistsError), open(reason, "x") as stream:
            stream.write(str(error))
            stream.flush()
            with suppress(ProcessLookupError):
                os.kill(agent, GIVE_UP)  # else it would start all of them again
        sys.exit(1)
    trained.set()


def _end_with(agent: int, trained: threading.Event) -> None:
    """Have this process save and end when its agent is killed, to hold no GPU any longer."""
    while os.getppid() == agent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    trained.wait()
    os._exit(0)  # torch would wait for ever for the agent to take what is returned


def _first_line(error: Exception) -> str:
    """Return what is known of the first process that died."""
    failure = getattr(error, "get_first_failure", lambda: (0, None))()[1]
    if failure is None:
        return str(error)
    return f"process {failure.local_rank}: exit status {failure.exitcode}"


@contextmanager
def _signals_passed_on(stop_file: Path) -> Iterator[None]:
    """Have SIGTERM and SIGINT make the file that tells the processes to stop, whenever they start.

    The processes are born with both signals blocked: one that comes to all of them waits until a
    process can heed it, and the agent takes nobody's death for a crash.
    """

    def tell(number: int, _: FrameType | None) -> None:
        stop_file.touch()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])  # a second one ends at once

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, tell)
    done = threading.Event()
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks both
    # This thread goes on hearing both; Python has the main one handle them.
    threading.Thread(target=done.wait, daemon=True).start()
    try:
        with signals_blocked():
            yield
    finally:
        done.set()
        for number, handler in before.items():
            signal.signal(number, handler)
