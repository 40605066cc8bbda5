"""Geometry of two views, against plain loops and renders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from micro_pairs import MOTION, planes
from micro_tasks import RECIPE

from training.downstream.pointmaps import NUM_PAIRS
from training.downstream.tasks import TASKS
from training.downstream.transforms import middle
from training.downstream.two_views import (
    pose_of_points,
    true_pairs,
    true_pixels,
    true_points,
)


def slow_points(example, view):
    """Unproject pixel by pixel, in the first camera's frame."""
    depth_m = example.truth["depth_m" if view == 1 else "depth2_m"]
    points = np.full((*depth_m.shape, 3), np.nan)
    for row in range(depth_m.shape[0]):
        for column in range(depth_m.shape[1]):
            ray = np.linalg.solve(
                example.truth[f"intrinsics{view}"], [column + 0.5, row + 0.5, 1.0]
            )
            point = np.array([*(ray * float(depth_m[row, column])), 1])
            if view == 2:
                point = np.linalg.solve(example.truth[MOTION], point)
            points[row, column] = point[:3]
    return points


def test_true_points_are_those_of_a_plain_loop(rooms):
    for example in (middle(rooms[0], (24, 32)), middle(rooms[-1], (16, 16))):
        example.truth["depth_m"][3, 5] = example.truth["depth2_m"][2, 4] = np.nan
        example.truth["intrinsics2"] = np.diag([2, 1.5, 1]) @ example.truth["intrinsics2"]
        points = true_points(example)
        assert points.dtype == np.float32
        for view in (1, 2):
            np.testing.assert_allclose(points[view - 1], slow_points(example, view), atol=1e-4)
        assert np.isnan(points[0, 3, 5]).all()
        assert np.isnan(points[1, 2, 4]).all()


def test_paired_pixels_show_the_same_point(rooms):
    """As near as the middles of their pixels are, where the truth was cut and scaled, too."""
    for example in (rooms[0], middle(rooms[1], (32, 48)), middle(rooms[2], (40, 24))):
        size = example.images[0].shape[:2]
        pairs = true_pairs(example, 200, np.random.default_rng(0))
        assert 50 < len(pairs) <= 200
        assert len(set(pairs[:, 1])) == len(set(pairs[:, 0])) == len(pairs)
        points1, points2 = true_points(example).reshape(2, -1, 3)
        first, second = points1[pairs[:, 0]], points2[pairs[:, 1]]
        pixel_m = np.linalg.norm(first, axis=-1) / example.truth["intrinsics1"][0, 0]
        apart_px = np.linalg.norm(first - second, axis=-1) / pixel_m
        assert np.median(apart_px) < 1
        colours1, colours2 = (image.reshape(-1, 3).astype(float) for image in example.images)
        alike = np.abs(colours1[pairs[:, 0]] - colours2[pairs[:, 1]]).mean()
        shuffled = np.abs(colours1[pairs[:, 0]] - colours2[pairs[::-1, 1]]).mean()
        assert alike < 0.5 * shuffled
        assert (true_pixels(example).shape) == (*size, 2)


def test_pairs_are_drawn_by_chance_and_leave_out_what_is_not_shown_twice():
    example = planes(24)
    every = true_pairs(example, 10**6, np.random.default_rng(0))
    assert len(every) == 36 * 12
    assert (every[:, 0] - every[:, 1] == 24).all()
    assert (every[:, 0] % 36 >= 24).all()
    few = [set(true_pairs(example, 50, np.random.default_rng(seed))[:, 0]) for seed in (0, 0, 1)]
    assert len(few[0]) == 50
    assert few[0] == few[1] != few[2]
    nothing = replace(example, truth={**example.truth, "occluded": np.ones((36, 36), bool)})
    assert true_pairs(nothing, 50, np.random.default_rng(0)).shape == (0, 2)
    sample = TASKS["pointmaps"].sample(
        nothing, replace(RECIPE, crop=(32, 32)), np.random.default_rng(0)
    )
    assert sample["pairs"].shape == (NUM_PAIRS, 2)
    assert not sample["paired"].any()


def test_a_pose_is_found_in_spite_of_wrong_and_missing_points(rooms):
    example, random = rooms[0], np.random.default_rng(0)
    points = true_points(example)[1]
    points[random.random((64, 64)) < 0.3] += 2
    points[random.random((64, 64)) < 0.3] = np.nan
    found = pose_of_points(points, example.truth["intrinsics2"])
    np.testing.assert_allclose(found, example.truth[MOTION], atol=0.01)
    np.testing.assert_array_equal(found, pose_of_points(points, example.truth["intrinsics2"]))


@pytest.mark.parametrize("kind", ["unknown", "five", "one point", "nearly one point", "infinite"])
def test_points_that_have_no_pose_give_none_or_any(rooms, kind):
    """Never an error of OpenCV's."""
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    points = {
        "unknown": noise * np.nan,
        "five": np.where(np.arange(64 * 64).reshape(64, 64, 1) < 5, noise, np.nan),
        "one point": np.ones_like(noise),
        "nearly one point": 1 + 1e-9 * noise,
        "infinite": noise * np.inf,
    }[kind]
    found = pose_of_points(points, rooms[0].truth["intrinsics2"])
    assert found.shape == (4, 4)
    if kind != "nearly one point":
        assert np.isnan(found).all()
