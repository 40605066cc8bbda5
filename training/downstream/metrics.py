"""Metrics of all tasks, in plain numpy.

What is predicted comes first, what is true second. Only pixels whose truth is known count: finite
in maps of floats, not -1 in labels. A metric of which nothing is known is NaN. Shares are 0 to 1.
Shapes that do not go together raise CrossviewError, as do predictions that are not finite where the
truth is known; a pose may be, and has then failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generation.errors import CrossviewError
from generation.geometry import Bool, Float64
from training.downstream.example import UNKNOWN_LABEL

Scores = dict[str, Float64]
"""What one example adds to the metrics: () by name."""
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

MIN_DEPTH_M = 1e-3
"""Smaller and negative predictions count as this."""
DEPTH_RATIOS = {"delta1": 1.25, "delta2": 1.25**2, "delta3": 1.25**3}
NORMAL_LIMITS_DEG = (11.25, 22.5, 30.0)
AUC_LIMITS_DEG = (5.0, 10.0, 20.0)
MATCH_LIMIT_PX = 3.0
"""A match that is at most so far off is right."""


# Depth


def depth_scores(predicted_m: Floats, truth_m: Floats) -> Scores:
    """Score a depth map.

    delta1, delta2, delta3: share of pixels with max(p / t, t / p) below 1.25, its square and cube.
    rel: mean |p - t| / t. rmse_m. A truth of 0 or less is unknown; predictions below MIN_DEPTH_M
    are raised to it. Source: Eigen et al. 2014, arXiv:1406.2283.
    """
    predicted, truth = _known("depth", predicted_m, truth_m, truth_m > 0)
    predicted = np.maximum(predicted, MIN_DEPTH_M)
    ratios = np.maximum(predicted / truth, truth / predicted)
    return {
        **{name: _mean(ratios < limit) for name, limit in DEPTH_RATIOS.items()},
        "rel": _mean(np.abs(predicted - truth) / truth),
        "rmse_m": np.sqrt(_mean((predicted - truth) ** 2)),
    }


# Points in space


def pointmap_scores(predicted_m: Floats, truth_m: Floats) -> Scores:
    """Score (..., 3) points in the first camera's frame.

    distance_m: mean distance of a point to the true one. within_5_percent: share of points for
    which that is at most 0.05 of the true point's distance to the camera. For a prediction known up
    to scale, score median_scaled_points.
    """
    predicted, truth = _known("points", predicted_m, truth_m, channels=3)
    distances = _length(predicted - truth)
    return {
        "distance_m": _mean(distances),
        "within_5_percent": _mean(_divide(distances, _length(truth)) <= 0.05),
    }


def median_scaled_points(predicted: Floats, truth: Floats) -> Floats:
    """Return (..., 3) points times the factor that gives them the true median distance to 0."""
    points, true_points = _known("points", predicted, truth, channels=3)
    return predicted * _median_ratio(_length(true_points), _length(points))


# Labels


def confusion_matrix(predicted: Integers, truth: Integers, num_classes: int) -> Float64:
    """Return (C, C) counts of pixels by true class (row) and predicted class (column).

    Raises CrossviewError for classes outside 0 to C - 1, but for the truth's -1, unknown.
    """
    _require_one_shape("classes", predicted, truth)
    known = truth != UNKNOWN_LABEL
    predicted, truth = predicted[known].astype(np.int64), truth[known].astype(np.int64)
    for name, classes in (("predicted", predicted), ("true", truth)):
        if classes.size and (classes.min() < 0 or classes.max() >= num_classes):
            raise CrossviewError(
                f"{name} classes are {classes.min()} to {classes.max()}: expected 0 to "
                f"{num_classes - 1}; give the dataset's number of classes"
            )
    counts = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.float64)


def class_iou(confusion: Float64) -> Float64:
    """Return (C,) intersections over unions, NaN for classes neither true nor predicted."""
    both = np.diagonal(confusion)
    return _divide(both, confusion.sum(0) + confusion.sum(1) - both)


def segmentation_summary(confusion: Float64) -> dict[str, float]:
    """Return miou and pixel_accuracy from a (C, C) confusion matrix, or the sum of many.

    miou is the mean over the classes that are true or predicted somewhere.
    """
    iou = class_iou(confusion)
    return {
        "miou": float(_mean(iou[~np.isnan(iou)])),
        "pixel_accuracy": float(_divide(np.trace(confusion), confusion.sum())),
    }


def classification_scores(logits: Floats, label: Integers) -> Scores:
    """Return top1 and top5, the shares of images whose class is among the 1 and 5 likeliest.

    logits: (..., C), of one image or many; label: (...). A class with the same logit as the true
    one is put before it, so that giving all classes the same is never right.
    """
    label = np.asarray(label)
    if logits.shape[:-1] != label.shape:
        raise CrossviewError(
            f"class: logits {logits.shape}, labels {label.shape}: expected (..., C) and (...)"
        )
    known = label != UNKNOWN_LABEL
    logits, label = logits[known], label[known]
    _require_finite("class", logits)
    own = np.take_along_axis(logits, label[:, None].astype(np.int64), 1)
    rank = (logits >= own).sum(1)
    return {"top1": _mean(rank <= 1), "top5": _mean(rank <= 5)}


# Motion and disparity


def endpoint_errors(predicted_px: Floats, truth_px: Floats) -> Float64:
    """Return the (...) distances between (..., 2) vectors or points, NaN where unknown."""
    _require_one_shape("flow", predicted_px, truth_px, channels=2)
    return _length(predicted_px.astype(np.float64) - truth_px)


def flow_scores(predicted_px: Floats, truth_px: Floats, mask: Bool | None = None) -> Scores:
    """Score an (H, W, 2) optical flow.

    epe_px: mean distance between the ends of both vectors. fl_all: share of pixels where it is
    above 3 px and above 5 % of the true length (KITTI 2015). within_1px: share where it is at most
    1 px. mask: (H, W), the pixels to count, as those that are not occluded.
    """
    predicted, truth = _known("flow", predicted_px, truth_px, mask, channels=2)
    errors = _length(predicted - truth)
    return {
        "epe_px": _mean(errors),
        "fl_all": _mean(_outliers(errors, _length(truth))),
        "within_1px": _mean(errors <= 1),
    }


def disparity_scores(
    predicted_px: Floats, truth_px: Floats, mask: Bool | None = None, scale: float = 1
) -> Scores:
    """Score an (H, W) disparity.

    epe_px: mean absolute error. bad1, bad2: share of pixels where it is above 1 and 2 px. d1: share
    where it is above 3 px and above 5 % of the truth (KITTI 2015). mask: the pixels to count.
    scale: the size in which the errors count over that of the map.
    """
    predicted, truth = _known("disparity", predicted_px, truth_px, mask)
    errors, truth = scale * np.abs(predicted - truth), scale * truth
    return {
        "epe_px": _mean(errors),
        "bad1": _mean(errors > 1),
        "bad2": _mean(errors > 2),
        "d1": _mean(_outliers(errors, np.abs(truth))),
    }


def _outliers(errors_px: Float64, lengths_px: Float64) -> Bool:
    return (errors_px > 3) & (errors_px > 0.05 * lengths_px)


# Correspondence and matching


def correspondence_scores(
    predicted_px: Floats, truth_px: Floats, limits_px: Mapping[str, float]
) -> Scores:
    """Score (N, 2) points that were found for points of another image.

    epe_px: mean distance to the true ones. Beside it, by the names in limits_px, the share of
    points that are at most so far off (PCK).
    """
    predicted, truth = _known("points", predicted_px, truth_px, channels=2)
    errors = _length(predicted - truth)
    return {
        "epe_px": _mean(errors),
        **{name: _mean(errors <= limit) for name, limit in limits_px.items()},
    }


def mutual_matches(descriptors1: Floats, descriptors2: Floats) -> NDArray[np.int64]:
    """Return the (K, 2) rows of (N, D) and (M, D) descriptors that are each other's nearest.

    Nearest is the largest inner product: give unit vectors. Takes N x M floats of memory.
    """
    if descriptors1.ndim != 2 or descriptors1.shape[1:] != descriptors2.shape[1:]:
        raise CrossviewError(
            f"descriptors of {descriptors1.shape} and {descriptors2.shape}: expected (N, D), (M, D)"
        )
    if not len(descriptors1) or not len(descriptors2):
        return np.zeros((0, 2), np.int64)
    similarities = descriptors1 @ descriptors2.T
    second, first = similarities.argmax(1), similarities.argmax(0)
    rows = np.flatnonzero(first[second] == np.arange(len(descriptors1)))
    return np.stack([rows, second[rows]], 1)


def matching_scores(matches: NDArray[np.int64], points2_px: Floats, truth_px: Floats) -> Scores:
    """Score (K, 2) matches of a row of truth_px with a row of points2_px.

    points2_px: (M, 2) points of the second image that could be matched. truth_px: (N, 2) where the
    second image shows the points of the first, NaN where that is unknown; these never count.
    match_precision: share of the matches that are at most MATCH_LIMIT_PX off. match_recall: share
    of the points of the first image that have such a match.
    """
    for points in (points2_px, truth_px):
        if points.ndim != 2 or points.shape[1] != 2:
            raise CrossviewError(f"points of {points.shape}: expected (N, 2)")
    first, second = matches.T
    errors = _length(points2_px[second].astype(np.float64) - truth_px[first])
    errors = errors[np.isfinite(errors)]
    num_known = np.isfinite(truth_px).all(1).sum()
    return {
        "match_precision": _mean(errors <= MATCH_LIMIT_PX),
        "match_recall": _divide((errors <= MATCH_LIMIT_PX).sum(), num_known),
    }


# Pose


def pose_scores(predicted: Float64, truth: Float64) -> Scores:
    """Return the errors of (..., 4, 4) rigid transforms, in metres, each of shape (...).

    rotation_deg: angle of the rotation between both. translation_m: distance of both translations;
    that of camera centres where the transforms are world_from_camera. direction_deg: angle between
    both translations, 0 to 180: the opposite direction is 180, not 0. A true translation of zero
    (at most 1 micrometre) has no direction: NaN. A predicted one counts as 180. So do rotation and
    direction of a prediction that is not finite, as where PnP fails; its translation_m is infinite.
    All are NaN where the truth is.
    """
    _require_one_shape("pose", predicted, truth)
    if truth.shape[-2:] != (4, 4):
        raise CrossviewError(f"pose: found {truth.shape}, expected (..., 4, 4)")
    failed: Bool = np.asarray(~np.isfinite(predicted).all((-2, -1)))
    predicted = np.where(failed[..., None, None], np.eye(4), predicted)
    between = np.swapaxes(predicted[..., :3, :3], -2, -1) @ truth[..., :3, :3]
    turn = between - np.swapaxes(between, -2, -1)
    sine = _length(np.stack([turn[..., 2, 1], turn[..., 0, 2], turn[..., 1, 0]], -1)) / 2
    cosine = (np.trace(between, axis1=-2, axis2=-1) - 1) / 2
    errors = {
        "rotation_deg": np.degrees(np.arctan2(sine, cosine)),
        "translation_m": _length(predicted[..., :3, 3] - truth[..., :3, 3]),
        "direction_deg": _angles_deg(predicted[..., :3, 3], truth[..., :3, 3], least=1e-6),
    }
    worst = {"rotation_deg": 180.0, "translation_m": np.inf, "direction_deg": 180.0}
    return {
        name: np.where(failed & ~np.isnan(error), worst[name], error)
        for name, error in errors.items()
    }


def pose_summary(
    rotation_deg: Float64, translation_m: Float64, direction_deg: Float64
) -> dict[str, float]:
    """Return the medians of (N,) errors of poses, and auc5, auc10, auc20 of their angles.

    The AUC is of the larger of both angles; where there is no direction, of the rotation.
    """
    _require_one_shape("pose errors", rotation_deg, translation_m)
    _require_one_shape("pose errors", rotation_deg, direction_deg)
    angles_deg = np.fmax(rotation_deg, direction_deg)
    return {
        "median_rotation_deg": _median(rotation_deg),
        "median_translation_m": _median(translation_m),
        "median_direction_deg": _median(direction_deg),
        **{f"auc{limit:g}": error_auc(angles_deg, limit) for limit in AUC_LIMITS_DEG},
    }


def error_auc(errors: Float64, limit: float) -> float:
    """Return the area under the share of (N,) errors below e, for e from 0 to limit, over limit.

    The curve is the polyline through (0, 0) and (i-th smallest error, i / N), level from the last
    error below the limit on; its area is exact. NaN errors never count, infinite ones do.
    Source: as SuperGlue is evaluated, arXiv:1911.11763; but it and LoFTR count an error e of a
    direction as min(e, 180 - e), for an essential matrix has no sign, and pose_scores does not.
    """
    errors = np.sort(errors[~np.isnan(errors)])
    if not errors.size:
        return float("nan")
    below = errors[errors < limit]
    shares = np.arange(len(below) + 1) / errors.size
    area = np.trapezoid([*shares, shares[-1]], [0.0, *below, limit])
    return float(area / limit)


# Other dense maps


def normal_scores(predicted: Floats, truth: Floats) -> Scores:
    """Score (..., 3) surface normals of any length by their angles to the true ones.

    mean_deg, median_deg, and within_11.25deg, within_22.5deg, within_30deg: shares of pixels that
    are at most so far off. A truth of length 0 is unknown; a prediction of length 0 is 180 deg off.
    """
    angles = _angles_deg(*_known("normal", predicted, truth, channels=3))
    angles = angles[~np.isnan(angles)]
    return {
        "mean_deg": _mean(angles),
        "median_deg": np.asarray(_median(angles)),
        **{f"within_{limit:g}deg": _mean(angles <= limit) for limit in NORMAL_LIMITS_DEG},
    }


def regression_scores(predicted: Floats, truth: Floats) -> Scores:
    """Score maps of any shape and unit: l1, relative_l1, rmse, over all known values.

    relative_l1 is the sum of absolute errors over the sum of absolute truths, so that single truths
    near 0 do not decide it.
    """
    predicted, truth = _known("map", predicted, truth)
    errors = np.abs(predicted - truth)
    return {
        "l1": _mean(errors),
        "relative_l1": _divide(errors.sum(), np.abs(truth).sum()),
        "rmse": np.sqrt(_mean(errors**2)),
    }


# Over examples and models


def averaged(
    scores: Sequence[Mapping[str, Float64]], weight: str | None = None
) -> dict[str, float]:
    """Return the mean over examples of each of their () scores, without the NaN ones.

    weight: the score to weigh examples by, as their number of known pixels, for means over the
    pixels of all examples.
    """
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for each in scores for name in each if name != weight):
        pairs = [
            (float(each[name]), 1.0 if weight is None else float(each[weight]))
            for each in scores
            if name in each and not np.isnan(each[name])
        ]
        values, weights = np.array(pairs).reshape(-1, 2).T
        means[name] = float(_divide((values * weights).sum(), weights.sum()))
    return means


def mean_rank(table: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> Float64:
    """Return the (M,) mean ranks of M models over T tasks, 1 the best; ties share their mean.

    table: (M, T) values; higher_is_better: (T,). A task for which a model has no value (NaN) counts
    for none of them, lest a model gain by leaving out what it is bad at.
    """
    values, higher = np.asarray(table, np.float64), np.asarray(higher_is_better, bool)
    if values.ndim != 2 or higher.shape != values.shape[1:]:
        raise CrossviewError(
            f"ranks: table of {values.shape}, directions of {higher.shape}: expected (M, T), (T,)"
        )
    complete = ~np.isnan(values).any(0)
    costs = np.where(higher, -values, values)[:, complete]
    others, own = costs[None], costs[:, None]
    ranks = 0.5 + (others < own).sum(1) + 0.5 * (others == own).sum(1)
    return np.array([_mean(row) for row in ranks])


# Parts


def _require_one_shape(
    what: str, predicted: NDArray[Any], truth: NDArray[Any], channels: int | None = None
) -> None:
    if predicted.shape != truth.shape:
        raise CrossviewError(
            f"{what}: predicted {predicted.shape}, truth {truth.shape}: expected one shape; bring "
            "both to one size"
        )
    if channels is not None and truth.shape[-1:] != (channels,):
        raise CrossviewError(
            f"{what}: predicted {predicted.shape}, truth {truth.shape}: expected (..., {channels})"
        )


def _require_finite(what: str, predicted: Floats) -> None:
    num_wrong = int((~np.isfinite(predicted)).sum())
    if num_wrong:
        raise CrossviewError(
            f"{what}: {num_wrong} of {predicted.size} predicted values are not finite where the "
            "truth is known; the network has diverged: train it with a lower lr"
        )


def _known(
    what: str,
    predicted: Floats,
    truth: Floats,
    mask: Bool | None = None,
    *,
    channels: int | None = None,
) -> tuple[Float64, Float64]:
    """Return both at the K pixels that count: (K,), or (K, channels)."""
    _require_one_shape(what, predicted, truth, channels)
    known: Bool = np.isfinite(truth)
    if channels is not None:
        known = np.asarray(known.all(-1))
    if mask is not None:
        _require_one_shape(f"mask of {what}", mask, known)
        known = known & mask
    _require_finite(what, predicted[known])
    return predicted[known].astype(np.float64), truth[known].astype(np.float64)


def _mean(values: NDArray[Any]) -> Float64:
    return np.asarray(values.mean() if values.size else np.nan, np.float64)


def _median(values: Float64) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if values.size else float("nan")


def _length(vectors: Floats) -> Float64:
    return np.linalg.norm(vectors, axis=-1)


def _divide(numerators: Any, denominators: Any) -> Float64:
    """Return the quotients, NaN where the denominator is 0."""
    denominators = np.asarray(denominators, np.float64)
    return np.asarray(numerators) / np.where(denominators == 0, np.nan, denominators)


def _median_ratio(truth: Float64, predicted: Float64) -> float:
    """Return the factor from one median to the other, 1 where nothing is known."""
    if not truth.size:
        return 1.0
    return float(np.median(truth) / max(float(np.median(predicted)), MIN_DEPTH_M))


def _angles_deg(predicted: Floats, truth: Floats, least: float = 0.0) -> Float64:
    """Return the (...) angles between (..., 3) vectors.

    NaN where the true one is no longer than least, else 180 where the predicted one is not.
    """
    sine = _length(np.cross(predicted, truth))
    angles = np.degrees(np.arctan2(sine, (predicted * truth).sum(-1)))
    angles = np.where(_length(predicted) <= least, 180.0, angles)
    return np.where(_length(truth) > least, angles, np.nan)
