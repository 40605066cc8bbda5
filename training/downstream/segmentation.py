"""Semantic segmentation.

Source: the protocol of MultiMAE (Bachmann et al., ECCV 2022) on ADE20k, which CroCo follows, but
for the scale: theirs is the longer side at the crop's size, times 0.1 to 2 in training; here the
shorter side is, and the image is judged on at its own size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from training.downstream.baselines import label_counts
from training.downstream.colours import error_picture, label_picture
from training.downstream.datasets.ade20k import open_ade20k
from training.downstream.dense import images_of, predicted, tensors_of
from training.downstream.dpt import upsampled
from training.downstream.example import UNKNOWN_LABEL, Example, Splits, one_view
from training.downstream.features import encoder_features
from training.downstream.heads import SegmentationHead
from training.downstream.labels import class_loss, num_classes
from training.downstream.metrics import Scores, confusion_matrix, segmentation_summary
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented, covering, size_of
from training.model.croco import CroCo


class Segmentation:
    """The class of every pixel, by the encoder and a ConvNeXt head."""

    name = "segmentation"
    summary = "Class of every pixel of one image, by the encoder and a ConvNeXt head."
    metrics = (
        Metric(name="miou", higher_is_better=True),
        Metric(name="pixel_accuracy", higher_is_better=True),
    )
    datasets: Mapping[str, Open] = {"ade20k": open_ade20k}
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=300, batch_size=16, lr=5e-4, head_width=64, flip=True),
        "published": Recipe(
            crop=(512, 512),
            head_width=384,
            epochs=64,
            batch_size=16,
            lr=1e-4,
            warmup=1 / 64,
            weight_decay=0.05,
            clip_norm=None,
            layer_decay=0.75,
            drop_path=0.1,
            flip=True,
            jitter=0.4,  # ours: theirs comes every other time, of saturation 0.2, and of hue too
            tile_overlap=1 / 3,  # ours: they need no tiles
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder and head. Raises CrossviewError for head = 'linear'."""
        recipe.refuse_linear(self.name)
        return SegmentationNetwork(model, recipe, num_classes(splits))

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image, (3, H, W), and labels, (H, W)."""
        return tensors_of(augmented(_scaled(example, recipe), recipe, random), "labels")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the cross entropy of the pixels."""
        return class_loss(network(batch["image"]), batch["labels"])

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return labels, (H, W), and num_classes, ()."""
        (image,) = images_of(_scaled(example, recipe), network)
        logits = upsampled(predicted(network, [image], recipe), size_of(example))
        return {
            "labels": logits[0].argmax(0).cpu().numpy(),
            "num_classes": np.array(logits.shape[1]),
        }

    def baseline(self, splits: Splits) -> Answer | None:
        """Say the most frequent class."""
        if not (counts := label_counts(splits, "labels")).any():
            return None
        return lambda example: {
            "labels": np.full_like(example.truth["labels"], counts.argmax()),
            "num_classes": np.array(len(counts)),
        }

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return what of the confusion matrix is not 0, (2, K): where, and how many pixels.

        Of 150 classes the whole would be 180 kB an image.
        """
        classes = prediction["num_classes"]
        confusion = confusion_matrix(prediction["labels"], example.truth["labels"], int(classes))
        cells = np.flatnonzero(confusion)
        return {"num_classes": classes, "confusion": np.stack([cells, confusion.flat[cells]])}

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the metrics of all pixels of all images."""
        classes = int(scores[0]["num_classes"])
        confusion = np.zeros(classes**2)
        for cells, counts in (score["confusion"] for score in scores):
            confusion[cells.astype(int)] += counts
        return segmentation_summary(confusion.reshape(classes, classes))

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show each class in its colour, and wrong pixels bright."""
        found, truth = prediction["labels"], example.truth["labels"]
        wrong = np.where(truth == UNKNOWN_LABEL, np.nan, found != truth)
        return [
            ("image", example.images[0]),
            ("truth", label_picture(truth)),
            ("prediction", label_picture(found)),
            ("wrong", error_picture(wrong, 1.0)),
        ]


class SegmentationNetwork(nn.Module):
    """The encoder under a ConvNeXt head."""

    def __init__(self, model: CroCo, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.features = encoder_features(model, recipe, [model.config.enc_depth - 1])
        self.head = SegmentationHead(
            model.config.enc_dim, num_classes, model.config.patch_size, width=recipe.head_width
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images in 0..1 to (B, C, H, W) logits."""
        height, width = images.shape[-2:]
        return self.head(self.features(images), (height, width))  # type: ignore[no-any-return]


def _scaled(example: Example, recipe: Recipe) -> Example:
    """Bring an image, in its own shape, to the size at which it covers the crop."""
    return covering(one_view(example), recipe.crop_size)
