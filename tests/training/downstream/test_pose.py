"""Pose, and what pointmaps share with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_pairs import MOTION, dots, planes, some_of
from micro_tasks import RECIPE, judged
from tiny_images import colours

from generation.errors import CrossviewError
from generation.geometry import Camera, invert_rigid, look_at, rotation_about_axis
from training.downstream.colours import error_picture
from training.downstream.example import Example, Splits
from training.downstream.tasks import TASKS


def test_scannet1500_judges_what_was_trained_elsewhere(opened):
    shards, scannet = opened("pose", "shards"), opened("pose", "scannet1500")
    with pytest.raises(CrossviewError, match="pose: this dataset has no training examples"):
        judged("pose", scannet)
    untouched = judged("pose", scannet, epochs=0)
    trained = judged("pose", Splits(train=shards.train, val=scannet.val), max_steps=4)
    assert (untouched.fitted.num_steps, trained.fitted.num_steps) == (0, 4)
    names = [metric.name for metric in TASKS["pose"].metrics]
    assert list(untouched.metrics) == list(trained.metrics) == names
    assert untouched.metrics != trained.metrics


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_two_poses_have_no_mean(opened, task):
    with pytest.raises(CrossviewError, match=rf"{task}: flip_test"):
        judged(task, opened(task, "shards"), flip_test=True)


def test_pose_learns_how_far_cameras_are_apart(opened):
    """Up to 24 of 36 pixels: 1.5 m."""
    few = some_of(opened("pose", "shards"), [0, 2, 3, 4])
    before = judged("pose", few, epochs=0).metrics
    after = judged("pose", few, max_steps=50, batch_size=4, lr=1e-3).metrics
    assert after["median_translation_m"] < 0.15 < 0.5 * before["median_translation_m"]
    assert after["median_rotation_deg"] < 3


def test_the_true_pose_scores_best_and_a_turned_one_by_its_angle(rooms):
    task = TASKS["pose"]
    exact = [task.score({MOTION: example.truth[MOTION]}, example) for example in rooms]
    metrics = task.summarise(exact)
    assert metrics["auc5"] == metrics["auc10"] == metrics["auc20"] == pytest.approx(1)
    for name in ("rotation_deg", "translation_m", "direction_deg"):
        assert metrics[f"median_{name}"] < 1e-5
    turned = []
    for example in rooms:
        motion = example.truth[MOTION].copy()
        motion[:3, :3] = motion[:3, :3] @ rotation_about_axis(0, np.radians(8))
        motion[:3, 3] *= 1.5
        turned.append(task.score({MOTION: motion}, example))
    metrics = task.summarise(turned)
    assert metrics["median_rotation_deg"] == pytest.approx(8)
    assert metrics["median_direction_deg"] < 1e-5
    lengths_m = [np.linalg.norm(example.truth[MOTION][:3, 3]) for example in rooms]
    assert metrics["median_translation_m"] == pytest.approx(np.median(lengths_m) / 2)
    assert metrics["auc5"] == 0 < metrics["auc10"] < metrics["auc20"] < 1


@pytest.mark.parametrize("shift_px", [0, 8])
def test_pictures_of_poses_show_points_where_each_pose_puts_them(shift_px):
    """A frontal plane moves left by 8 px; the prediction is the truth, or that nothing moved."""
    example = planes(8)
    found = example.truth[MOTION] if shift_px else np.eye(4)
    panels = dict(TASKS["pose"].pictures(example, {MOTION: found}))
    limit = 1 if shift_px else 10
    titles = ["first", "truth in the second", "prediction", f"error to {limit} px"]
    assert list(panels) == titles
    first, truth, prediction, error = panels.values()
    np.testing.assert_array_equal(dots(truth)[:, :-8], dots(first)[:, 8:])
    if shift_px:
        np.testing.assert_array_equal(prediction, truth)
        assert (error == error_picture(np.zeros((36, 36)), 1)).all()
    else:
        np.testing.assert_array_equal(dots(prediction), dots(first))
        assert (error == error_picture(np.full((36, 36), 8), limit)).all()


@pytest.mark.parametrize("size", [(36, 36), (48, 64), (64, 40), (20, 30)])
def test_samples_are_of_the_middle_whatever_chance_says(size):
    """A camera's middle stays in the middle, and its points stay where they are."""
    camera1 = Camera.from_hfov(60, size, np.eye(4))
    world_from_camera2 = look_at(np.array([0.5, 0, 0]), np.array([0, 0, 2.0]))
    depth_m = np.full(size, 2, np.float32)
    example = Example(
        name="any",
        images=(colours(0, size), colours(1, size)),
        truth={
            "depth_m": depth_m,
            "depth2_m": depth_m,
            "flow": np.zeros((*size, 2), np.float32),
            "intrinsics1": camera1.intrinsics,
            "intrinsics2": camera1.intrinsics,
            MOTION: invert_rigid(world_from_camera2),
        },
    )
    recipe = replace(RECIPE, crop=(32, 32))
    for task in ("pose", "pointmaps"):
        samples = [
            TASKS[task].sample(example, recipe, np.random.default_rng(seed)) for seed in (0, 1)
        ]
        for name in ("image", "image2"):
            assert samples[0][name].shape == (3, 32, 32)
            assert torch.equal(samples[0][name], samples[1][name])
    points = samples[0]["points"].numpy()
    width_px = max(32 / size[0], 32 / size[1]) * size[1]  # of which the middle 32 are left
    pixel_m = 2 / (width_px / 2 / np.tan(np.radians(30)))
    middle_m = points[:, 15:17, 15:17].mean((1, 2))
    np.testing.assert_allclose(middle_m[0], [0, 0, 2], atol=0.51 * pixel_m)
    expected = (world_from_camera2 @ [0, 0, 2, 1])[:3]
    np.testing.assert_allclose(middle_m[1], expected, atol=0.51 * pixel_m)
    across_m = np.linalg.norm(points[:, :, -1] - points[:, :, 0], axis=-1)
    np.testing.assert_allclose(across_m, 31 * pixel_m, rtol=0.02)


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_samples_are_jittered_by_chance(task):
    recipe = replace(RECIPE, crop=(32, 32), jitter=0.4)
    first, again, other = (
        TASKS[task].sample(planes(6), recipe, np.random.default_rng(seed))["image"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01
