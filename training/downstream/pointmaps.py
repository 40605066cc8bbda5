"""Points of both views in the first camera's frame, and descriptors to match their pixels by.

Source: Wang et al., DUSt3R, CVPR 2024 (points, confidence, loss, pose by PnP); Leroy et al.,
MASt3R, ECCV 2024 (metric loss, descriptors). Theirs have a decoder for each view; here both views
share the pre-trained one, and have heads of their own.
Shapes: B batch, D = DESCRIPTOR_CHANNELS, H, W pixels, K pixels that both views show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generation.geometry import Float32, Float64
from training.downstream.colours import error_panel, in_one_range, span_of
from training.downstream.datasets.shards import open_shards
from training.downstream.dense import images_of, tensors_of
from training.downstream.dpt import DPT
from training.downstream.example import Example, Splits
from training.downstream.features import pair_features
from training.downstream.heads import points_and_confidence
from training.downstream.losses import matching_loss, pointmap_loss
from training.downstream.metrics import (
    Scores,
    averaged,
    depth_scores,
    matching_scores,
    median_scaled_points,
    mutual_matches,
    pointmap_scores,
    pose_scores,
)
from training.downstream.pose import POSE_METRICS, pose_summary_of, refuse_mirrored_tests
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import altered, middle
from training.downstream.two_views import (
    dotted,
    pixel_middles,
    place_colours,
    pose_of_points,
    true_pairs,
    true_pixels,
    true_points,
)
from training.model.croco import CroCo

DESCRIPTOR_CHANNELS = 24
"""As published."""
NUM_PAIRS = 512
"""Pixels of a training sample, at most, whose descriptors are to find each other."""
MATCHING_WEIGHT = 0.3
"""Of the matching loss, beside that of the points."""
MATCHED_ACROSS = 16
"""So many points along the first view's longer side are sought among all pixels of the second."""


class Pointmaps:
    """What both images show in metres, in the first camera's frame: depth, pose and matches."""

    name = "pointmaps"
    summary = (
        "Points of both images in the first camera's frame, in metres, and descriptors: depth, "
        "pose by PnP, and matches come out of them."
    )
    metrics = (
        Metric(name="within_5_percent", higher_is_better=True),
        Metric(name="distance_m", unit="m"),
        Metric(name="scaled_within_5_percent", higher_is_better=True),
        Metric(name="scaled_distance_m", unit="m"),
        Metric(name="depth_delta1", higher_is_better=True),
        Metric(name="depth_rel"),
        *POSE_METRICS,
        Metric(name="match_precision", higher_is_better=True),
        Metric(name="match_recall", higher_is_better=True),
    )
    datasets: Mapping[str, Open] = {"shards": open_shards}
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=600, batch_size=16, lr=5e-4, head_width=64),
        "published": Recipe(
            epochs=100,
            batch_size=128,
            lr=1e-4,
            min_lr=1e-6,
            warmup=0.1,
            betas=(0.9, 0.95),
            jitter=0.4,
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder, decoder, heads. Raises CrossviewError: flip_test, head = 'linear'."""
        recipe.refuse_linear(self.name)
        refuse_mirrored_tests(self.name, recipe)
        return PointmapNetwork(model, recipe)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image and image2, (3, H, W), what is true of them, and the numbers of pixels.

        points: (2, H, W, 3). pairs: (K, 2) pixels of the first and second image, row by row, that
        show the same point, as far as paired, (K,), says so. Of the middle of both images, as in
        prediction.
        """
        example = altered(middle(example, recipe.crop_size), recipe, random)
        known = true_pairs(example, NUM_PAIRS, random)
        pairs = np.zeros((NUM_PAIRS, 2), np.int64)
        pairs[: len(known)] = known
        return {
            **tensors_of(example),
            "points": torch.from_numpy(true_points(example)),
            "pairs": torch.from_numpy(pairs),
            "paired": torch.arange(NUM_PAIRS) < len(known),
        }

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of points with confidence plus the weighted one of descriptors."""
        maps: Tensor = network(batch["image"], batch["image2"])
        points, _ = points_and_confidence(maps[:, :, :4].flatten(0, 1))
        points = points.unflatten(0, maps.shape[:2]).permute(0, 1, 3, 4, 2)
        of_points = pointmap_loss(points, maps[:, :, 3], batch["points"])
        first, second = (
            _at_pixels(maps[:, view, 4:], batch["pairs"][..., view]) for view in (0, 1)
        )
        return of_points + MATCHING_WEIGHT * matching_loss(first, second, batch["paired"])

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return what prediction_of does, of the middle of both images."""
        view = middle(example, recipe.crop_size)
        maps: Tensor = network(*images_of(view, network))[0]
        points, confidence = points_and_confidence(maps[:, :4])
        descriptors = F.normalize(maps[:, 4:].float(), dim=1)
        return prediction_of(
            points.permute(0, 2, 3, 1).cpu().numpy(),
            confidence.cpu().numpy(),
            descriptors.permute(0, 2, 3, 1).cpu().numpy(),
            view.truth["intrinsics2"],
        )

    def baseline(self, splits: Splits) -> Answer | None:
        """Return None: points, descriptors and matches have no middle."""
        return None

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of both views' points, depth, pose and matches of a pair."""
        view = _view_of(example, prediction)
        points, truth = prediction["points"], true_points(view)
        scaled = pointmap_scores(median_scaled_points(points, truth), truth)
        depth = depth_scores(prediction["depth_m"], view.truth["depth_m"])
        motion = "camera2_from_camera1"
        pixels = _in_a_row(pixel_middles(truth.shape[1:3]))
        return {
            **pointmap_scores(points, truth),
            **{f"scaled_{name}": value for name, value in scaled.items()},
            **{f"depth_{name}": value for name, value in depth.items()},
            **pose_scores(prediction[motion], view.truth[motion]),
            **matching_scores(prediction["matches"], pixels, _on_grid(true_pixels(view))),
        }

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the means over pairs, and of the pose the medians."""
        return averaged(scores) | pose_summary_of(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show both views' points by their depth for the first camera, and the matches.

        Errors are shares of the true distance to the first camera. Matches have one colour in both
        views.
        """
        view = _view_of(example, prediction)
        points, truth = prediction["points"], true_points(view)
        span = span_of(truth[..., 2])
        panels: Panels = list(zip(("first", "second"), view.images))
        for name, found, true in zip(("first", "second"), points, truth):
            error = np.linalg.norm(found - true, axis=-1) / np.linalg.norm(true, axis=-1)
            panels += [
                *in_one_range(true[..., 2], found[..., 2], span, "m", of=f", {name}"),
                error_panel(error, what=f"relative error, {name},"),
            ]
        size = truth.shape[1], truth.shape[2]
        pixels = pixel_middles(size)
        first, second = prediction["matches"].T
        first, second = _on_grid(pixels)[first], _in_a_row(pixels)[second]
        colours = place_colours(first, size)
        return [
            *panels,
            ("matches, first", dotted(view.images[0], first, colours)),
            ("matches, second", dotted(view.images[1], second, colours)),
        ]


class PointmapNetwork(nn.Module):
    """Pre-trained blocks under a DPT head for each view."""

    def __init__(self, model: CroCo, recipe: Recipe) -> None:
        super().__init__()
        self.features = pair_features(model, recipe)
        self.heads = nn.ModuleList(
            DPT(
                self.features.dims,
                4 + DESCRIPTOR_CHANNELS,
                self.features.patch_size,
                width=recipe.head_width,
            )
            for _ in range(2)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map two (B, 3, H, W) images in 0..1 to (B, 2, 4 + D, H, W).

        The channels of a view are those of points_and_confidence, then those of the descriptor.
        """
        size = first.shape[-2], first.shape[-1]
        tokens = self.features.both(first, second)
        return torch.stack([head(each, size) for head, each in zip(self.heads, tokens)], 1)


def prediction_of(
    points: Float32, confidence: Float32, descriptors: Float32, intrinsics2: Float64
) -> Prediction:
    """Read depth, pose and matches out of what a network says of both views' pixels.

    points: (2, H, W, 3) in the first camera's frame. confidence: (2, H, W). descriptors:
    (2, H, W, D) of length 1. depth_m is the z of the first view's points, (H, W).
    camera2_from_camera1 is the pose from which the second camera shows the surer half of its
    points, NaN where there is none. matches: (K, 2), which point of a grid of the first view and
    which pixel of the second view, row by row, have descriptors that are each other's nearest.
    """
    sure = confidence[1] >= np.median(confidence[1])
    surest = np.where(sure[..., None], points[1], np.nan)
    return {
        "points": points,
        "depth_m": points[0, ..., 2],
        "camera2_from_camera1": pose_of_points(surest, intrinsics2),
        "matches": mutual_matches(_on_grid(descriptors[0]), _in_a_row(descriptors[1])),
    }


def _view_of(example: Example, prediction: Prediction) -> Example:
    """Return what of an example was predicted."""
    height, width = prediction["depth_m"].shape
    return middle(example, (height, width))


def _at_pixels(maps: Tensor, pixels: Tensor) -> Tensor:
    """Return the (B, K, C) values of (B, C, H, W) maps at (B, K) numbers of pixels."""
    index = pixels.unsqueeze(1).expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).mT


def _on_grid(values: np.ndarray) -> np.ndarray:
    """Return (N, C) of (H, W, C) values: those of the first view's points that are matched."""
    step = -(-max(values.shape[:2]) // MATCHED_ACROSS)
    return _in_a_row(values[step // 2 :: step, step // 2 :: step])


def _in_a_row(values: np.ndarray) -> np.ndarray:
    """Return (H * W, C) of (H, W, C) values."""
    return values.reshape(-1, values.shape[-1])
