"""Taskonomy's eight dense tasks, one run each.

Source: the protocol of MultiMAE (Bachmann et al., ECCV 2022), which CroCo follows, but for normals,
which theirs learns and judges by L1 too, for depth (theirs is clamped and scaled to 0..1) and for
edges (theirs of texture are clamped, of occlusion blurred).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from generation.geometry import Bool, Float32, UInt8
from training.downstream.baselines import constant_map
from training.downstream.colours import (
    UNKNOWN_COLOUR,
    error_panel,
    scalar_picture,
    span_of,
    spanning,
)
from training.downstream.datasets.taskonomy import TARGETS, open_taskonomy
from training.downstream.dense import (
    DenseNetwork,
    images_of,
    predicted,
    tensors_of,
)
from training.downstream.example import Example, Splits, at_most, one_view
from training.downstream.losses import l1_loss, normal_loss
from training.downstream.metrics import Scores, averaged, normal_scores, regression_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented
from training.model.croco import CroCo

NUM_TRAIN = 800
"""Training images, of the millions that there are."""
UNITS = {"depth_zbuffer": "m", "depth_euclidean": "m"}


class Taskonomy:
    """One target of every pixel of an image, by the encoder and a DPT head."""

    def __init__(self, target: str) -> None:
        """Take one of the dataset's TARGETS."""
        self.target = target
        self.name = f"taskonomy_{target}"
        self.summary = f"Taskonomy's {target} from one image, by the encoder and a DPT head."
        self.datasets: Mapping[str, Open] = {"taskonomy": partial(_open, target)}
        self.metrics = _NORMAL_METRICS if self._is_normal else _metrics(UNITS.get(target, ""))

    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=300, batch_size=16, lr=5e-4, head_width=64),
        "published": Recipe(
            resize=(384, 384),
            crop=(384, 384),
            epochs=100,
            batch_size=8,
            lr=3e-4,
            warmup=0.05,  # 5 of 100 epochs
            weight_decay=0.05,
            clip_norm=None,
            layer_decay=0.75,
            drop_path=0.1,
        ),
    }

    @property
    def _is_normal(self) -> bool:
        return self.target == "normal"

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder and head."""
        channels = TARGETS[self.target].num_channels
        return DenseNetwork(model, recipe, pair=False, channels=channels)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image, (3, H, W), and the target by its name, (H, W, C)."""
        return tensors_of(augmented(one_view(example), recipe, random), self.target)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean absolute error; of normals, the mean of 1 - cosine."""
        truth = batch[self.target].permute(0, 3, 1, 2)
        return (normal_loss if self._is_normal else l1_loss)(network(batch["image"]), truth)

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return the target by its name, (H, W, C)."""
        (image,) = images_of(one_view(example), network)
        output = predicted(network, [image], recipe, negated=(0,) if self._is_normal else ())
        return {self.target: output[0].permute(1, 2, 0).cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say that all pixels have one value."""
        return constant_map(splits, self.target)

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of one image."""
        score = normal_scores if self._is_normal else regression_scores
        return score(prediction[self.target], example.truth[self.target])

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the means over images."""
        return averaged(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show both in one range of colours, and the error."""
        truth, found = example.truth[self.target], prediction[self.target]
        titles = ["truth", "prediction"]
        if self._is_normal:
            low, high, unit = -1.0, 1.0, "deg"
            truth, found = _unit(truth), _unit(found)
            error = np.degrees(np.arccos(np.clip((found * truth).sum(-1), -1, 1)))
        else:
            low, high = span_of(truth)
            unit = UNITS.get(self.target, "")
            titles = [spanning(*each, unit) for each in zip(titles, (truth, found))]
            error = abs(found - truth).mean(-1)
        return [
            ("image", example.images[0]),
            (titles[0], _picture(truth, low, high)),
            (titles[1], _picture(found, low, high)),
            error_panel(error, unit),
        ]


def _metrics(unit: str) -> tuple[Metric, ...]:
    return (
        Metric(name="l1", unit=unit, digits=4),
        Metric(name="relative_l1"),
        Metric(name="rmse", unit=unit, digits=4),
    )


_NORMAL_METRICS = (
    Metric(name="mean_deg", unit="deg", digits=2),
    Metric(name="median_deg", unit="deg", digits=2),
    Metric(name="within_11.25deg", higher_is_better=True),
    Metric(name="within_22.5deg", higher_is_better=True),
    Metric(name="within_30deg", higher_is_better=True),
)


def _open(target: str, root: Path) -> Splits:
    """Open the dataset with one target, and NUM_TRAIN of its training images, evenly spread."""
    splits = open_taskonomy(root, target)
    return replace(splits, train=at_most(splits.train, NUM_TRAIN))


def _unit(vectors: Float32) -> Float32:
    """Return (H, W, 3) vectors at length 1, unknown where they have none."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.full_like(vectors, np.nan), where=length > 0)


def _picture(values: Float32, low: float, high: float) -> UInt8:
    """Return an (H, W, 3) picture of (H, W, C) values, up to three; unknown ones are dark grey."""
    if values.shape[-1] == 1:
        return scalar_picture(values[..., 0], low, high)
    known: Bool = np.asarray(np.isfinite(values).all(-1))
    share = (np.where(known[..., None], values, low) - low) / max(high - low, 1e-12)
    picture = np.zeros((*known.shape, 3), np.uint8)
    picture[..., : values.shape[-1]] = np.clip(share, 0, 1) * 255
    picture[~known] = UNKNOWN_COLOUR
    return picture
