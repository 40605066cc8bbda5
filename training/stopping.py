"""End a run between two steps when asked to: by SIGTERM, or by Ctrl-C once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequest:
    """Catches SIGTERM and the first SIGINT in a with block; says whether one has come."""

    def __init__(self) -> None:
        self._asked = False
        self._process = os.getpid()

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self._asked

    def __enter__(self) -> StopRequest:
        self._before = {
            number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's process, forked with this handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return  # Ctrl-C reaches it too, but the step at hand needs its data
        self._asked = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # a second Ctrl-C ends at once
