"""Monocular depth.

Source: the protocol of MultiMAE (Bachmann et al., ECCV 2022) on NYUv2, which CroCo follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from training.downstream.baselines import constant_map
from training.downstream.colours import error_panel, in_one_range, span_of
from training.downstream.datasets.nyuv2 import open_nyuv2
from training.downstream.datasets.shards import open_shards
from training.downstream.dense import (
    DenseNetwork,
    images_of,
    predicted,
    tensors_of,
)
from training.downstream.example import Example, Splits, one_view
from training.downstream.losses import berhu_loss
from training.downstream.metrics import Scores, averaged, depth_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented
from training.model.croco import CroCo


class Depth:
    """Depth along the optical axis from one image, by the encoder and a DPT head.

    Learnt in metres, through a softplus; MultiMAE's is standardised and linear.
    """

    name = "depth"
    summary = "Depth in metres from one image, by the encoder and a DPT head."
    metrics = (
        Metric(name="delta1", higher_is_better=True),
        Metric(name="delta2", higher_is_better=True),
        Metric(name="delta3", higher_is_better=True),
        Metric(name="rel"),
        Metric(name="rmse_m", unit="m"),
    )
    datasets: Mapping[str, Open] = {"shards": open_shards, "nyuv2": open_nyuv2}
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=250, batch_size=16, lr=5e-4, head_width=64, flip=True),
        "published": Recipe(
            resize=(256, 256),  # ours: judged on all of an image, by tiles; theirs on its middle
            crop=(256, 256),
            epochs=2000,
            batch_size=128,  # 64 on each of 2 GPUs
            lr=1e-4,
            weight_decay=1e-4,
            warmup=0.05,  # 100 of 2000 epochs
            layer_decay=0.75,
            clip_norm=None,
            precision="float32",
            flip=True,
            jitter=0.4,  # ours: MultiMAE's changes hue too, and every other time
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder and head."""
        return DenseNetwork(model, recipe, pair=False, channels=1)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image, (3, H, W), and depth_m, (H, W)."""
        return tensors_of(augmented(one_view(example), recipe, random), "depth_m")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the reverse Huber loss of the depth in metres."""
        return berhu_loss(_depth_m(network(batch["image"])), batch["depth_m"])

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return depth_m, (H, W)."""
        (image,) = images_of(one_view(example), network)
        output = predicted(network, [image], recipe)
        return {"depth_m": _depth_m(output)[0].cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say that everything is as far as half of the pixels are."""
        return constant_map(splits, "depth_m")

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of one image."""
        return depth_scores(prediction["depth_m"], example.truth["depth_m"])

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the means over images, as is customary on NYUv2."""
        return averaged(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show depth in one range of colours, from 0, and the relative error."""
        truth, found = example.truth["depth_m"], prediction["depth_m"]
        return [
            ("image", example.images[0]),
            *in_one_range(truth, found, (0.0, span_of(truth)[1]), "m"),
            error_panel(abs(found - truth) / truth, what="relative error"),
        ]


def _depth_m(output: Tensor) -> Tensor:
    """Return positive (B, H, W) depth, in metres, of a head's (B, 1, H, W) output."""
    return F.softplus(output[:, 0].float()) + 1e-3
