"""Image classification.

Source: the protocols of MAE (He et al., CVPR 2022, appendix A.1) on ImageNet, without their heavier
augmentation (RandAugment, mixup, cutmix, erasing) and label smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.downstream.baselines import label_counts
from training.downstream.datasets.imagenet import open_imagenet
from training.downstream.dense import images_of, tensors_of
from training.downstream.example import Example, Splits, one_view
from training.downstream.features import encoder_features
from training.downstream.heads import LinearHead
from training.downstream.labels import class_loss, num_classes, require_class
from training.downstream.metrics import Scores, averaged, classification_scores
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import augmented, central, covering, cropped, resized, size_of
from training.model.croco import CroCo

TEST_CROP_SHARE = 224 / 256
"""Of an image's shorter side, that is judged on: the middle."""


class Classification:
    """The class of an image, by the mean token of the encoder."""

    name = "classification"
    summary = (
        "Class of an image, by a linear map of the encoder's mean token; the recipes linear and "
        "short train that map alone."
    )
    metrics = (
        Metric(name="top1", higher_is_better=True),
        Metric(name="top5", higher_is_better=True),
    )
    datasets: Mapping[str, Open] = {"imagenet": open_imagenet}
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(
            max_steps=300, batch_size=64, lr=3e-3, weight_decay=0.0, frozen=True, flip=True
        ),
        "linear": Recipe(
            crop=(224, 224),
            epochs=90,
            batch_size=1024,  # ours, as lr: published are 16384 and 6.4, by LARS instead of AdamW
            lr=1e-3,
            warmup=10 / 90,
            weight_decay=0.0,
            clip_norm=None,
            frozen=True,
            flip=True,
        ),
        "published": Recipe(
            crop=(224, 224),
            epochs=100,
            batch_size=1024,
            lr=2e-3,  # 5e-4 for each 256 images of a batch
            min_lr=1e-6,
            warmup=0.05,  # 5 of 100 epochs
            weight_decay=0.05,
            clip_norm=None,
            layer_decay=0.65,
            drop_path=0.1,
            flip=True,
        ),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder and linear map. Raises CrossviewError for head = 'linear'."""
        recipe.refuse_linear(self.name)
        return ClassificationNetwork(model, recipe, num_classes(splits))

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image, (3, H, W), and label, ()."""
        example = _randomly_resized_crop(one_view(example), recipe.crop_size, random)
        return tensors_of(augmented(example, recipe, random), "label")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the cross entropy."""
        return class_loss(network(batch["image"]), batch["label"])

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return logits, (C,), of the middle of the image."""
        middle = _middle(one_view(example), recipe.crop_size)
        (image,) = images_of(middle, network)
        images = torch.cat([image, image.flip(-1)]) if recipe.flip_test else image
        return {"logits": network(images).float().mean(0).cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say the most frequent classes; of equally frequent ones, those that come first."""
        counts = label_counts(splits, "label")
        logits = (counts - np.arange(len(counts)) / len(counts)).astype(np.float32)
        return (lambda example: {"logits": logits}) if counts.any() else None

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the metrics of one image."""
        logits, label = prediction["logits"], example.truth["label"]
        require_class(int(label), len(logits))
        return classification_scores(logits, label)

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return the shares of all images."""
        return averaged(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show the image, under its class, and under the likeliest one."""
        logits = prediction["logits"]
        found = int(logits.argmax())
        share = 1 / np.exp(logits - logits[found]).sum()
        image = example.images[0]
        return [
            (f"truth: class {int(example.truth['label'])}", image),
            (f"prediction: class {found}, {share:.0%}", image),
        ]


class ClassificationNetwork(nn.Module):
    """The encoder under a linear classifier."""

    def __init__(self, model: CroCo, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.features = encoder_features(model, recipe, [model.config.enc_depth - 1])
        self.head = LinearHead(model.config.enc_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images in 0..1 to (B, C) logits."""
        (tokens,) = self.features(images)
        return self.head(tokens)  # type: ignore[no-any-return]


def _randomly_resized_crop(
    example: Example, size: tuple[int, int], random: np.random.Generator
) -> Example:
    """Bring a random window to (height, width): 8 to 100 % of the area, 3:4 to 4:3 as wide as high.

    What is longer than the image is cut off there. Source: Szegedy et al., Going Deeper with
    Convolutions, CVPR 2015.
    """
    height, width = size_of(example)
    area = height * width * random.uniform(0.08, 1)
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    rows = int(np.clip(round(np.sqrt(area / ratio)), 1, height))
    columns = int(np.clip(round(np.sqrt(area * ratio)), 1, width))
    row = int(random.integers(height - rows + 1))
    column = int(random.integers(width - columns + 1))
    return resized(cropped(example, row, column, (rows, columns)), size)


def _middle(example: Example, size: tuple[int, int]) -> Example:
    """Return the middle (height, width) of an image, of which that is TEST_CROP_SHARE."""
    whole = round(size[0] / TEST_CROP_SHARE), round(size[1] / TEST_CROP_SHARE)
    return central(covering(example, whole), size)
