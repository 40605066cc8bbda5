"""Networks that say something about every pixel, of one image or of two.

Shapes: B batch, C channels, H, W the images' size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from generation.geometry import UInt8
from training.augment import to_unit_range
from training.downstream.dpt import DPT, upsampled
from training.downstream.example import Example
from training.downstream.features import (
    EncoderFeatures,
    PairFeatures,
    device_of,
    encoder_features,
    layers,
    pair_features,
)
from training.downstream.heads import PatchHead
from training.downstream.inference import Predict, flipped, tiled
from training.downstream.losses import bounded_log_scale
from training.downstream.metrics import Scores, averaged
from training.downstream.recipe import Recipe
from training.downstream.task import Batch
from training.downstream.transforms import enlarged_size, seen_twice
from training.model.croco import CroCo


class DenseNetwork(nn.Module):
    """Pre-trained blocks under a DPT or a linear head."""

    def __init__(self, model: CroCo, recipe: Recipe, *, pair: bool, channels: int) -> None:
        """Take four blocks of the encoder or, of a pair, its last and three of the decoder."""
        super().__init__()
        self.features: EncoderFeatures | PairFeatures = (
            pair_features(model, recipe)
            if pair
            else encoder_features(model, recipe, layers(model.config.enc_depth, 4))
        )
        dims, patch_size = self.features.dims, self.features.patch_size
        self.head: DPT | PatchHead = (
            PatchHead(dims[-1], channels, patch_size)
            if recipe.head == "linear"
            else DPT(dims, channels, patch_size, width=recipe.head_width)
        )

    def forward(self, *images: Tensor) -> Tensor:
        """Map one or two (B, 3, H, W) images in 0..1 to (B, channels, H, W)."""
        height, width = images[0].shape[-2:]
        return self.head(self.features(*images), (height, width))  # type: ignore[no-any-return]


CERTAINTY = 5.0
"""A tile counts by this power of 1 / scale of its error, so that those that do not see where a
pixel went are silent. Source: CroCo v2's evaluation of stereo; its flow has other scales."""


def tensors_of(example: Example, *names: str) -> Batch:
    """Return an example's views as image and image2, (3, H, W) in 0..1, and truths as they are."""
    views = dict(zip(("image", "image2"), map(_unit_range, example.images)))
    return views | {name: torch.from_numpy(example.truth[name].copy()) for name in names}


def _unit_range(image: UInt8) -> Tensor:
    return to_unit_range(torch.from_numpy(image.copy()).unsqueeze(0), torch.device("cpu"))[0]


def images_of(example: Example, network: nn.Module) -> list[Tensor]:
    """Return an example's views, (1, 3, H, W) in 0..1, where a network's weights are."""
    device = device_of(network)
    return [
        to_unit_range(torch.from_numpy(image.copy()).unsqueeze(0), device)
        for image in example.images
    ]


def predicted(
    network: Callable[..., Tensor],
    images: Sequence[Tensor],
    recipe: Recipe,
    *,
    negated: Sequence[int] = (),
    in_pixels: Sequence[int] = (),
    scale_channel: int | None = None,
) -> Tensor:
    """Return (1, C, H, W) float32 of whole images, by tiles of the recipe's crop.

    Images smaller than that are enlarged, as they are to train on, and what is said of them is
    brought back to their pixels. negated: channels that change sign in a mirror, for a recipe that
    predicts mirrored images too. in_pixels: the channels that count pixels along x and, if any, y.
    scale_channel: the one of the bounded scale of an error: the less it is, the more a tile counts;
    of pixels as they are predicted, for only tiles of one image are compared.
    """
    height, width = images[0].shape[-2:]
    size = enlarged_size((height, width), recipe.crop_size)

    def predict(*tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = network(*tiles).float()
        if scale_channel is None:
            return output
        log_scale = bounded_log_scale(output[:, scale_channel].unsqueeze(1))
        return output, torch.exp(-CERTAINTY * log_scale)

    whole = partial(_tiled, predict, recipe.crop_size, recipe.tile_overlap)
    answer = flipped(whole, negated) if recipe.flip_test else whole
    output = answer(*(upsampled(image, size) for image in images))
    output = upsampled(output, (height, width))
    for channel, factor in zip(in_pixels, (width / size[1], height / size[0])):
        output[:, channel] *= factor
    return output


def _tiled(predict: Predict, tile: tuple[int, int], overlap: float, *images: Tensor) -> Tensor:
    return tiled(predict, images, tile, overlap)


def scores_of_pixels(
    score: Callable[..., Scores], found: np.ndarray, example: Example, name: str
) -> Scores:
    """Score a map of two views at all pixels, and at those not known to be occluded, as ..._seen.

    score takes what is found, what is true and the mask of the pixels that count. pixels and
    pixels_seen are how many those are.
    """
    truth, seen = example.truth[name], seen_twice(example)
    known = np.isfinite(truth).reshape(*seen.shape, -1).all(-1)
    return {
        **score(found, truth),
        "pixels": np.array(known.sum(), float),
        **{_of_seen(metric): value for metric, value in score(found, truth, seen).items()},
        "pixels_seen": np.array((known & seen).sum(), float),
    }


def _of_seen(metric: str) -> str:
    """Return epe_seen_px for epe_px, bad1_seen for bad1: units come last."""
    name, px, _ = metric.partition("_px")
    return f"{name}_seen{px}"


def means_over_pixels(scores: Sequence[Scores]) -> dict[str, float]:
    """Return the means over all pixels of all examples, scored by scores_of_pixels."""
    everywhere, seen = averaged(scores, "pixels"), averaged(scores, "pixels_seen")
    return {
        name: (seen if "_seen" in name else everywhere)[name]
        for name in everywhere
        if not name.startswith("pixels")
    }
