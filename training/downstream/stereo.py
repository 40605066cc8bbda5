"""Stereo.

Source: Weinzaepfel et al., CroCo v2, ICCV 2023, section 4, and its published training commands.
Theirs is one training on many datasets together, with more augmentation; here it is on one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from generation.errors import CrossviewError
from training.downstream.baselines import constant_map
from training.downstream.colours import error_panel, in_one_range, span_of
from training.downstream.datasets.eth3d import open_eth3d
from training.downstream.datasets.kitti import open_kitti
from training.downstream.datasets.middlebury import open_middlebury
from training.downstream.datasets.scene_flow import open_scene_flow
from training.downstream.datasets.sintel import open_sintel_stereo
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
from training.downstream.metrics import Scores, disparity_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented, seen_only, size_of
from training.model.croco import CroCo


class Stereo:
    """How much further left each pixel of the left image lies in the right one."""

    name = "stereo"
    summary = "Disparity of every pixel of the left image of a rectified pair, in pixels."
    metrics = (
        Metric(name="bad1"),
        Metric(name="bad2"),
        Metric(name="d1"),
        Metric(name="epe_px", unit="px", digits=2),
        Metric(name="bad1_seen"),
        Metric(name="bad2_seen"),
        Metric(name="d1_seen"),
        Metric(name="epe_seen_px", unit="px", digits=2),
    )
    datasets: Mapping[str, Open] = {
        "kitti": partial(open_kitti, task="stereo"),
        "eth3d": open_eth3d,
        "middlebury": open_middlebury,
        "scene_flow_clean": partial(open_scene_flow, render_pass="clean"),
        "scene_flow_final": partial(open_scene_flow, render_pass="final"),
        "sintel_stereo_clean": partial(open_sintel_stereo, render_pass="clean"),
        "sintel_stereo_final": partial(open_sintel_stereo, render_pass="final"),
    }
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=600, batch_size=16, lr=5e-4, head_width=64, seen_only=True),
        "published": Recipe(
            crop=(352, 704),
            epochs=32,
            batch_size=6,
            lr=3e-5,
            warmup=1 / 32,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            clip_norm=None,
            jitter=0.4,  # ours: theirs is of each factor by itself, and of hue and gamma too
            tile_overlap=0.9,
            precision="float32",
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder, decoder and head: a channel of disparity, one of its log scale.

        Raises CrossviewError for a recipe that mirrors: a stereo pair has no mirror image.
        """
        if recipe.flip or recipe.flip_test:
            raise CrossviewError(
                f"stereo: flip = {recipe.flip}, flip_test = {recipe.flip_test}: expected false; in "
                "a mirror left and right change places"
            )
        return DenseNetwork(model, recipe, pair=True, channels=2)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image and image2, (3, H, W), and disparity, (H, W)."""
        example = augmented(example, recipe, random)
        if recipe.seen_only:
            example = seen_only(example, "disparity")
        return tensors_of(example, "disparity")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the bounded Laplacian loss."""
        output = network(batch["image"], batch["image2"])
        return laplacian_loss(output[:, :1], output[:, 1], batch["disparity"].unsqueeze(1))

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return disparity, (H, W)."""
        images = images_of(example, network)
        output = predicted(network, images, recipe, in_pixels=(0,), scale_channel=1)
        return {"disparity": output[0, 0].cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say that everything has one disparity."""
        return constant_map(splits, "disparity")

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of all pixels, and of those not known to be occluded.

        Errors count in pixels of the dataset's full size, where the example says how wide that is.
        """
        width = size_of(example)[1]
        scale = float(example.truth.get("full_width_px", width)) / width
        score = partial(disparity_scores, scale=scale)
        return scores_of_pixels(score, prediction["disparity"], example, "disparity")

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the means over all pixels of all images."""
        return means_over_pixels(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show disparity in one range of colours, and the error in pixels."""
        truth, found = example.truth["disparity"], prediction["disparity"]
        return [
            ("left", example.images[0]),
            ("right", example.images[1]),
            *in_one_range(truth, found, span_of(truth), "px"),
            error_panel(abs(found - truth), "px"),
        ]
