"""What a step came to, agreed upon by all processes, without the host waiting for the device.

The device decides by itself whether a step may change the weights. The host reads what it decided
some steps later, at the same step in every process, so that all of them end together.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from training.distributed import Process

LAG = {"cpu": 0, "cuda": 2}
"""Steps that the host runs ahead of what it reads, so that a GPU always has work queued."""


class Verdict(NamedTuple):
    """What a step came to."""

    step: int
    """Counted from 0."""
    bad: bool
    """Whether some process's loss, or a gradient, was not finite; then no weight was changed."""
    stop: bool
    """Whether some process was asked to stop."""
    losses: Tensor
    """(b,) losses of this process's pairs, on the device."""


class Verdicts:
    """Verdicts of the last steps, on their way to the host."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._cuda = process.device.type == "cuda"
        self._lag = LAG[process.device.type]
        self._skip = torch.zeros((), device=process.device)
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None, Tensor]] = deque()

    def judge(self, step: int, losses: Tensor, gradient_norm: Tensor, stop: bool) -> Tensor:
        """Return, as a scalar on the device, 1 where no weight may be changed any more, else 0.

        It stays 1 once it was: what comes after a bad step until the host reads of it changes
        nothing either.
        """
        finite = losses.sum().isfinite() & gradient_norm.isfinite()
        asked = torch.full((), float(stop), device=self._process.device)
        flags = self._process.sum(torch.stack([(~finite).float(), asked]))
        self._skip = torch.maximum(self._skip, (flags[0] > 0).float())
        event = None
        if self._cuda:
            flags = flags.to("cpu", non_blocking=True)  # into pinned memory, as torch does it
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((step, flags, event, losses))
        return self._skip

    def due(self, *, all_of_them: bool = False) -> list[Verdict]:
        """Return those that are old enough, or all, which waits for the device."""
        verdicts = []
        while len(self._waiting) > (0 if all_of_them else self._lag):
            step, flags, event, losses = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            bad, stop = (value > 0 for value in flags.tolist())
            verdicts.append(Verdict(step, bad, stop, losses))
        return verdicts
