"""The losses that a run wrote down."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.metrics_log import read_lines


def losses(out: Path, kind: str = "train") -> dict[int, float]:
    """Return those of its lines, by their steps; kind: train or val."""
    name = "loss" if kind == "train" else "val_loss"
    return {r["step"]: r[name] for r in read_lines(out / "metrics.jsonl") if r["kind"] == kind}


def curve(out: Path) -> dict[int, float]:
    """Return those on TensorBoard, by their steps."""
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}
