"""Metrics by hand, by their symmetries, and by torchmetrics where it has them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torchmetrics.functional import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    weighted_mean_absolute_percentage_error,
)
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from generation.errors import CrossviewError
from generation.geometry import rotation_about_axis
from training.downstream.metrics import (
    averaged,
    class_iou,
    classification_scores,
    confusion_matrix,
    correspondence_scores,
    depth_scores,
    disparity_scores,
    endpoint_errors,
    error_auc,
    flow_scores,
    matching_scores,
    mean_rank,
    median_scaled_points,
    mutual_matches,
    normal_scores,
    pointmap_scores,
    pose_scores,
    pose_summary,
    regression_scores,
    segmentation_summary,
)

NAN = float("nan")


def rng():
    return np.random.default_rng(0)


def with_holes(values):
    """Return a copy with a third of the pixels, all their channels, unknown."""
    holes = rng().random(values.shape[:2]) < 1 / 3
    values = values.copy()
    values[holes] = NAN
    return values, holes


def floats(scores):
    return {name: float(value) for name, value in scores.items()}


def rigid(rotation=None, translation=(0, 0, 0)):
    transform = np.eye(4)
    transform[:3, :3] = np.eye(3) if rotation is None else rotation
    transform[:3, 3] = translation
    return transform


# Of all dense metrics

DENSE = {
    "depth": (depth_scores, (6, 8)),
    "points": (pointmap_scores, (6, 8, 3)),
    "flow": (flow_scores, (6, 8, 2)),
    "disparity": (disparity_scores, (6, 8)),
    "normal": (normal_scores, (6, 8, 3)),
    "map": (regression_scores, (6, 8, 2)),
    "correspondence": (partial(correspondence_scores, limits_px={"pck": 2}), (48, 2)),
}
dense = pytest.mark.parametrize(("score", "shape"), DENSE.values(), ids=DENSE)


@dense
def test_unknown_pixels_never_count(score, shape):
    truth, holes = with_holes(rng().uniform(1, 9, shape))
    if len(shape) == 2 and shape[1] == 2:  # (N, 2) points
        holes = np.isnan(truth).any(1)
    predicted = truth + rng().normal(0, 0.5, shape)
    predicted[holes] = rng().choice([NAN, np.inf, 1e30, 0], predicted[holes].shape)
    whole, known = score(predicted, truth), score(predicted[~holes], truth[~holes])
    assert holes.any()
    assert whole == known
    assert all(math.isfinite(value) for value in whole.values())


@dense
def test_nothing_known_is_nan_everywhere(score, shape):
    scores = score(np.ones(shape), np.full(shape, NAN))
    assert scores
    assert all(math.isnan(value) for value in scores.values())


@dense
def test_a_perfect_prediction_has_no_error_and_all_shares(score, shape):
    truth = rng().uniform(1, 9, shape)
    good = ("delta", "within", "pck")
    for name, value in score(truth, truth).items():
        assert value == pytest.approx(1.0 if name.startswith(good) else 0.0, abs=1e-6), name


@dense
def test_shapes_that_differ_are_both_named(score, shape):
    wrong = (shape[0] + 1, *shape[1:])
    with pytest.raises(CrossviewError) as error:
        score(np.ones(wrong), np.ones(shape))
    assert str(wrong) in str(error.value)
    assert str(shape) in str(error.value)


@dense
def test_a_prediction_that_is_not_finite_where_the_truth_is_known_is_an_error(score, shape):
    predicted = np.ones(shape)
    predicted[0, 0] = np.inf
    with pytest.raises(CrossviewError, match="not finite"):
        score(predicted, np.ones(shape))


def test_vectors_must_have_their_number_of_channels():
    with pytest.raises(CrossviewError, match=r"expected \(\.\.\., 2\)"):
        flow_scores(np.ones((4, 4, 3)), np.ones((4, 4, 3)))
    with pytest.raises(CrossviewError, match="mask of flow"):
        flow_scores(np.ones((4, 4, 2)), np.ones((4, 4, 2)), np.ones((4, 3), bool))


# Depth


def test_depth_scores_by_hand():
    truth = np.array([[1.0, 2.0, 4.0, 10.0, NAN, 0.0]])
    predicted = np.array([[1.0, 1.0, 5.2, 14.0, 1.0, 1.0]])  # ratios 1, 2, 1.3, 1.4
    scores = depth_scores(predicted, truth)
    assert scores["delta1"] == 0.25
    assert scores["delta2"] == 0.75
    assert scores["delta3"] == 0.75
    assert scores["rel"] == pytest.approx((0 + 0.5 + 0.3 + 0.4) / 4)
    assert scores["rmse_m"] == pytest.approx(math.sqrt((0 + 1 + 1.44 + 16) / 4))


def test_a_ratio_of_exactly_the_limit_is_not_below_it():
    scores = depth_scores(np.array([1.25]), np.array([1.0]))
    assert (scores["delta1"], scores["delta2"]) == (0.0, 1.0)


def test_depths_of_zero_and_less_count_as_a_millimetre():
    truth = np.full(3, 2.0)
    scores = depth_scores(np.array([0.0, -5.0, 1e-3]), truth)
    assert scores == depth_scores(np.full(3, 1e-3), truth)
    assert scores["delta3"] == 0
    assert scores["rmse_m"] == pytest.approx(1.999)


def test_depth_ratios_are_symmetric():
    first, second = rng().uniform(1, 9, (2, 50))
    one, other = depth_scores(first, second), depth_scores(second, first)
    for name in ("delta1", "delta2", "delta3", "rmse_m"):
        assert one[name] == pytest.approx(other[name]), name


def test_depth_scores_are_those_of_torchmetrics():
    truth, predicted = rng().uniform(1, 9, (2, 6, 8))
    p, t = torch.from_numpy(predicted), torch.from_numpy(truth)
    scores = depth_scores(predicted, truth)
    assert scores["rel"] == pytest.approx(float(mean_absolute_percentage_error(p, t)))
    assert scores["rmse_m"] == pytest.approx(float(mean_squared_error(p, t, squared=False)))


# Points in space


def test_pointmap_scores_by_hand():
    truth = np.array([[0, 0, 2.0], [3, 0, 4.0], [NAN, 0, 1]])
    predicted = np.array([[0, 0, 2.08], [3, 1.0, 4.0], [9, 9, 9]])
    scores = pointmap_scores(predicted, truth)
    assert scores["distance_m"] == pytest.approx((0.08 + 1) / 2)
    assert scores["within_5_percent"] == 0.5
    near = pointmap_scores(truth * [1, 1, 1.049], truth)  # 4.9 % and 3.9 %
    assert near["within_5_percent"] == 1
    far = pointmap_scores(truth * [1, 1, 1.051], truth)  # 5.1 % and 4.1 %
    assert far["within_5_percent"] == 0.5


def test_median_scaling_makes_scaled_points_perfect():
    truth, holes = with_holes(rng().normal(0, 3, (6, 8, 3)))
    scaled = median_scaled_points(np.where(np.isnan(truth), 5, truth * 40), truth)
    np.testing.assert_allclose(scaled[~holes], truth[~holes])


# Labels


def test_a_confusion_matrix_by_hand():
    truth = np.array([[0, 0, 1], [2, -1, 1]])
    predicted = np.array([[0, 1, 1], [0, 2, 1]])
    counts = confusion_matrix(predicted, truth, 4)
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[0, 1] = expected[2, 0] = 1
    expected[1, 1] = 2
    np.testing.assert_array_equal(counts, expected)
    # class 0: 1 of 3; 1: 2 of 3; 2: 0 of 1; 3 is nowhere
    np.testing.assert_allclose(class_iou(counts), [1 / 3, 2 / 3, 0, NAN])
    assert segmentation_summary(counts) == pytest.approx({"miou": 1 / 3, "pixel_accuracy": 3 / 5})


def test_segmentation_is_that_of_torchmetrics_over_all_images():
    truth = rng().integers(-1, 5, (3, 10, 12))  # classes 5 and 6 are never there
    predicted = np.where(rng().random(truth.shape) < 0.5, truth.clip(0), (truth + 1) % 5)
    counts = sum(confusion_matrix(p, t, 7) for p, t in zip(predicted, truth))
    p, t = torch.from_numpy(predicted), torch.from_numpy(truth)
    theirs = multiclass_confusion_matrix(p, t, 7, ignore_index=-1)
    np.testing.assert_array_equal(counts, theirs.numpy())
    summary = segmentation_summary(counts)
    miou = multiclass_jaccard_index(p, t, 7, ignore_index=-1)
    assert summary["miou"] == pytest.approx(float(miou), rel=1e-6)
    accuracy = multiclass_accuracy(p, t, 7, average="micro", ignore_index=-1)
    assert summary["pixel_accuracy"] == pytest.approx(float(accuracy), rel=1e-6)


def test_no_known_label_gives_no_segmentation():
    counts = confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), -1), 3)
    assert all(map(math.isnan, segmentation_summary(counts).values()))


def test_classes_beyond_the_last_are_an_error():
    good, bad = np.array([0, 1]), np.array([0, 3])
    with pytest.raises(CrossviewError, match="predicted classes are 0 to 3: expected 0 to 2"):
        confusion_matrix(bad, good, 3)
    with pytest.raises(CrossviewError, match="true classes are 0 to 3"):
        confusion_matrix(good, bad, 3)
    with pytest.raises(CrossviewError, match=r"predicted \(2,\), truth \(3,\)"):
        confusion_matrix(good, np.array([0, 1, 2]), 3)


def test_classification_by_hand():
    logits = np.array([9.0, 8, 7, 6, 5, 4, 3])
    ranks = [classification_scores(logits, np.asarray(label)) for label in range(7)]
    assert [float(each["top1"]) for each in ranks] == [1, 0, 0, 0, 0, 0, 0]
    assert [float(each["top5"]) for each in ranks] == [1, 1, 1, 1, 1, 0, 0]
    assert math.isnan(classification_scores(logits, np.asarray(-1))["top1"])
    same = classification_scores(np.zeros((3, 7)), np.array([0, 1, 6]))
    assert same == {"top1": 0, "top5": 0}
    with pytest.raises(CrossviewError, match=r"\(3, 7\), labels \(2,\)"):
        classification_scores(np.zeros((3, 7)), np.array([0, 1]))


def test_classification_is_that_of_torchmetrics():
    logits, labels = rng().normal(size=(200, 12)), rng().integers(0, 12, 200)
    scores = classification_scores(logits, labels)
    for name, k in (("top1", 1), ("top5", 5)):
        theirs = multiclass_accuracy(
            torch.from_numpy(logits), torch.from_numpy(labels), 12, average="micro", top_k=k
        )
        assert scores[name] == pytest.approx(float(theirs), rel=1e-6)


# Motion and disparity


def test_flow_scores_by_hand():
    truth = np.zeros((1, 5, 2))
    truth[0, 1] = 100, 0  # an error of 4 px is above 3 px, but not above 5 %
    truth[0, 2] = 60, 0  # here above both
    truth[0, 4] = NAN, 0
    predicted = np.nan_to_num(truth) + [[[0.6, 0.8], [0, 4], [0, 4], [0, 0], [50, 50]]]
    np.testing.assert_allclose(endpoint_errors(predicted, truth), [[1, 4, 4, 0, NAN]])
    scores = flow_scores(predicted, truth)
    assert scores["epe_px"] == pytest.approx(9 / 4)
    assert scores["fl_all"] == 1 / 4
    assert scores["within_1px"] == 2 / 4
    visible = np.array([[True, True, False, False, True]])
    assert flow_scores(predicted, truth, visible) == pytest.approx(
        {"epe_px": 5 / 2, "fl_all": 0, "within_1px": 1 / 2}
    )


def test_the_epe_does_not_change_with_the_axes_of_the_image():
    truth, predicted = rng().normal(0, 9, (2, 6, 8, 2))
    turn = rotation_about_axis(2, 0.7)[:2, :2]
    turned = flow_scores(predicted @ turn.T, truth @ turn.T)
    assert turned == pytest.approx(floats(flow_scores(predicted, truth)))


def test_disparity_scores_by_hand():
    truth = np.array([[10.0, 10, 10, 100, 80, NAN]])
    predicted = truth + [[1.0, -1.9, 4, -4.5, 4.5, 0]]
    assert disparity_scores(predicted, truth) == pytest.approx(
        {"epe_px": 15.9 / 5, "bad1": 4 / 5, "bad2": 3 / 5, "d1": 2 / 5}
    )
    seen = np.array([[True, True, False, False, False, True]])
    assert disparity_scores(predicted, truth, seen) == pytest.approx(
        {"epe_px": 2.9 / 2, "bad1": 1 / 2, "bad2": 0, "d1": 0}
    )


def test_errors_at_half_size_count_twice():
    """Of 2.4, 0.6 and 0.4 px; 2.4 px are 4 % of the truth at any size."""
    truth = np.array([[60.0, 5, 5]])
    half = disparity_scores(truth + [[2.4, -0.6, 0.4]], truth, scale=2)
    assert half == pytest.approx({"epe_px": 6.8 / 3, "bad1": 2 / 3, "bad2": 1 / 3, "d1": 0})


# Correspondence and matching


def test_correspondence_scores_by_hand():
    truth = np.array([[0.0, 0], [5, 5], [9, 9], [NAN, NAN]])
    predicted = truth + [[3, 4], [0, 1], [2, 0], [0, 0]]  # 5, 1, 2 px
    predicted[3] = 1
    limits_px = {"pck_1px": 1.0, "pck_3px": 3.0, "pck_5px": 5.0}
    assert correspondence_scores(predicted, truth, limits_px) == pytest.approx(
        {"epe_px": 8 / 3, "pck_1px": 1 / 3, "pck_3px": 2 / 3, "pck_5px": 1}
    )


def test_mutual_matches_are_those_of_a_slow_search():
    first, second = rng().normal(size=(30, 4)), rng().normal(size=(20, 4))
    expected = [
        (i, j)
        for i in range(30)
        for j in range(20)
        if all(first[i] @ second[j] >= first[k] @ second[j] for k in range(30))
        and all(first[i] @ second[j] >= first[i] @ second[k] for k in range(20))
    ]
    assert 0 < len(expected) < 20
    assert mutual_matches(first, second).tolist() == [list(pair) for pair in expected]
    swapped = mutual_matches(second, first)
    assert sorted((i, j) for j, i in swapped.tolist()) == expected
    assert mutual_matches(first[:0], second).shape == (0, 2)


def test_shuffled_descriptors_match_themselves():
    points = rng().uniform(0, 90, (25, 2))
    descriptors = rng().normal(size=(25, 16))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = rng().permutation(25)
    matches = mutual_matches(descriptors, descriptors[order])
    scores = matching_scores(matches, points[order], points)
    assert scores == {"match_precision": 1, "match_recall": 1}


def test_matching_scores_by_hand():
    truth = np.array([[0.0, 0], [10, 0], [20, 0], [NAN, NAN], [40, 0]])
    points2 = np.array([[0.0, 3], [10, 4], [30, 0], [40, 0]])
    matches = np.array([[0, 0], [1, 1], [3, 2], [4, 3]])  # right, 4 px off, unknown, right
    assert matching_scores(matches, points2, truth) == {
        "match_precision": 2 / 3,
        "match_recall": 2 / 4,
    }
    none = matching_scores(np.zeros((0, 2), np.int64), points2, truth)
    assert math.isnan(none["match_precision"])
    assert none["match_recall"] == 0
    unknown = matching_scores(matches, points2, np.full((5, 2), NAN))
    assert all(map(math.isnan, unknown.values()))


# Pose


@pytest.mark.parametrize("angle_deg", [0, 1e-5, 0.1, 30, 90, 179.9, 180])
def test_the_rotation_error_is_the_angle_from_0_to_180(angle_deg):
    base = rotation_about_axis(0, 0.4) @ rotation_about_axis(1, 2.0)
    predicted = rigid(base @ rotation_about_axis(2, math.radians(angle_deg)), (1, 2, 3))
    scores = pose_scores(predicted, rigid(base, (1, 2, 0.5)))
    assert scores["rotation_deg"] == pytest.approx(angle_deg, rel=1e-7, abs=1e-9)
    assert scores["translation_m"] == pytest.approx(2.5)


def test_the_direction_of_a_translation_has_a_sign_and_no_length():
    true = rigid(translation=(0, 0, 2.0))
    directions = {(0, 0, 7): 0, (0, 0, -1): 180, (3, 0, 0): 90, (0, 1, 1): 45, (0, 0, 0): 180}
    for translation, angle_deg in directions.items():
        scores = pose_scores(rigid(translation=translation), true)
        assert scores["direction_deg"] == pytest.approx(angle_deg), translation
    assert math.isnan(pose_scores(true, rigid())["direction_deg"])
    assert pose_scores(true, rigid())["translation_m"] == 2


def test_a_pose_that_failed_counts_as_wrong_and_an_unknown_one_not_at_all():
    predicted = np.stack([rigid(), np.full((4, 4), NAN), rigid()])
    truth = np.stack([rigid(translation=(1, 0, 0))] * 2 + [np.full((4, 4), NAN)])
    scores = pose_scores(predicted, truth)
    np.testing.assert_array_equal(scores["rotation_deg"], [0, 180, NAN])
    np.testing.assert_array_equal(scores["translation_m"], [1, np.inf, NAN])
    np.testing.assert_array_equal(scores["direction_deg"], [180, 180, NAN])
    unknown = np.full((4, 4), NAN)
    assert all(map(math.isnan, pose_scores(unknown, unknown).values()))


def test_pose_errors_do_not_change_with_the_frame_of_the_first_camera():
    turn = rigid(rotation_about_axis(1, 1.0) @ rotation_about_axis(2, 0.3))
    predicted = rigid(rotation_about_axis(0, 0.2), (1, 0.5, 0))
    truth = rigid(rotation_about_axis(1, 0.1), (1, 0, 0.2))
    assert pose_scores(turn @ predicted, turn @ truth) == pytest.approx(
        floats(pose_scores(predicted, truth))
    )


def test_the_auc_of_errors_by_hand():
    # (0, 0), (2, 1/4), (6, 2/4), then level to 10: 0.25 + 1.5 + 2, over 10
    assert error_auc(np.array([6.0, 2.0, 20.0, np.inf, NAN]), 10) == pytest.approx(0.375)
    # to 5: (0, 0), (2, 1/4), level
    assert error_auc(np.array([6.0, 2.0, 20.0, np.inf]), 5) == pytest.approx((0.25 + 0.75) / 5)
    assert error_auc(np.zeros(3), 5) == 1
    assert error_auc(np.full(3, np.inf), 5) == 0
    assert math.isnan(error_auc(np.full(3, NAN), 5))


def test_the_auc_of_many_errors_is_the_mean_share_below():
    errors = rng().exponential(8, 4000)
    shares = [np.mean(errors <= e) for e in np.linspace(0, 20, 2001)]
    assert error_auc(errors, 20) == pytest.approx(np.mean(shares), abs=1e-3)


def test_the_summary_of_poses_takes_the_worse_angle():
    summary = pose_summary(
        np.array([1.0, 2.0, 9.0, NAN]),
        np.array([0.1, 0.3, np.inf, NAN]),
        np.array([3.0, NAN, 2.0, NAN]),
    )
    assert summary["median_rotation_deg"] == 2
    assert summary["median_translation_m"] == 0.3
    assert summary["median_direction_deg"] == 2.5
    assert summary["auc10"] == pytest.approx(error_auc(np.array([3.0, 2.0, 9.0]), 10))
    assert 0 < summary["auc5"] < summary["auc10"] < summary["auc20"] < 1
    nothing = np.full(2, NAN)
    assert all(map(math.isnan, pose_summary(nothing, nothing, nothing).values()))


# Other dense maps


def test_normal_scores_by_hand():
    truth = np.tile([0.0, 0, 3], (6, 1))
    truth[4], truth[5] = NAN, 0
    angles = np.radians([0, 20, 25, 100])
    predicted = np.ones((6, 3))
    predicted[:4] = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], 1) * 5
    assert normal_scores(predicted, truth) == pytest.approx(
        {
            "mean_deg": 145 / 4,
            "median_deg": 22.5,
            "within_11.25deg": 1 / 4,
            "within_22.5deg": 2 / 4,
            "within_30deg": 3 / 4,
        }
    )
    assert normal_scores(np.zeros((1, 3)), truth[:1])["mean_deg"] == 180
    assert normal_scores(-truth[:4], truth[:4])["mean_deg"] == 180


def test_regression_scores_are_those_of_torchmetrics():
    truth, predicted = rng().normal(size=(2, 6, 8, 3))
    p, t = torch.from_numpy(predicted).flatten(), torch.from_numpy(truth).flatten()
    theirs = {
        "l1": mean_absolute_error(p, t),
        "relative_l1": weighted_mean_absolute_percentage_error(p, t),
        "rmse": mean_squared_error(p, t, squared=False),
    }
    assert regression_scores(predicted, truth) == pytest.approx(
        {name: float(value) for name, value in theirs.items()}
    )


def test_regression_scores_by_hand():
    scores = regression_scores(np.array([1.0, 0, 5, 9]), np.array([2.0, 2, 5, NAN]))
    assert scores == pytest.approx({"l1": 1, "relative_l1": 3 / 9, "rmse": math.sqrt(5 / 3)})
    assert math.isnan(regression_scores(np.ones(3), np.zeros(3))["relative_l1"])


# Over examples and models


def test_means_over_examples_leave_out_what_is_unknown():
    scores = [
        {"a": np.array(1.0), "b": np.array(NAN), "num_px": np.array(30.0)},
        {"a": np.array(4.0), "b": np.array(NAN), "num_px": np.array(10.0)},
        {"a": np.array(NAN), "c": np.array(5.0), "num_px": np.array(0.0)},
    ]
    means = averaged(scores)
    assert (means["a"], means["c"]) == (2.5, 5)
    assert math.isnan(means["b"])
    weighted = averaged(scores, weight="num_px")
    assert weighted["a"] == (30 * 1 + 10 * 4) / 40
    assert math.isnan(weighted["c"])  # no pixel speaks for it
    assert "num_px" not in weighted
    assert averaged([]) == {}


def test_weighted_means_are_those_over_all_pixels():
    truth, predicted = rng().normal(0, 3, (2, 3, 6, 8, 2))
    truth[0, :5] = truth[1, :2] = NAN
    scores = [
        {**flow_scores(p, t), "num_px": np.isfinite(t).all(-1).sum()}
        for p, t in zip(predicted, truth)
    ]
    pooled = floats(flow_scores(predicted, truth))
    assert averaged(scores, weight="num_px") == pytest.approx(pooled)


def test_mean_ranks_by_hand():
    table = [[0.9, 3.0, 5.0], [0.8, 1.0, 5.0], [0.8, 2.0, 6.0]]
    # higher better: 1, 2.5, 2.5; lower better: 3, 1, 2; 1.5, 1.5, 3
    ranks = mean_rank(table, [True, False, False])
    np.testing.assert_allclose(ranks, [5.5 / 3, 5 / 3, 7.5 / 3])
    assert ranks.sum() == pytest.approx(6)


def test_a_task_that_a_model_lacks_ranks_nobody():
    table = [[1.0, 9.0], [2.0, NAN], [3.0, 8.0]]
    np.testing.assert_allclose(mean_rank(table, [False, False]), [1, 2, 3])
    assert np.isnan(mean_rank([[NAN], [1.0]], [True])).all()
    with pytest.raises(CrossviewError, match=r"\(3, 2\).*\(3,\)"):
        mean_rank(table, [True, True, True])
