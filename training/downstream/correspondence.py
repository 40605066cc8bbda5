"""Zero-shot correspondence: where attention, or the encoder alone, finds each patch again.

Source: An et al., ZeroCo, CVPR 2025, for cross-attention maps as correspondences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generation.errors import CrossviewError
from generation.geometry import Float32
from training.augment import normalise
from training.correspondence import geometry_counts, geometry_metrics
from training.cross_attention import centred_peaks, cross_attention_when_hidden
from training.downstream.colours import error_picture
from training.downstream.datasets.shards import open_shards
from training.downstream.datasets.sintel import open_sintel
from training.downstream.dense import images_of, tensors_of
from training.downstream.example import Example, Splits
from training.downstream.metrics import Scores, averaged, correspondence_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import central, size_of
from training.downstream.two_views import true_pixels
from training.model.croco import CroCo
from training.model.positions import grid_places
from training.pictures import as_bytes, colours_of_places, painted

WAYS = ("attention", "features")
"""The decoder's attention; and the cosine of the encoder's features, which MAE has too."""
FEATURE_TEMPERATURE = 0.07
"""Cosines are divided by this before their softmax; it decides how far neighbours of the highest
one pull its place, and no share."""


class Correspondence:
    """Which patch of the second view shows what a patch of the first does, without training."""

    name = "correspondence"
    summary = (
        "Where patches of the first view lie in the second, from the attention of hidden patches "
        "and from the cosine of the encoder's features: of those that moved by more than a patch, "
        "the share found within one patch; of all, the share within a patch's width (PCK) and the "
        "mean distance."
    )
    metrics = (
        Metric(name="attention_moved", higher_is_better=True),
        Metric(name="attention_pck", higher_is_better=True),
        Metric(name="attention_epe_px", unit="px", digits=2),
        Metric(name="features_moved", higher_is_better=True),
        Metric(name="features_pck", higher_is_better=True),
        Metric(name="features_epe_px", unit="px", digits=2),
    )
    datasets: Mapping[str, Open] = {"shards": open_shards, "sintel_clean": open_sintel}
    recipes: Mapping[str, Recipe] = {"short": Recipe(epochs=0), "published": Recipe(epochs=0)}

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return the model as it is. Raises CrossviewError for a recipe that trains."""
        if recipe.epochs:
            raise CrossviewError(
                f"correspondence: epochs = {recipe.epochs:g}: expected 0, for it is not trained; "
                "give it a command of its own"
            )
        return model.eval()

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Refuse: there is nothing to train."""
        raise AssertionError("correspondence is not trained")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Refuse: there is nothing to train."""
        raise AssertionError("correspondence is not trained")

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return (N, N) maps from the first view's patches to the second's, by WAYS.

        Of the middle of both views, at the size that the model was pre-trained on; rows sum to 1.
        """
        assert isinstance(network, CroCo)
        side, patch = network.config.grid[0], network.config.patch_size
        first, second = (
            normalise(image) for image in images_of(_central(example, side * patch), network)
        )
        maps = {"features": _similar(network.encode(first), network.encode(second))}
        if network.config.sees_reference:
            maps["attention"] = cross_attention_when_hidden(network, first, second).float()
        return {
            "grid": np.array((side, patch)),
            **{way: rows[0].cpu().numpy() for way, rows in maps.items()},
        }

    def baseline(self, splits: Splits) -> Answer | None:
        """Return None: nothing is trained, so that chance and copying are known."""
        return None

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return each way's geometry_counts, PCK (within a patch's width) and mean distance."""
        places = _true_places(prediction, example)
        truth = torch.from_numpy(places).unsqueeze(0)
        everything = torch.ones(truth.shape[:2], dtype=torch.bool)
        side, patch = prediction["grid"]
        scores: Scores = {}
        for way in WAYS:
            if way in prediction:
                attention = torch.from_numpy(prediction[way]).unsqueeze(0)
                scores[way] = geometry_counts(attention, truth, everything).numpy()
                found = _peaks(prediction[way], int(side))
                distances = correspondence_scores(found * patch, places * patch, {"pck": patch})
                scores |= {f"{way}_{name}": value for name, value in distances.items()}
        scores["patches"] = np.array(np.isfinite(places).all(1).sum(), float)
        return scores

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return shares and distances over all patches of all examples."""
        metrics: dict[str, float] = {}
        for way in WAYS:
            own = [score for score in scores if way in score]
            if not own:
                continue
            sums = torch.from_numpy(np.sum([score[way] for score in own], axis=0))
            shares = geometry_metrics(sums)
            if "geometry_moved" in shares:
                metrics[f"{way}_moved"] = shares["geometry_moved"]
            names = (f"{way}_pck", f"{way}_epe_px", "patches")
            metrics |= averaged([{name: each[name] for name in names} for each in own], "patches")
        return metrics

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Paint the second view by place, and the first by where its patches were found.

        Errors are distances in the second view, up to two patches.
        """
        side, patch = (int(value) for value in prediction["grid"])
        example = _central(example, side * patch)
        first, second = (view.unsqueeze(0) for view in tensors_of(example).values())

        def paint(image: Tensor, places: Tensor) -> np.ndarray:
            return as_bytes(painted(image, colours_of_places(places, side), patch)[0])

        truth, limit = _true_places(prediction, example), 2 * patch
        panels: Panels = [
            ("first view", example.images[0]),
            ("second view", paint(second, grid_places((side, side)))),
            ("truth", paint(first, torch.from_numpy(truth))),
        ]
        for way in WAYS:
            if way in prediction:
                found = _peaks(prediction[way], side)
                error_px = patch * np.linalg.norm(found - truth, axis=1).reshape(side, side)
                panels += [
                    (way, paint(first, torch.from_numpy(found))),
                    (f"error to {limit} px", error_picture(_enlarged(error_px, patch), limit)),
                ]
        return panels


def _enlarged(values: np.ndarray, times: int) -> np.ndarray:
    return values.repeat(times, axis=0).repeat(times, axis=1)


def _similar(first: Tensor, second: Tensor) -> Tensor:
    """Return (B, N, N) softmax of the cosines of (B, N, C) features over those of the second."""
    with torch.autocast(first.device.type, enabled=False):  # bfloat16 is too coarse for cosines
        features = [F.normalize(each.float(), dim=-1) for each in (first, second)]
        return (features[0] @ features[1].mT / FEATURE_TEMPERATURE).softmax(-1)


def _central(example: Example, size: int) -> Example:
    height, width = size_of(example)
    if min(height, width) < size:
        raise CrossviewError(
            f"{example.name}: {height} x {width} pixels, but the model takes {size} x {size}; give "
            "a resize of at least that"
        )
    return central(example, (size, size))


def _true_places(prediction: Prediction, example: Example) -> Float32:
    """Return (N, 2) float32 (row, column) on the second view's grid, NaN where it is not seen."""
    side, patch = (int(value) for value in prediction["grid"])
    middles = slice(patch // 2, None, patch)
    pixels = true_pixels(_central(example, side * patch))[middles, middles].reshape(-1, 2)
    places: Float32 = ((pixels[:, ::-1] - (patch // 2 + 0.5)) / patch).astype(np.float32)
    return places


def _peaks(weights: np.ndarray, side: int) -> np.ndarray:
    """Return the (N, 2) places of the largest of (N, N) weights, between patches where flat."""
    return centred_peaks(torch.from_numpy(weights), grid_places((side, side))).numpy()
