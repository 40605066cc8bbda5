"""Metrics of a run: JSON lines first, TensorBoard beside them."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from generation.geometry import UInt8
from generation.shards.files import write_text_whole
from training.distributed import Process
from training.run_folder import writing

METRICS_NAME = "metrics.jsonl"


class StepWindow:
    """Sums over the steps since the last record."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=process.device)
        self.steps = 0
        self._reset()

    def _reset(self) -> None:
        self.loss_sum.zero_()
        self.steps = self._timed_steps = 0
        self._waited_s = self._worked_s = 0.0

    def add(self, loss: Tensor, waited_s: float, worked_s: float) -> None:
        """Count a step: its loss, its time in all, and the part that it waited for data."""
        self.loss_sum += loss
        self.steps += 1
        self._timed_steps += 1
        self._waited_s += waited_s
        self._worked_s += worked_s

    def close(self, batch_size: int) -> tuple[float, float, float]:
        """Return mean loss, pairs/s and share of time spent waiting for data, and start anew."""
        loss = float(self._process.mean(self.loss_sum)) / self.steps
        pairs_per_s = self._timed_steps * batch_size / self._worked_s
        wait_share = self._waited_s / self._worked_s
        self._reset()
        return loss, pairs_per_s, wait_share


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory held so far: of tensors on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30  # bytes there, KiB elsewhere


class MetricsLog:
    """Appends to OUT/metrics.jsonl and OUT/tensorboard; only the first process has one."""

    def __init__(self, out: Path, resume_step: int) -> None:
        """Drop what an interrupted run wrote after resume_step: no step is listed twice.

        Raises CrossviewError, as write does, where the folder cannot be written.
        """
        self._out, path = out, out / METRICS_NAME
        with writing(out):
            kept = [line for line in read_lines(path) if line["step"] <= resume_step]
            write_text_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resume_step + 1)
            self._stream = open(path, "a", buffering=1)  # noqa: SIM115

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Write a record of kind train or val, after this many steps."""
        with writing(self._out):
            self._stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            if kind == "val":
                self._board.flush()

    def show(self, step: int, pictures: dict[str, UInt8]) -> None:
        """Show (H, W, 3) pictures on TensorBoard, by name."""
        with writing(self._out):
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Flush and close both."""
        with writing(self._out):
            self._stream.close()
            self._board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, none where there is none; a cut last line is left."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the line that a killed run was writing
            break
    return lines
