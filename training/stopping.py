"""End a run between two steps when asked to: by SIGTERM, or by Ctrl-C once.

Often every process of a run is told at once: by a terminal, by Slurm, by systemd. Those that must
outlive it, to do what the last step needs, start with both signals blocked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = {signal.SIGTERM, signal.SIGINT}


class StopRequest:
    """Catches SIGTERM and the first SIGINT in a with block; says whether one has come.

    Those that came before, while this process had them blocked, count too.
    """

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self._asked

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}  # then handled
        for number in SIGNALS:
            signal.signal(number, self._take)
        self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # a second Ctrl-C ends at once


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes in which both signals are blocked; here they wait until the block's end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_only_the_parent(_worker: int) -> None:
    """Have a loader's process, started with SIGTERM blocked, end by that of its parent alone."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not say who sent it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
