"""Pointmaps: the truth scores best, and is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_pairs import MOTION, dots, planes, some_of
from micro_tasks import RECIPE, judged
from torch import nn

from training.downstream.colours import error_picture, scalar_picture
from training.downstream.pointmaps import MATCHING_WEIGHT, prediction_of
from training.downstream.tasks import TASKS
from training.downstream.two_views import (
    pixel_middles,
    true_points,
)


@pytest.mark.slow
def test_pointmaps_learn_points_and_descriptors(opened):
    few = some_of(opened("pointmaps", "shards"), [0, 3])
    before = judged("pointmaps", few, epochs=0).metrics
    after = judged("pointmaps", few, max_steps=80, batch_size=2, lr=3e-3).metrics
    assert after["distance_m"] < 0.2 * before["distance_m"]
    assert before["within_5_percent"] < 0.02 < 0.2 < after["within_5_percent"]
    assert after["depth_rel"] < 0.15 < before["depth_rel"]
    assert before["match_recall"] < 0.1 < 0.25 < after["match_recall"]


class Oracle(nn.Module):
    """Says of an example what is true, in a network's channels."""

    def __init__(self, example, confidence=2.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # device_of looks for one
        points = torch.from_numpy(true_points(example)).double()
        length = points.norm(dim=-1, keepdim=True)
        vectors = points / length * length.log1p()
        confidences = torch.full_like(length, confidence)
        maps = torch.cat([vectors, confidences, codes(points)], -1)
        self.maps = maps.permute(0, 3, 1, 2).unsqueeze(0)

    def forward(self, first, second):
        assert first.shape == second.shape == (1, 3, *self.maps.shape[-2:])
        return self.maps


def codes(points):
    """(..., 24) of (..., 3) points, a smooth function of the place: what is near looks alike."""
    frequencies = 3 * torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).double()
    phases = points.nan_to_num() @ frequencies
    return torch.cat([phases.cos(), phases.sin()], -1)


def of_truth(example, **changes):
    """Return the metrics of an oracle, and its prediction."""
    task, size = TASKS["pointmaps"], example.images[0].shape[:2]
    recipe = replace(RECIPE, crop=size)
    prediction = task.predict(Oracle(example), example, recipe) | changes
    return task.summarise([task.score(prediction, example)]), prediction


def assert_perfect(metrics):
    for name in ("within_5_percent", "scaled_within_5_percent", "depth_delta1"):
        assert metrics[name] == 1
    for name in ("distance_m", "scaled_distance_m", "depth_rel"):
        assert metrics[name] < 1e-5
    assert metrics["median_rotation_deg"] < 0.1
    assert metrics["median_translation_m"] < 0.005
    for limit in (5, 10, 20):
        assert metrics[f"auc{limit}"] > 0.95


@pytest.mark.parametrize("shift_px", [0, 5, 24])
def test_true_points_and_codes_of_planes_are_perfect(shift_px):
    metrics, prediction = of_truth(planes(shift_px))
    assert_perfect(metrics)
    assert metrics["match_precision"] == metrics["match_recall"] == 1
    pixels = pixel_middles((36, 36))
    first, second = prediction["matches"].T
    first, second = pixels[1::3, 1::3].reshape(-1, 2)[first], pixels.reshape(-1, 2)[second]
    seen = first[:, 0] > shift_px
    assert seen.sum() >= 48
    assert ((second - first)[seen] == [-shift_px, 0]).all()


def test_true_points_and_codes_of_rooms_are_perfect(rooms):
    """But for some matches: where a view is coarse, two points have the same nearest pixel."""
    for example in rooms:
        metrics, _ = of_truth(example)
        assert_perfect(metrics)
        assert metrics["match_precision"] > 0.98
        assert metrics["match_recall"] > 0.9


def test_what_is_true_up_to_scale_is_perfect_but_for_its_scale(rooms):
    example = rooms[0]
    _, prediction = of_truth(example)
    task, half = TASKS["pointmaps"], prediction["points"] / 2
    found = prediction_of(
        half, np.ones(half.shape[:3]), np.zeros((*half.shape[:3], 2)), example.truth["intrinsics2"]
    )
    metrics = task.summarise([task.score(found, example)])
    assert metrics["within_5_percent"] == 0
    assert metrics["depth_rel"] == pytest.approx(0.5)
    assert metrics["scaled_within_5_percent"] == 1
    assert metrics["median_rotation_deg"] < 0.1
    moved_m = np.linalg.norm(example.truth[MOTION][:3, 3])
    assert metrics["median_translation_m"] == pytest.approx(moved_m / 2, rel=0.02)
    assert metrics["median_direction_deg"] < 0.5


def test_descriptors_that_say_nothing_and_a_pose_that_fails_score_as_bad_as_can_be(rooms):
    failed = np.full((4, 4), np.nan)
    metrics, _ = of_truth(rooms[0], matches=np.zeros((0, 2), int), **{MOTION: failed})
    assert metrics["match_recall"] == 0
    assert "match_precision" not in metrics or np.isnan(metrics["match_precision"])
    assert metrics["median_rotation_deg"] == metrics["median_direction_deg"] == 180
    assert "median_translation_m" not in metrics
    assert metrics["auc20"] == 0


@pytest.mark.parametrize(("factor", "limit"), [(1.15, 0.2), (1.3, 0.5)])
def test_pictures_of_pointmaps_show_depths_in_one_range_and_their_errors(rooms, factor, limit):
    example = rooms[0]
    prediction = of_truth(example)[1]
    points = prediction["points"] * factor
    pictures = TASKS["pointmaps"].pictures(example, {**prediction, "points": points})
    titles, shown = zip(*pictures)
    true_m = true_points(example)[..., 2]
    low, high = np.nanpercentile(true_m, (2, 98))
    np.testing.assert_array_equal(shown[:2], example.images)
    for number, name in enumerate(("first", "second")):
        here = slice(2 + 3 * number, 5 + 3 * number)
        for found_m, picture in zip((true_m[number], points[number, ..., 2]), shown[here]):
            np.testing.assert_array_equal(picture, scalar_picture(found_m, low, high))
        error = error_picture(np.full(true_m[number].shape, factor - 1), limit).astype(int)
        assert abs(shown[here][2] - error).max() <= 3
        spans = (np.nanpercentile(m[number], (2, 98)) for m in (true_m, points[..., 2]))
        assert list(titles[here]) == [
            *(
                f"{what}, {name}, {nearest:.3g} to {farthest:.3g} m"
                for what, (nearest, farthest) in zip(("truth", "prediction"), spans)
            ),
            f"relative error, {name}, to {limit:g}",
        ]


def test_pictures_of_pointmaps_show_matches_where_they_are():
    """A plane moves left by 8 px; points that left the second view are matched with its border."""
    example = planes(8)
    *_, (_, first), (_, second) = TASKS["pointmaps"].pictures(example, of_truth(example)[1])
    assert dots(first)[:, 9:].sum() > 80
    np.testing.assert_array_equal(dots(second)[:, 1:-8], dots(first)[:, 9:])
    seen = dots(first)[:, 9:]
    np.testing.assert_array_equal(second[:, 1:-8][seen], first[:, 9:][seen])


def test_pixels_of_unknown_depth_never_count_for_pointmaps(rooms):
    """What is said of them changes nothing; of an example without any, nothing is known."""
    task, example = TASKS["pointmaps"], rooms[0]
    unknown = example.truth["depth_m"].copy()
    unknown[:20] = np.nan
    _, prediction = of_truth(example)
    holes = replace(example, truth={**example.truth, "depth_m": unknown})
    wrong = prediction["points"].copy()
    wrong[0, :20] *= 3
    scores = [
        task.summarise([task.score({**prediction, "points": points}, holes)])
        for points in (prediction["points"], wrong)
    ]
    assert scores[0] == scores[1]
    assert scores[0]["within_5_percent"] == 1
    nothing = {
        name: np.full_like(example.truth[name], np.nan) for name in ("depth_m", "depth2_m", "flow")
    }
    blank = replace(example, truth={**example.truth, **nothing})
    metrics = task.summarise([task.score(prediction, blank)])
    for name in ("within_5_percent", "distance_m", "depth_delta1", "depth_rel", "match_recall"):
        assert name not in metrics or np.isnan(metrics[name])
    assert metrics["median_rotation_deg"] < 0.1


def test_the_loss_is_least_at_the_truth(rooms):
    task, example = TASKS["pointmaps"], rooms[0]
    recipe, random = replace(RECIPE, crop=(64, 64)), np.random.default_rng(0)
    batch = {n: v.unsqueeze(0) for n, v in task.sample(example, recipe, random).items()}
    oracle = Oracle(example, confidence=2.0)
    known = batch["points"].isfinite().all(-1)
    oracle.maps = torch.where(known.unsqueeze(2), oracle.maps, 1e3)  # of the rest it may say all
    least = task.loss(oracle, batch).item()
    sure = -0.2 * np.log(1 + np.exp(2.0))
    assert sure < least < sure + MATCHING_WEIGHT * 3  # codes of neighbours are nearly the same
    for channel, change in ((0, 0.2), (1, 0.2), (2, 0.2)):
        for view in (0, 1):
            off = Oracle(example)
            off.maps = oracle.maps.clone()
            off.maps[:, view, channel] += change
            assert task.loss(off, batch).item() > least + 0.02
    smaller = Oracle(example)
    smaller.maps = torch.cat([oracle.maps[:, :, :3] * 0.9, oracle.maps[:, :, 3:]], 2)
    assert task.loss(smaller, batch).item() > least + 0.1  # the scale is learnt
    swapped = Oracle(example)
    swapped.maps = oracle.maps.clone()
    swapped.maps[:, 1, 4:] = oracle.maps[:, 1, 4:].flip(-1)
    assert task.loss(swapped, batch).item() > least + MATCHING_WEIGHT


def test_the_pose_is_of_the_surer_half_of_the_points(rooms):
    """The upper half says that the room is elsewhere."""
    example = rooms[0]
    points, nothing = true_points(example), np.zeros((2, 64, 64, 1))
    points[1, :32] += (0.5, 0, 0)
    upper = np.broadcast_to(np.arange(64)[:, None] < 32, (2, 64, 64))
    moved = example.truth[MOTION].copy()
    moved[:3, 3] -= moved[:3, :3] @ (0.5, 0, 0)
    for sure, expected in ((~upper, example.truth[MOTION]), (upper, moved)):
        found = prediction_of(points, 1.0 + sure, nothing, example.truth["intrinsics2"])
        np.testing.assert_allclose(found[MOTION], expected, atol=0.005)
