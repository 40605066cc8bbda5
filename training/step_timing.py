"""The parts of a training step, by name: for torch.profiler, and for whoever takes their time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch.profiler import record_function


class StepTimes:
    """How long each part took each time. On CUDA it is the device's own time."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Take the time of what runs in the block."""
        if self._cuda:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.setdefault(name, []).append(events)
        else:
            start = time.perf_counter()
            yield
            self._seconds.setdefault(name, []).append(time.perf_counter() - start)

    def a_step(self, num_steps: int) -> dict[str, float]:
        """Return each part's seconds a step, of so many, by its median; waits for the device.

        What a step does several times, as with optim.accumulate, counts as often.
        """
        if self._cuda:
            torch.cuda.synchronize()
        for name, pairs in self._events.items():
            measured = [begin.elapsed_time(end) / 1000 for begin, end in pairs]
            self._seconds.setdefault(name, []).extend(measured)
        self._events.clear()
        return {
            name: median(measured) * len(measured) / num_steps
            for name, measured in self._seconds.items()
        }


_listening: list[StepTimes] = []


@contextmanager
def listen(times: StepTimes) -> Iterator[None]:
    """Have the time taken of the parts of all steps in the block."""
    _listening.append(times)
    try:
        yield
    finally:
        _listening.remove(times)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Name a part of a step, and take its time where somebody listens."""
    with record_function(name):
        if _listening:
            with _listening[-1].measure(name):
                yield
        else:
            yield
