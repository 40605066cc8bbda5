"""What the kernel tells a process whose parent ends."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_PDEATHSIG = 1


def signal_when_orphaned(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, however that ends; 0: none.

    It may come several times: as often as a thread of the parent ends that had taken the process
    over from another (prctl(2)). Elsewhere than on Linux nothing is sent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
