"""A device that need not be there, whose tensors have numbers: the CPU computes them.

As a GPU, it refuses tensors of the host and gives NumPy none of its own. PyTorch has no kernels
for the device that it calls meta, and so its name is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from training.augment import _channel_statistics
from training.model.croco import _tables_on
from training.verdicts import LAG

_DEVICE = torch.device("meta")


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Yield the device. Its tensors are of use within this context alone."""
    autocast = torch.autocast
    fused_on = ["cpu", _DEVICE.type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAG, _DEVICE.type, LAG["cuda"])
        patch.setattr(torch, "autocast", lambda _, *args, **rest: autocast("cpu", *args, **rest))
        patch.setattr(torch, "inference_mode", torch.no_grad)  # hides what an operation is made of
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: fused_on)
        _forget_constants()
        with _Operations(), _Numbers():
            yield _DEVICE
        _forget_constants()


def _forget_constants() -> None:
    _channel_statistics.cache_clear()
    _tables_on.cache_clear()


class _Away(Tensor):
    """A tensor of the device, and the one of the host that has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _Away:
        away = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=_DEVICE,
        )
        away.here = here
        return cast(_Away, away)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Moves numbers between Python and the device by way of the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor and args[0].device == _DEVICE:
            dtype = kwargs.get("dtype", args[0].dtype)
            return torch.tensor(*args[1:], dtype=dtype).to(_DEVICE)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == _DEVICE:
            return func(*args, **kwargs | {"device": "cpu"}).to(_DEVICE)
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(tensor, _Away) for tensor in tensors)
    if name == "aten::copy_":  # between devices, as the next
        away = isinstance(args[0], _Away)
    elif away and name != "aten::_to_copy":
        _require_one_device(name, args, tensors)
    if kwargs.get("device") is not None:
        away = kwargs["device"] == _DEVICE
        kwargs = kwargs | {"device": "cpu"}
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if not away or name == "aten::_local_scalar_dense":
        return out
    out = tree_map(lambda leaf: _Away(leaf) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _require_one_device(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Refuse tensors of the host, but for single numbers and for indices."""
    if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        tensors = [args[0], *args[2:3]]
    for tensor in tensors:
        if tensor.dim() and not isinstance(tensor, _Away):
            raise RuntimeError(f"{name}: a tensor of the host, of shape {tuple(tensor.shape)}")


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, _Away) else leaf
