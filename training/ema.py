"""A slowly moving average of the weights, which often validates better than the last ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.parallel import cut_like


class WeightAverage:
    """The exponential moving average of a model's parameters, cut as they are, and of its buffers.

    Of these, what is stored and of floats: the statistics of a norm belong to its weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        stored = model.state_dict()
        buffers = {
            name: buffer
            for name, buffer in model.named_buffers()
            if name in stored and buffer.is_floating_point()
        }
        # Apart, for FSDP cuts parameters alone, and both kinds cannot be in one list.
        self._latest: tuple[dict[str, Tensor], ...] = dict(model.named_parameters()), buffers
        self._decay = decay
        self.averages = {
            name: tensor.detach().clone()
            for tensors in self._latest
            for name, tensor in tensors.items()
        }
        """By the names of parameters and buffers."""

    def update(self, step: int) -> None:
        """Move towards the weights after a step, counted from 0.

        The decay rises to its value, (1 + step) / (10 + step) until then, so that the random
        weights of the beginning are soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for tensors in filter(None, self._latest):
            averages = [self.averages[name] for name in tensors]
            latest = [tensor.detach() for tensor in tensors.values()]
            torch._foreach_lerp_(averages, latest, 1 - decay)

    def load(self, averages: dict[str, Tensor]) -> None:
        """Take up the whole averages of a checkpoint; what is not averaged is left."""
        for name, mine in self.averages.items():
            mine.copy_(cut_like(averages[name], mine))
