"""One process or many: who started them, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed
from torch import Tensor

from generation.errors import CrossviewError
from generation.machine import num_cores
from training.device import allow_tf32


@dataclass(frozen=True)
class Process:
    """One of the processes that train a model together."""

    rank: int
    """Its number, from 0."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Where it computes."""
    restarts: int = 0
    """How often torchrun has started the processes again after one of them died."""

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

    def gather(self, values: Tensor) -> Tensor:
        """Return the (b,) values of all processes, one after the other."""
        if self.world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            torch.distributed.barrier()


def processes_that_read(given: int | None, *, on_gpu: bool) -> int:
    """Return how many processes are to read for each that trains: as many as given.

    None: beside a GPU 8, as far as there are cores for those of all GPUs, else 0, itself.
    """
    if given is not None or not on_gpu:
        return given or 0
    num_training = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(8, num_cores() // num_training))


@contextmanager
def join(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Process]:
    """Join the processes that torchrun or Ray started, or be the only one.

    From then on float32 is all of it on GPUs too, unless allow_tf32 says otherwise. Raises
    CrossviewError where CUDA is asked for and there is none, or a GPU for some process only.
    """
    allow_tf32(False)
    if torch.distributed.is_initialized():  # by Ray, which has chosen a device and also cleans up
        yield _member_of_a_group()
        return
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda" and not torch.cuda.is_available():
        raise CrossviewError("device = 'cuda': this machine has no CUDA device; expected auto, cpu")
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and local_world_size > torch.cuda.device_count():
        raise CrossviewError(
            f"{local_world_size} processes on a machine with {torch.cuda.device_count()} CUDA "
            "devices; start as many as there are devices, or give --set device=cpu"
        )
    chosen = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if world_size > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        # All are connected before one can fail: who waits for a connection hears no signal.
        torch.distributed.barrier(device_ids=[local_rank] if cuda else None)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    yield Process(rank, world_size, chosen, restarts)
    # Not after an error: others may be in a collective that would then have to end first.
    if world_size > 1:
        torch.distributed.destroy_process_group()


def _member_of_a_group() -> Process:
    cuda = "nccl" in torch.distributed.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Process(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
