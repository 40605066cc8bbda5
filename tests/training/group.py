"""Several processes that train micro runs together, one run after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from micro import micro_config
from torch import nn
from torch.distributed.tensor import DTensor

from generation.errors import CrossviewError
from generation.plain import merge
from training import checkpoint, start, trainer
from training.trainer import _Run, pretrain


@dataclass(frozen=True)
class Job:
    """A run to train."""

    out: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    stop_after: int | None = None
    """The step after which the last process is asked to stop."""
    poison: int | None = None
    """The step at which the first pair of the last process has an infinite loss."""
    divided: bool = False
    """Whether the last process sees no newest checkpoint."""
    apart: bool = False
    """Whether the last process has a folder of its own, on a disk of its own."""
    of_last: dict[str, Any] = field(default_factory=dict)
    """Settings that only the last process has."""


def train_together(data: Path, num_processes: int, jobs: list[Job], folder: Path) -> None:
    """Train all jobs in new processes; an error's text goes to OUT/error-RANK.txt."""
    torch.multiprocessing.spawn(_member, (data, num_processes, jobs, folder), num_processes)


def _member(rank: int, data: Path, num_processes: int, jobs: list[Job], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_processes
    )
    for job in jobs:
        last = rank == num_processes - 1
        start.VISIBLE_SECONDS = 1.0 if job.apart else 60.0
        if job.apart and last:
            job = replace(job, out=job.out.with_name(f"{job.out.name}, elsewhere"))
        try:
            newest = checkpoint.stored(job.out)[0] if job.divided and last else None
            with unseen(newest), share_noted(share_file(job.out, rank)):
                train(data, job, disturbed=last)
        except CrossviewError as error:
            job.out.mkdir(parents=True, exist_ok=True)
            (job.out / f"error-{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()
    # DTensor's caches hold FSDP's meshes, and so gloo's threads, which would run on while the
    # interpreter is taken down: once in hundreds of times that aborted.
    os._exit(0)


def train(data: Path, job: Job, *, disturbed: bool = True) -> None:
    """Train a job in this process."""
    stop = stopping_after(job.stop_after if disturbed else None)
    with poisoned_at(job.poison if disturbed else None):
        settings = merge(job.overrides, job.of_last) if disturbed else job.overrides
        pretrain(micro_config(data, **settings), job.out, stop)


@contextmanager
def unseen(path: Path | None) -> Iterator[None]:
    """Have this process not see a checkpoint, as on a machine with another folder."""
    stored = checkpoint.stored
    checkpoint.stored = lambda out: [each for each in stored(out) if each != path]
    try:
        yield
    finally:
        checkpoint.stored = stored


def share_file(out: Path, rank: int) -> Path:
    """Return where it is noted which share of the model's numbers a process holds."""
    return out.with_name(f"{out.name}, share of {rank}")


@contextmanager
def share_noted(path: Path) -> Iterator[None]:
    made = trainer.trained_module

    def noted(*given: Any, **options: Any) -> nn.Module:
        module = made(*given, **options)
        parameters = list(module.parameters())
        local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
        path.write_text(str(sum(p.numel() for p in local) / sum(p.numel() for p in parameters)))
        return module

    trainer.trained_module = noted
    try:
        yield
    finally:
        trainer.trained_module = made


def stopping_after(step: int | None) -> Callable[[], bool]:
    """Return what is asked once a step, and says yes from one step on."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return step is not None and asked >= step

    return stop


@contextmanager
def poisoned_at(step: int | None) -> Iterator[None]:
    """Make the loss of a process's first pair infinite at a step."""
    losses = _Run._losses

    def poisoned(self, *given):
        each = losses(self, *given)
        poison = torch.ones_like(each)
        poison[0] = torch.inf if self.step + 1 == step else 1
        return each * poison

    _Run._losses = poisoned  # type: ignore[method-assign]
    try:
        yield
    finally:
        _Run._losses = losses  # type: ignore[method-assign]
