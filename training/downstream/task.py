"""What a downstream task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from generation.geometry import UInt8
from training.downstream.example import Example, Splits
from training.downstream.metrics import Scores
from training.downstream.recipe import Recipe
from training.model.croco import CroCo

Batch = dict[str, Tensor]
"""Training samples side by side, B first; images are (B, 3, H, W) in 0..1."""
Prediction = dict[str, NDArray[Any]]
"""Of one example, by the names of Example.truth, at its size and in its units."""
Answer = Callable[[Example], Prediction]
"""Says something of an example, at its size."""
Panels = list[tuple[str, UInt8]]
"""Titles and (H, W, 3) pictures: input, truth, prediction, error."""
Open = Callable[[Path], Splits]
"""Opens a dataset's folder. Raises CrossviewError saying what is missing, where to get it and how
the folder should look."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of a task's row in the table."""

    name: str
    unit: str = ""
    """'' for shares and ratios, else px, m, deg, ..."""
    higher_is_better: bool = False
    digits: int = 3
    """Behind the point, in tables."""


class Task(Protocol):
    """One task: how its network is made, trained, run and judged.

    What a network takes and gives is its task's affair alone.
    """

    @property
    def name(self) -> str:
        """As the command line calls it."""
        ...

    @property
    def summary(self) -> str:
        """Say what it is, in a line for the report."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """List what is measured; models are ranked and plotted by the first."""
        ...

    @property
    def datasets(self) -> Mapping[str, Open]:
        """List the layouts that it can be trained and judged on; 'shards' is our own."""
        ...

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Return 'published', and 'short' for a CPU."""
        ...

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return the pre-trained model with a new head; draws from torch's default generator.

        Raises CrossviewError where the model does not fit.
        """
        ...

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return a training sample of a resized example, without a batch axis: cropped, flipped."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        ...

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return what the network says of a whole, resized example."""
        ...

    def baseline(self, splits: Splits) -> Answer | None:
        """Return what says the same of every example, fitted to those to train on, or None."""
        ...

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return what an example adds to the metrics; unknown pixels never count."""
        ...

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the metrics by name; NaN, or none, where no example knows anything."""
        ...

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Return input, truth, prediction and error as pictures of one size."""
        ...
