"""One model on many processes: whole on each (DDP) or cut among them (FSDP2), and back again.

What leaves here, into a checkpoint or a validation, is always whole, so that a run may go on with
another number of processes and of the other kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from training.distributed import Process
from training.model.croco import CroCo


def trained_module(
    model: CroCo,
    process: Process,
    kind: Literal["ddp", "fsdp"],
    *,
    compiled: bool = False,
    recomputed: bool = False,
) -> nn.Module:
    """Return what a training step calls; FSDP cuts the model's own parameters.

    FSDP gathers float32 parameters, a block at a time, and autocast rounds them as in one process.
    recomputed: the backward pass computes each block's activations again instead of keeping them.
    """
    blocks = (*model.enc_blocks, *model.dec_blocks)
    cut = process.world_size > 1 and kind == "fsdp"
    for block in blocks:
        if compiled and cut:  # before checkpoint, which keeps the compiler from what it calls
            block.forward = torch.compile(block.forward)
        if recomputed:
            # Nothing in a block is random, so there is no generator's state to keep.
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
    if cut:
        mesh = init_device_mesh(process.device.type, (process.world_size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # Blocks hand the reference on as it is: a view, which nothing here changes in place.
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
        return model
    module: nn.Module = model
    if compiled:
        module = torch.compile(module)  # type: ignore[assignment]
    if process.world_size > 1:
        # No buffer ever changes. The option has a new name since torch 2.15.
        renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        option: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        module = DistributedDataParallel(module, **option)
    return module


def sharing_gradients(module: nn.Module, shared: bool) -> AbstractContextManager[None]:
    """Return a context for a forward and backward pass that shares its gradients, or waits."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(shared)
    elif isinstance(module, DistributedDataParallel) and not shared:
        return module.no_sync()
    return nullcontext()


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of all tensors together, over all processes."""
    return whole(nn.utils.get_total_norm(tensors))


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: Any, *, keep: bool) -> Any:
    """Return nested state with every tensor that was cut in one piece, on the CPU.

    All processes must ask for it; those that do not keep it get None in place of such tensors.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, dict):
        return {key: whole_state(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value, keep=keep) for value in state)
    return state


def cut_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's part of a whole tensor of a parameter's shape, on its device."""
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(
        tensor, parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the whole state of an optimizer, whose parameters may be cut."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        number: {
            name: cut_like(value, parameters[number]) if value.ndim else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})
