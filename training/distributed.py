"""One process or many: torchrun's environment, and what the processes say to each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed
from torch import Tensor

from generation.errors import CrossviewError


@dataclass(frozen=True)
class Process:
    """One of the processes that train a model together."""

    rank: int
    """Its number, from 0."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Where it computes."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values over all processes."""
        return self.sum(values) / self.world_size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of values over all processes."""
        total = values.clone()
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            torch.distributed.barrier()


@contextmanager
def join(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Process]:
    """Join the processes that torchrun started, or be the only one.

    Raises CrossviewError where CUDA is asked for and there is none.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and not torch.cuda.is_available():
        raise CrossviewError("device = 'cuda': this machine has no CUDA device; expected auto, cpu")
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and local_rank >= torch.cuda.device_count():
        raise CrossviewError(
            f"{local_rank + 1} or more processes on a machine with {torch.cuda.device_count()} "
            "CUDA devices; start torchrun with a lower --nproc-per-node"
        )
    chosen = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if world_size > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Process(rank, world_size, chosen)
    finally:
        if world_size > 1:
            torch.distributed.destroy_process_group()


def resolved_precision(
    precision: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> Literal["float32", "bfloat16"]:
    """Return what auto means on this device."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply bfloat16; else it is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None
