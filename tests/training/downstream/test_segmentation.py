"""Segmentation: tiles, and sums over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_tasks import MODEL, RECIPE

from training.downstream.evaluation import untrained
from training.downstream.example import Example
from training.downstream.inference import starts
from training.downstream.tasks import TASKS
from training.downstream.transforms import size_of


def test_segmentation_slides_over_what_is_longer_than_the_crop(opened, monkeypatch):
    """36 x 70 pixels cover the crop as 32 x 62."""
    task, splits = TASKS["segmentation"], opened("segmentation", "ade20k")
    recipe = RECIPE.for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    shapes = []
    network.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    example = splits.val[0]
    assert size_of(example) == (36, 70)
    with torch.inference_mode():
        task.predict(network, example, recipe)
    assert shapes == [(len(starts(62, 32, recipe.tile_overlap)), 3, 32, 32)]


def test_segmentation_sums_before_it_divides():
    """Class 0: 3 of 4 pixels in all; class 1: 1 of 2. A mean over images would differ."""
    segmentation = TASKS["segmentation"]
    scores = []
    for truth, found in (([[0, 0, 0, -1]], [[0, 0, 0, 1]]), ([[1, 0]], [[1, 1]])):
        labels = np.array(truth)
        image = np.zeros((*labels.shape, 3), np.uint8)
        example = Example(name="row", images=(image,), truth={"labels": labels})
        prediction = {"labels": np.array(found), "num_classes": np.array(3)}
        scores.append(segmentation.score(prediction, example))
    metrics = segmentation.summarise(scores)
    assert metrics == pytest.approx({"miou": (3 / 4 + 1 / 2) / 2, "pixel_accuracy": 4 / 5})


def test_segmentation_keeps_little_of_each_image():
    segmentation, labels = TASKS["segmentation"], np.arange(6).reshape(2, 3)
    image = np.zeros((2, 3, 3), np.uint8)
    example = Example(name="few", images=(image,), truth={"labels": labels})
    prediction = {"labels": labels[::-1], "num_classes": np.array(150)}
    score = segmentation.score(prediction, example)
    assert sum(value.nbytes for value in score.values()) < 200
    assert segmentation.summarise([score]) == {"miou": 0, "pixel_accuracy": 0}
