"""Losses of all tasks.

Shapes: B batch, C channels, H, W pixels. What is predicted comes first, what is true second.
Truths may be unknown: NaN in maps of floats, -1 in labels. What is predicted there has no influence
and a gradient of exactly 0; a batch of which nothing is known has a loss of 0. Means are over the
known pixels of the whole batch, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.downstream.example import UNKNOWN_LABEL

BERHU_SHARE = 0.2
"""Of the largest error, up to which errors count as they are. Source: Laina et al. 2016."""
LOG_SCALE_BOUND = 3.0
"""Scales of a Laplacian are within e^-3 to e^3. Source: CroCo v2, of stereo."""
BETA_M = 0.1
"""Translations less than this far off count by the square of it."""
CONFIDENCE_WEIGHT = 0.2
"""Of log conf in the loss of pointmaps: alpha of DUSt3R."""
MIN_SCALE = 1e-3
"""Pointmaps are divided by at least this mean distance to the origin."""
TEMPERATURE = 0.07
"""Of the cosines of descriptors. Source: MASt3R."""


# Dense regression


def l1_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute error of maps of any shape."""
    predicted, truth, known = _known(predicted, truth)
    return _mean((predicted - truth).abs(), known)


def berhu_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean reverse Huber loss of maps of any shape.

    An error e counts |e| up to c, (e^2 + c^2) / (2 c) above; c is BERHU_SHARE of the largest error
    of the batch, taken as a constant. Source: Laina et al. 2016, arXiv:1606.00373.
    """
    predicted, truth, known = _known(predicted, truth)
    errors = (predicted - truth).abs()
    limit = (BERHU_SHARE * errors.detach().max()).clamp(min=1e-6)  # errors are 0 where unknown
    squares = (errors.square() + limit.square()) / (2 * limit)
    return _mean(torch.where(errors <= limit, errors, squares), known)


def normal_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of 1 - cosine of the angle between (B, 3, H, W) normals of any length.

    A truth of length 0 is unknown. Predictions count as at least 0.01 long, so that a head of zeros
    has a gradient of a sane size.
    """
    known = (truth.isfinite() & (truth != 0).any(1, keepdim=True)).all(1, keepdim=True)
    predicted, truth, known = _known(predicted, truth, known)
    cosines = functional.cosine_similarity(predicted, truth, dim=1, eps=1e-2)
    return _mean(1 - cosines, known[:, 0])


def laplacian_loss(predicted: Tensor, raw_scale: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of |e| / exp(s) + s of (B, C, H, W) flow (C = 2) or disparity (C = 1).

    |e| is the L1 norm of the error over channels and s = bounded_log_scale(raw_scale), (B, H, W).
    It is least where exp(s) is the mean |e|, as far as the bound allows. A pixel counts if all its
    channels are known. Source: CroCo v2, arXiv:2211.10408, of stereo; its flow has scales from 1/4
    to 4, ours the same ones as stereo.
    """
    known = truth.isfinite().all(1, keepdim=True)
    predicted, truth, known = _known(predicted, truth, known)
    known = known[:, 0]
    assert raw_scale.shape == known.shape, (raw_scale.shape, known.shape)
    errors = (predicted - truth).abs().sum(1)
    log_scale = bounded_log_scale(torch.where(known, raw_scale.float(), 0))
    return _mean(errors * torch.exp(-log_scale) + log_scale, known)


def bounded_log_scale(raw: Tensor) -> Tensor:
    """Return the log of the scale of a Laplacian, within its bound b, of what a head gives.

    b * tanh(raw / (2 b)): half as steep as the identity at 0.
    """
    return LOG_SCALE_BOUND * torch.tanh(raw / (2 * LOG_SCALE_BOUND))


# Labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of (B, C, ...) logits with (B, ...) labels, -1 unknown."""
    known = labels != UNKNOWN_LABEL
    total = functional.cross_entropy(
        torch.where(known.unsqueeze(1), logits.float(), 0),
        labels,
        ignore_index=UNKNOWN_LABEL,
        reduction="sum",
    )
    return total / known.sum().clamp(min=1)


# Pose


def rotation_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean angle, in radians, between (B, 3, 3) rotations.

    The angle is atan2 of sine and cosine, whose gradient is bounded everywhere, where that of the
    usual arc cosine is infinite at 0 and pi; at exactly these it is 0.
    """
    known = truth.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    identity = torch.eye(3, device=predicted.device)
    predicted, truth, known = _known(predicted, truth, known, fill=identity)
    # Products of elements: a matmul would be in bfloat16 under autocast.
    between = (predicted.unsqueeze(-1) * truth.unsqueeze(-2)).sum(-3)  # predicted^T @ truth
    turn = between - between.mT
    axis = torch.stack([turn[..., 2, 1], turn[..., 0, 2], turn[..., 1, 0]], -1)
    sine = torch.linalg.vector_norm(axis, dim=-1) / 2
    cosine = (between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return _mean(torch.atan2(sine, cosine), known[..., 0, 0])


def translation_loss(predicted_m: Tensor, truth_m: Tensor) -> Tensor:
    """Return the mean smooth L1 of the distances, in metres, between (B, 3) translations.

    A distance d counts d^2 / (2 beta) below beta = BETA_M, d - beta / 2 above.
    """
    known = truth_m.isfinite().all(-1, keepdim=True)
    predicted, truth, known = _known(predicted_m, truth_m, known)
    distances = torch.linalg.vector_norm(predicted - truth, dim=-1)
    losses = functional.smooth_l1_loss(
        distances, torch.zeros_like(distances), beta=BETA_M, reduction="none"
    )
    return _mean(losses, known[..., 0])


# Pointmaps and descriptors


def pointmap_loss(predicted: Tensor, raw_confidence: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of conf * distance - CONFIDENCE_WEIGHT * log conf of both views' points.

    predicted, truth: (B, 2, H, W, 3) points of both views in the first camera's frame;
    raw_confidence: (B, 2, H, W), conf = 1 + exp(raw_confidence). Before distances are taken, both
    are divided by the mean distance to the origin of the true points of both views, so that the
    scale is learnt too. Source: DUSt3R, arXiv:2312.14132, equations 2 to 4, where prediction and
    truth have scales of their own; one for both: MASt3R, arXiv:2406.09756.
    """
    known = truth.isfinite().all(-1, keepdim=True)
    predicted, truth, known = _known(predicted, truth, known)
    known = known[..., 0]
    assert raw_confidence.shape == known.shape, (raw_confidence.shape, known.shape)
    scale = _mean_distance(truth, known)
    distances = torch.linalg.vector_norm(predicted / scale - truth / scale, dim=-1)
    raw = torch.where(known, raw_confidence.float(), 0)
    log_confidence = functional.softplus(raw)
    return _mean((1 + raw.exp()) * distances - CONFIDENCE_WEIGHT * log_confidence, known)


def _mean_distance(points: Tensor, known: Tensor) -> Tensor:
    """Return (B, 1, 1, 1, 1) mean distances to the origin of points that are 0 where unknown."""
    distances = torch.linalg.vector_norm(points, dim=-1)
    means = distances.sum((1, 2, 3)) / known.sum((1, 2, 3)).clamp(min=1)
    return means.clamp(min=MIN_SCALE)[:, None, None, None, None]


def matching_loss(descriptors1: Tensor, descriptors2: Tensor, known: Tensor) -> Tensor:
    """Return the InfoNCE loss of (B, K, D) descriptors of K places that both views show.

    Row k of both is of the same point; known: (B, K), whether there is such a point. Each
    descriptor, made unit length here, is to find its own among all known ones of the other view of
    its pair: cross entropy of cosines / TEMPERATURE, the mean of both directions.
    Source: MASt3R, arXiv:2406.09756, equations 10 and 11.
    """
    assert descriptors1.shape == descriptors2.shape, (descriptors1.shape, descriptors2.shape)
    assert known.shape == descriptors1.shape[:2], (known.shape, descriptors1.shape)
    first, second = (
        functional.normalize(torch.where(known[..., None], each.float(), 0), dim=-1, eps=1e-4)
        for each in (descriptors1, descriptors2)
    )
    with torch.autocast(first.device.type, enabled=False):  # bfloat16 is too coarse for logits
        logits = first @ second.mT / TEMPERATURE
    labels = torch.arange(known.shape[1], device=known.device).expand_as(known)
    labels = torch.where(known, labels, UNKNOWN_LABEL)
    others = ~known.unsqueeze(1)  # finite, for rows of which nothing is known
    both = (each.masked_fill(others, -1e4).mT for each in (logits, logits.mT))
    forth, back = (cross_entropy(each, labels) for each in both)
    return (forth + back) / 2


# Parts


def _known(
    predicted: Tensor, truth: Tensor, known: Tensor | None = None, fill: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both in float32 with fill where the truth is unknown, and where it is known.

    This comes before anything else is computed: the gradient of what is chosen away later would be
    0 times infinity.
    """
    assert predicted.shape == truth.shape, (predicted.shape, truth.shape)
    known = truth.isfinite() if known is None else known
    predicted = torch.where(known, predicted.float(), fill)
    return predicted, torch.where(known, truth.float(), fill), known


def _mean(losses: Tensor, known: Tensor) -> Tensor:
    """Return the mean of the losses that are known, 0 if none is."""
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)
