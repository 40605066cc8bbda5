"""What says something of every pixel: sizes, mirrors and heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MODEL, RECIPE, judged

from training.augment import normalise
from training.downstream.evaluation import untrained
from training.downstream.example import Example
from training.downstream.tasks import TASKS
from training.downstream.transforms import mirrored


@pytest.mark.parametrize(
    ("task", "layout"),
    [
        ("depth", "nyuv2"),
        ("flow", "kitti"),
        ("stereo", "kitti"),
        ("segmentation", "ade20k"),
        ("classification", "imagenet"),
        ("taskonomy_normal", "taskonomy"),
        ("taskonomy_reshading", "taskonomy"),
    ],
)
def test_predictions_have_the_size_of_the_example(opened, task, layout):
    task, splits = TASKS[task], opened(task, layout)
    recipe = RECIPE.for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    with torch.inference_mode():
        for number in range(len(splits.val)):
            example = splits.val[number]
            prediction = task.predict(network, example, recipe)
            for name, value in prediction.items():
                if name in example.truth:
                    assert value.shape == example.truth[name].shape


@pytest.mark.parametrize(
    ("task", "channels", "factor"),
    [("depth", 1, 1), ("flow", 3, (44 / 94, 30 / 64)), ("stereo", 2, 44 / 94)],
)
def test_images_smaller_than_the_crop_are_enlarged_to_train_and_to_judge(task, channels, factor):
    """By a network that says each pixel's colours: brighter to the right and downwards."""
    row, column = np.mgrid[:30, :44]
    image = np.stack([5 * column, 8 * row, 5 * column], -1).astype(np.uint8)
    maps = {"depth_m": (30, 44), "flow": (30, 44, 2), "disparity": (30, 44)}
    truth = {name: np.zeros(shape, np.float32) for name, shape in maps.items()}
    example = Example(name="small", images=(image, image), truth=truth)
    shapes = set()

    class Colours(torch.nn.Linear):
        def forward(self, image, *_):
            shapes.add(image.shape)
            return 9 * image[:, :channels]

    def found(crop):
        recipe = replace(RECIPE, crop=crop)
        ((_, values),) = TASKS[task].predict(Colours(1, 1), example, recipe).items()
        return values[2:-2, 2:-2]

    expected = found((15, 22)) * factor
    shapes.clear()
    np.testing.assert_allclose(found((64, 64)), expected, rtol=1e-4)
    assert shapes == {(2, 3, 64, 64)}  # tiles of 64 x 94
    sample = TASKS[task].sample(example, replace(RECIPE, crop=(64, 64)), np.random.default_rng(0))
    assert sample["image"].shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("task", "layout", "name", "signs"),
    [
        ("depth", "nyuv2", "depth_m", 1),
        ("flow", "kitti", "flow", (-1, 1)),
        ("taskonomy_normal", "taskonomy", "normal", (-1, 1, 1)),
    ],
)
def test_what_points_to_the_side_is_turned_round_in_a_mirror(opened, task, layout, name, signs):
    """What a network says of an image and of its mirror image is the same, mirrored."""
    task, splits = TASKS[task], opened(task, layout)
    recipe = replace(RECIPE, flip_test=True).for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    example = splits.val[0]
    with torch.inference_mode():
        found = task.predict(network, example, recipe)[name]
        again = task.predict(network, mirrored(example), recipe)[name]
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(again, found[:, ::-1] * signs, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "layout"), [("depth", "nyuv2"), ("taskonomy_normal", "taskonomy")]
)
def test_a_dense_head_takes_four_blocks_of_the_encoder(opened, task, layout):
    """Equally spaced: tokens of blocks 1, 3, 5 and 7, the last ones after the norm."""
    model = untrained(replace(MODEL, enc_depth=8), 0).eval()
    network = TASKS[task].network(model, opened(task, layout), RECIPE)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = []
        last = model.encode(normalise(image), outputs=blocks)
        taken = network.features(image)
    assert len(taken) == 4
    for tokens, expected in zip(taken, (blocks[1], blocks[3], blocks[5], last)):
        assert torch.equal(tokens, expected)


@pytest.mark.parametrize(("task", "layout"), [("depth", "nyuv2"), ("flow", "kitti")])
def test_a_linear_head_probes_what_is_frozen(opened, task, layout):
    splits = opened(task, layout)
    outcome = judged(task, splits, head="linear", frozen=True)
    assert outcome.fitted.num_parameters < judged(task, splits).fitted.num_parameters
    assert all(np.isfinite(list(outcome.metrics.values())))
