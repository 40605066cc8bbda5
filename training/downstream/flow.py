"""Optical flow.

Source: Weinzaepfel et al., CroCo v2, ICCV 2023, section 4: DPT on encoder and decoder, a Laplacian
loss with bounded scale, tiles blended by confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from training.downstream.baselines import constant_map
from training.downstream.colours import error_panel, flow_key, flow_picture, span_of
from training.downstream.datasets.flying_chairs import open_flying_chairs
from training.downstream.datasets.kitti import open_kitti
from training.downstream.datasets.shards import open_shards
from training.downstream.datasets.sintel import open_sintel
from training.downstream.dense import (
    DenseNetwork,
    images_of,
    means_over_pixels,
    predicted,
    scores_of_pixels,
    tensors_of,
)
from training.downstream.example import Example, Splits
from training.downstream.losses import laplacian_loss
from training.downstream.metrics import Scores, endpoint_errors, flow_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented, seen_only
from training.model.croco import CroCo


class Flow:
    """Where each pixel of the first image is in the second."""

    name = "flow"
    summary = "Motion of every pixel from the first image to the second, in pixels."
    metrics = (
        Metric(name="epe_seen_px", unit="px", digits=2),
        Metric(name="epe_px", unit="px", digits=2),
        Metric(name="fl_all"),
        Metric(name="within_1px", higher_is_better=True),
    )
    datasets: Mapping[str, Open] = {
        "shards": open_shards,
        "flying_chairs": open_flying_chairs,
        "sintel_clean": partial(open_sintel, render_pass="clean"),
        "sintel_final": partial(open_sintel, render_pass="final"),
        "kitti": partial(open_kitti, task="flow"),
    }
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=400, batch_size=16, lr=5e-4, head_width=64, seen_only=True),
        "published": Recipe(
            crop=(320, 384),
            epochs=240,  # of 30,000 pairs there: fewer steps on a smaller dataset
            batch_size=8,
            lr=2e-5,
            warmup=1 / 240,
            betas=(0.9, 0.95),
            clip_norm=None,
            jitter=0.4,
            flip=True,
            tile_overlap=0.9,
            precision="float32",
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder, decoder and head: two channels of flow, one of its log scale."""
        return DenseNetwork(model, recipe, pair=True, channels=3)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image and image2, (3, H, W), and flow, (H, W, 2)."""
        example = augmented(example, recipe, random)
        return tensors_of(seen_only(example, "flow") if recipe.seen_only else example, "flow")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the bounded Laplacian loss."""
        output = network(batch["image"], batch["image2"])
        truth = batch["flow"].permute(0, 3, 1, 2)
        return laplacian_loss(output[:, :2], output[:, 2], truth)

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return flow, (H, W, 2)."""
        images = images_of(example, network)
        output = predicted(network, images, recipe, negated=(0,), in_pixels=(0, 1), scale_channel=2)
        return {"flow": output[0, :2].permute(1, 2, 0).cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say that everything moves alike: in general, not at all."""
        return constant_map(splits, "flow")

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of all pixels, and of those not known to be occluded."""
        return scores_of_pixels(flow_scores, prediction["flow"], example, "flow")

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the means over all pixels of all images."""
        return means_over_pixels(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show flow by hue and saturation, what these mean, and the error in pixels."""
        truth, found = example.truth["flow"], prediction["flow"]
        longest = span_of(np.linalg.norm(truth, axis=-1))[1]
        size = truth.shape[0], truth.shape[1]
        return [
            ("first", example.images[0]),
            ("second", example.images[1]),
            (f"motions to {longest:.3g} px", flow_key(size, longest)),
            ("truth", flow_picture(truth, longest)),
            ("prediction", flow_picture(found, longest)),
            error_panel(endpoint_errors(found, truth), "px"),
        ]
