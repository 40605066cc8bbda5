"""The parts of a training step, by name: for torch.profiler, and for whoever adds up their time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function


class PartTimes:
    """Adds up the time of each part. On CUDA the device's own time, which nothing waits for."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what runs in the block to a part."""
        if self._cuda:
            span = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            span[0].record()
            yield
            span[1].record()
            self._spans.setdefault(name, []).append(span)
        else:
            start = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Return each part's time so far; waits for the device."""
        if self._spans:
            torch.cuda.synchronize()
        for name, spans in self._spans.items():
            ms = sum(begin.elapsed_time(end) for begin, end in spans)
            self._seconds[name] = self._seconds.get(name, 0.0) + ms / 1000
        self._spans.clear()
        return dict(self._seconds)


_listening: list[PartTimes] = []


@contextmanager
def listen(times: PartTimes) -> Iterator[None]:
    """Have the parts of all steps in the block added up."""
    _listening.append(times)
    try:
        yield
    finally:
        _listening.remove(times)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name a part of a step."""
    with record_function(name):
        if _listening:
            with _listening[-1].measure(name):
                yield
        else:
            yield
