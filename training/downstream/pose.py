"""How the second camera stands to the first, from both images.

Source: relative pose on 7-Scenes is a task of CroCo (Weinzaepfel et al., NeurIPS 2022); head, loss
and recipes are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from generation.errors import CrossviewError
from training.downstream.baselines import fitted
from training.downstream.datasets.scannet1500 import open_scannet1500
from training.downstream.datasets.seven_scenes import open_seven_scenes
from training.downstream.datasets.shards import open_shards
from training.downstream.dense import images_of, tensors_of
from training.downstream.example import Example, Splits
from training.downstream.features import pair_features
from training.downstream.heads import PoseHead
from training.downstream.losses import rotation_loss, translation_loss
from training.downstream.metrics import Scores, pose_scores, pose_summary
from training.downstream.recipe import Recipe
from training.downstream.task import Answer, Batch, Metric, Open, Panels, Prediction
from training.downstream.transforms import altered, middle
from training.downstream.two_views import pose_pictures
from training.model.croco import CroCo

RADIANS_PER_METRE = 1.0
"""How much an error of the translation counts in the loss, beside one of the rotation."""
POSE_METRICS = (
    Metric(name="median_rotation_deg", unit="deg", digits=2),
    Metric(name="median_translation_m", unit="m"),
    Metric(name="median_direction_deg", unit="deg", digits=2),
    Metric(name="auc5", higher_is_better=True),
    Metric(name="auc10", higher_is_better=True),
    Metric(name="auc20", higher_is_better=True),
)


class Pose:
    """The rigid motion from the first camera to the second, in metres."""

    name = "pose"
    summary = "Rotation and translation in metres from the first camera to the second."
    metrics = POSE_METRICS
    datasets: Mapping[str, Open] = {
        "shards": open_shards,
        "seven_scenes": open_seven_scenes,
        "scannet1500": open_scannet1500,  # has nothing to train on
    }
    recipes: Mapping[str, Recipe] = {
        "short": Recipe(max_steps=600, batch_size=16, lr=5e-4),
        "published": Recipe(epochs=100, batch_size=64, lr=1e-4, layer_decay=0.75, jitter=0.4),
    }

    def network(self, model: CroCo, splits: Splits, recipe: Recipe) -> nn.Module:
        """Return encoder, decoder, head. Raises CrossviewError: flip_test, head = 'linear'."""
        recipe.refuse_linear(self.name)
        refuse_mirrored_tests(self.name, recipe)
        return PoseNetwork(model, recipe)

    def sample(self, example: Example, recipe: Recipe, random: np.random.Generator) -> Batch:
        """Return image and image2, (3, H, W), and camera2_from_camera1, (4, 4).

        The middle of both images: a crop elsewhere is as if the camera had turned.
        """
        example = altered(middle(example, recipe.crop_size), recipe, random)
        return tensors_of(example, "camera2_from_camera1")

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the angle between both rotations plus the weighted error of the translation."""
        found, truth = network(batch["image"], batch["image2"]), batch["camera2_from_camera1"]
        rotation = rotation_loss(found[:, :3, :3], truth[:, :3, :3])
        translation_m = translation_loss(found[:, :3, 3], truth[:, :3, 3])
        return rotation + RADIANS_PER_METRE * translation_m

    def predict(self, network: nn.Module, example: Example, recipe: Recipe) -> Prediction:
        """Return camera2_from_camera1, (4, 4) float64."""
        images = images_of(middle(example, recipe.crop_size), network)
        found: Tensor = network(*images)
        return {"camera2_from_camera1": found[0].double().cpu().numpy()}

    def baseline(self, splits: Splits) -> Answer | None:
        """Say that the camera does not turn, and moves as in the middle of training."""
        motions = [example.truth["camera2_from_camera1"] for example in fitted(splits)]
        if not motions:
            return None
        motion = np.eye(4)
        motion[:3, 3] = np.median(motions, axis=0)[:3, 3]
        return lambda example: {"camera2_from_camera1": motion}

    def score(self, prediction: Prediction, example: Example) -> Scores:
        """Return the errors of one pose."""
        name = "camera2_from_camera1"
        return pose_scores(prediction[name], example.truth[name])

    def summarise(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Return medians over pairs, and the areas under the shares of angles."""
        return pose_summary_of(scores)

    def pictures(self, example: Example, prediction: Prediction) -> Panels:
        """Show points of the first image, and where true and predicted pose let them lie."""
        return pose_pictures(example, prediction["camera2_from_camera1"])


class PoseNetwork(nn.Module):
    """Pre-trained blocks under a head that sees the tokens of all patches at once."""

    def __init__(self, model: CroCo, recipe: Recipe) -> None:
        super().__init__()
        self.features = pair_features(model, recipe)
        height, width = (side // model.config.patch_size for side in recipe.crop_size)
        self.head = PoseHead(self.features.dims, height * width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map two (B, 3, H, W) images in 0..1 to (B, 4, 4) camera2_from_camera1."""
        return self.head(self.features(first, second))  # type: ignore[no-any-return]


def refuse_mirrored_tests(task: str, recipe: Recipe) -> None:
    """Raise CrossviewError for a recipe that predicts mirrored images too."""
    if recipe.flip_test:
        raise CrossviewError(
            f"{task}: flip_test = True: expected false, for two poses have no mean"
        )


def pose_summary_of(scores: Sequence[Scores]) -> dict[str, float]:
    """Return pose_summary of scores from pose_scores; without a median that is not finite.

    That of the translation is not where half of the poses could not be found.
    """
    names = ("rotation_deg", "translation_m", "direction_deg")
    columns = (np.array([float(score[name]) for score in scores]) for name in names)
    return {name: value for name, value in pose_summary(*columns).items() if np.isfinite(value)}
