"""Metrics of a run: JSON lines first, TensorBoard beside them."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import image, scalar

from generation.files import write_text_whole
from generation.geometry import UInt8
from training.distributed import Process
from training.run_folder import writing

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
BOARD_NAME = "tensorboard"


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


class GrowingFile:
    """A file that grows at its end; what there is no room for waits, and is written later.

    So a disk that was full for a while leaves no gap in it, and nothing cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def write(self, data: bytes) -> None:
        """Leave data to the next flush."""
        self._waiting += data

    def flush(self) -> None:
        """Write what waits. Raises OSError; then what was not written goes on waiting."""
        if not self._waiting:
            return
        with open(self.path, "ab", buffering=0) as stream:
            while self._waiting:
                self._waiting = self._waiting[stream.write(self._waiting) :]


class MetricsLog:
    """Appends to OUT/metrics.jsonl and OUT/tensorboard; only the first process has one.

    What cannot be written is warned of, once, and written when it can be: no run ends for it.
    """

    def __init__(self, out: Path, resume_step: int) -> None:
        """Drop what an interrupted run wrote after resume_step: no step is listed twice.

        Raises CrossviewError where the folder cannot be written.
        """
        self._records = GrowingFile(out / METRICS_NAME)
        # Not torch's SummaryWriter, whose thread ends at the first error.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._board = GrowingFile(out / BOARD_NAME / name)
        self._outage = False
        with writing(out):
            kept = [line for line in read_lines(out / METRICS_NAME) if line["step"] <= resume_step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_text_whole(out / METRICS_NAME, text)
            self._board.path.parent.mkdir(exist_ok=True)
            first = resume_step + 1
            self._add_event(step=first, file_version="brain.Event:2")
            self._add_event(step=first, session_log=SessionLog(status=SessionLog.START))
            self._board.flush()

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Write a record of kind train or val, after this many steps."""
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        self._records.write(line.encode())
        for name, value in values.items():
            self._add_event(step=step, summary=scalar(f"{kind}/{name}", value))
        self._flush()

    def show(self, step: int, pictures: dict[str, UInt8]) -> None:
        """Show (H, W, 3) pictures on TensorBoard, by name."""
        for name, picture in pictures.items():
            self._add_event(step=step, summary=image(name, picture, dataformats="HWC"))
        self._flush()

    def close(self) -> None:
        """Try once more to write what could not be written."""
        self._flush()

    def _add_event(self, **fields: Any) -> None:
        event = Event(wall_time=time.time(), **fields)
        RecordWriter(self._board).write(event.SerializeToString())

    def _flush(self) -> None:
        try:
            self._records.flush()
            self._board.flush()
        except OSError as error:
            if not self._outage:
                logger.warning(
                    "%s: no metrics can be written here: %s; the run goes on, and writes them "
                    "when they can be",
                    self._records.path.parent,
                    error.strerror,
                )
            self._outage = True
        else:
            if self._outage:
                logger.info("%s: metrics are written, none is missing", self._records.path.parent)
            self._outage = False


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, none where there is none.

    A line that is cut is left out: the last one of a killed run, or one on a disk that was full.
    """
    lines: list[Any] = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]
