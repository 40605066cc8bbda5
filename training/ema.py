"""A slowly moving average of the weights, which often validates better than the last ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.parallel import cut_like


class WeightAverage:
    """The exponential moving average of a model's parameters, cut as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._decay = decay
        self.averages = {name: p.detach().clone() for name, p in self._parameters.items()}
        """By the parameters' names."""

    def update(self, step: int) -> None:
        """Move towards the weights after a step, counted from 0.

        The decay rises to its value, (1 + step) / (10 + step) until then, so that the random
        weights of the beginning are soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        latest = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), latest, 1 - decay)

    def load(self, averages: dict[str, Tensor]) -> None:
        """Take up the whole averages of a checkpoint; what is no parameter is left."""
        for name, mine in self.averages.items():
            mine.copy_(cut_like(averages[name], mine))
