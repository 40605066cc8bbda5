"""Pose and pointmaps: from folders of a few small pairs to their metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MAE, MODEL, RECIPE, judged
from synthetic import plane_pair
from tiny_images import colours
from tiny_layouts import scannet1500, seven_scenes
from torch import nn

from generation.errors import CrossviewError
from generation.geometry import Camera, invert_rigid, look_at, rotation_about_axis
from pipelines.config import build
from pipelines.executors import SerialExecutor
from pipelines.render_pairs import RenderPairsConfig, render_pairs
from training.correspondence import cameras_of
from training.downstream.colours import error_picture, scalar_picture
from training.downstream.datasets.shards import open_shards, reprojected
from training.downstream.example import Chosen, Example, Splits
from training.downstream.pointmaps import MATCHING_WEIGHT, NUM_PAIRS, prediction_of
from training.downstream.tasks import TASKS
from training.downstream.transforms import middle, mirrored, size_of
from training.downstream.two_views import (
    pixel_middles,
    pose_of_points,
    true_pairs,
    true_pixels,
    true_points,
)
from training.model.croco import ModelConfig

MOTION = "camera2_from_camera1"


@pytest.fixture(scope="module")
def splits_of(dataset, tmp_path_factory):
    """What pose is trained and judged on, by layout; nothing trains on scannet1500."""
    opened = {"shards": open_shards(dataset)}
    for write in (seven_scenes, scannet1500):
        root = tmp_path_factory.mktemp(write.__name__)
        write(root)
        opened[write.__name__] = TASKS["pose"].datasets[write.__name__](root)
    return opened


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Examples of two furnished rooms, 64 x 64 pixels."""
    config = {
        "scenes": ["procedural:0-1"],
        "num_pairs": 4,
        "pairs": {"image_size": [64, 64], "overlap": "0.4-0.8"},
        "renderer": "embree",
        "shards": {"depth": True},
    }
    folder = tmp_path_factory.mktemp("rooms")
    render_pairs(build(RenderPairsConfig, config, source="test"), folder, SerialExecutor())
    splits = open_shards(folder)
    return [part[n] for part in (splits.train, splits.val) for n in range(len(part))]


def planes(shift_px, size=36):
    """A frontal plane that moves left by shift_px."""
    view1, view2, depth_m, meta = plane_pair(np.random.default_rng(shift_px), size, shift_px)
    camera1, camera2 = cameras_of(meta)
    flow, occluded = reprojected(depth_m, depth_m, camera1, camera2)
    truth = {
        "depth_m": depth_m,
        "depth2_m": depth_m.copy(),
        "flow": flow,
        "occluded": occluded,
        "intrinsics1": camera1.intrinsics,
        "intrinsics2": camera2.intrinsics,
        MOTION: camera2.camera_from_world @ camera1.world_from_camera,
    }
    return Example(name=f"plane {shift_px}", images=(view1, view2), truth=truth)


# They run


@pytest.mark.parametrize("config", [MODEL, MAE], ids=["croco", "mae"])
@pytest.mark.parametrize(
    ("task", "layout"), [("pose", "shards"), ("pose", "seven_scenes"), ("pointmaps", "shards")]
)
def test_a_task_runs_on_a_layout(splits_of, task, layout, config):
    outcome = judged(task, splits_of[layout], config=config)
    assert outcome.fitted.num_steps == 2
    missing = {metric.name for metric in TASKS[task].metrics} - set(outcome.metrics)
    # untrained points may be so far off that no pose is found; then no translation is
    assert missing <= ({"median_translation_m"} if task == "pointmaps" else set())
    assert np.isfinite(list(outcome.metrics.values())).all()
    assert len(outcome.pictures) > 1
    for panels in outcome.pictures.values():
        (shape,) = {picture.shape for _, picture in panels}
        assert shape[2] == 3
        assert {picture.dtype for _, picture in panels} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_every_recipe_trains_and_predicts(splits_of, task):
    """But for its sizes, of images and batches, and its length, as it is."""
    for recipe in TASKS[task].recipes.values():
        short = {"resize": None, "crop": None, "max_steps": 1, "batch_size": 2}
        outcome = judged(task, splits_of["shards"], recipe=recipe, **short)
        assert outcome.fitted.num_steps == 1
        assert outcome.fitted.recipe.lr == recipe.lr
        assert np.isfinite(list(outcome.metrics.values())).all()


def test_scannet1500_judges_what_was_trained_elsewhere(splits_of):
    with pytest.raises(CrossviewError, match="pose: this dataset has no training examples"):
        judged("pose", splits_of["scannet1500"])
    untouched = judged("pose", splits_of["scannet1500"], epochs=0)
    both = Splits(train=splits_of["shards"].train, val=splits_of["scannet1500"].val)
    trained = judged("pose", both, max_steps=4)
    assert (untouched.fitted.num_steps, trained.fitted.num_steps) == (0, 4)
    names = [metric.name for metric in TASKS["pose"].metrics]
    assert list(untouched.metrics) == list(trained.metrics) == names
    assert untouched.metrics != trained.metrics


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_a_task_runs_in_bfloat16(splits_of, task):
    metrics = judged(task, splits_of["shards"], precision="bfloat16").metrics
    assert np.isfinite(list(metrics.values())).all()
    assert metrics != judged(task, splits_of["shards"]).metrics


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_a_seed_decides_the_numbers(splits_of, task):
    first, again, other = (
        judged(task, splits_of["shards"], seed=seed, jitter=0.4, drop_path=0.2).metrics
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_every_recipe_fits_the_published_model(task):
    recipes = TASKS[task].recipes
    assert {"short", "published"} <= set(recipes)
    for recipe in recipes.values():
        assert recipe.for_model(ModelConfig()).crop == (224, 224)


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_two_poses_have_no_mean(splits_of, task):
    with pytest.raises(CrossviewError, match=rf"{task}: flip_test"):
        judged(task, splits_of["shards"], flip_test=True)


def test_a_mirrored_pair_shows_a_mirrored_space(splits_of):
    """The reprojection of mirrored cameras and depth is the mirrored flow."""
    example = splits_of["shards"].val[0]
    other = mirrored(example)
    height, width = size_of(example)
    rows, columns = np.mgrid[:height, :width] + 0.5
    truth = other.truth
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(truth["intrinsics1"]).T
    pose = truth["camera2_from_camera1"]
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    points = (rays * truth["depth_m"][..., None]) @ pose[:3, :3].T + pose[:3, 3]
    pixels = points @ truth["intrinsics2"].T
    flow = pixels[..., :2] / pixels[..., 2:] - np.stack([columns, rows], -1)
    known = np.isfinite(truth["flow"])
    assert known.any()
    np.testing.assert_allclose(flow[known], truth["flow"][known], atol=0.05)
    twice = mirrored(other).truth
    for name, value in example.truth.items():
        np.testing.assert_array_equal(twice[name], value)


# They learn: the pairs that they are trained on, for so few say nothing about others


def some(splits, numbers):
    few = Chosen(splits.train, numbers)
    return Splits(train=few, val=few)


def test_pose_learns_how_far_cameras_are_apart(splits_of):
    """Up to 24 of 36 pixels: 1.5 m."""
    few = some(splits_of["shards"], [0, 2, 3, 4])
    before = judged("pose", few, epochs=0).metrics
    after = judged("pose", few, max_steps=50, batch_size=4, lr=1e-3).metrics
    assert after["median_translation_m"] < 0.15 < 0.5 * before["median_translation_m"]
    assert after["median_rotation_deg"] < 3


@pytest.mark.slow
def test_pointmaps_learn_points_and_descriptors(splits_of):
    few = some(splits_of["shards"], [0, 3])
    before = judged("pointmaps", few, epochs=0).metrics
    after = judged("pointmaps", few, max_steps=80, batch_size=2, lr=3e-3).metrics
    assert after["distance_m"] < 0.2 * before["distance_m"]
    assert before["within_5_percent"] < 0.02 < 0.2 < after["within_5_percent"]
    assert after["depth_rel"] < 0.15 < before["depth_rel"]
    assert before["match_recall"] < 0.1 < 0.25 < after["match_recall"]


# The truth scores best


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


def dots(picture):
    """Where a picture of dots has colours: all else is grey."""
    return (picture != picture[..., :1]).any(-1)


@pytest.mark.parametrize("shift_px", [0, 8])
def test_pictures_of_poses_show_points_where_each_pose_puts_them(shift_px):
    """A frontal plane moves left by 8 px; the prediction is the truth, or that nothing moved."""
    example = planes(8)
    found = example.truth[MOTION] if shift_px else np.eye(4)
    panels = dict(TASKS["pose"].pictures(example, {MOTION: found}))
    titles = ["first", "truth in the second", "prediction", "error to 4.5 px"]
    assert list(panels) == titles
    first, truth, prediction, error = panels.values()
    np.testing.assert_array_equal(dots(truth)[:, :-8], dots(first)[:, 8:])
    if shift_px:
        np.testing.assert_array_equal(prediction, truth)
        assert (error == error_picture(np.zeros((36, 36)), 1)).all()
    else:
        np.testing.assert_array_equal(dots(prediction), dots(first))
        assert (error == error_picture(np.full((36, 36), 8), 4.5)).all()


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_pictures_of_pointmaps_show_depths_in_one_range_and_their_errors(rooms, factor):
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
        error = error_picture(np.full(true_m[number].shape, factor - 1), 0.25).astype(int)
        assert abs(shown[here][2] - error).max() <= 3
        spans = (np.nanpercentile(m[number], (2, 98)) for m in (true_m, points[..., 2]))
        assert list(titles[here]) == [
            *(
                f"{what}, {name}, {nearest:.3g} to {farthest:.3g} m"
                for what, (nearest, farthest) in zip(("truth", "prediction"), spans)
            ),
            f"relative error to 0.25, {name}",
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


# What is true of two views


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


# Crops


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
