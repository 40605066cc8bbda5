"""What comes from the host, where a GPU computes: it would be waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Yield a GPU that need not be there: tensors have shapes, and no numbers."""
    with FakeTensorMode():
        yield torch.device("cuda")


class FromHost(TorchDispatchMode):
    """Lists the operations that make or take tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        if any(leaf.device.type == "cpu" for leaf in leaves if isinstance(leaf, Tensor)):
            self.found.append(str(func))
        return out
