"""Where a target patch really lies in the reference, from depth and poses; and scores of it.

Shapes: N patches of an image, row by row over a square grid; B batch.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
from torch import Tensor

from generation.geometry import Camera, Float32, Float64
from generation.view import View
from generation.visibility import seen_pixels
from training.model.positions import grid_places

SCORES = ("attention", "random", "same_position")


def places_in(camera: Camera, points_world: Float64) -> Float64:
    """Return (N, 2) pixels at which a camera has (N, 3) points; NaN behind it."""
    pixels, point_m = camera.project(points_world)
    pixels[~((point_m > 0) & np.isfinite(pixels).all(1))] = np.nan
    return pixels


def true_places(view1: View, view2: View, patch_size: int) -> Float32:
    """Return (N, 2) where the reference shows each target patch, NaN where it does not.

    A place is (row, column) on the reference's grid of patches, between them too: a patch that the
    second camera sees where the first one does gets its own row and column. view1 is the target,
    view2 the reference. A patch stands for its pixel (patch_size // 2, patch_size // 2), which the
    reference shows by the rule of co-visibility.
    """
    middles = slice(patch_size // 2, None, patch_size)
    points_world = view1.camera.unproject(view1.depth_m).reshape(*view1.depth_m.shape, 3)
    pixels = places_in(view2.camera, points_world[middles, middles].reshape(-1, 3))
    places = (pixels[:, ::-1] - (patch_size // 2 + 0.5)) / patch_size
    seen = seen_pixels(view1, view2)[middles, middles].reshape(-1, 1)
    return np.where(seen, places, np.nan).astype(np.float32)


def geometry_counts(attention: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Count how often the most attended reference patch lies within one patch of the true place.

    attention is (B, N, N) from target to reference, truth (B, N, 2) from true_places, mask (B, N).
    Distances are Chebyshev's on the grid of patches. Only hidden patches that the reference sees
    count; a patch has moved if its true place is more than one patch from its own.

    Returns (2, 4) float64 sums, which add up over batches, of all and of moved patches: their
    number, hits of the attention, expected hits of a random patch, hits of the same position.
    """
    num = truth.shape[1]
    places = grid_places((isqrt(num), isqrt(num))).to(truth.device)
    counted = mask & truth.isfinite().all(-1)
    apart = (truth[counted].unsqueeze(1) - places).abs().amax(-1)
    near = apart <= 1 + 1e-4  # float32 places of exact whole shifts
    own = torch.arange(num, device=truth.device).expand_as(mask)
    hit = near.gather(1, attention.argmax(-1)[counted].unsqueeze(1))[:, 0]
    same = near.gather(1, own[counted].unsqueeze(1))[:, 0]
    random = near.double().mean(1)
    rows = torch.stack([torch.ones_like(random), hit.double(), random, same.double()], 1)
    return torch.stack([rows.sum(0), rows[~same].sum(0)])


def geometry_metrics(counts: Tensor) -> dict[str, float]:
    """Return geometry_counts as shares and numbers, named as in metrics.jsonl.

    No share of nothing.
    """
    named: dict[str, float] = {}
    for kind, (number, *hits) in zip(("all", "moved"), counts.tolist()):
        named[f"geometry_{kind}_patches"] = number
        for score, hit in zip(SCORES, hits):
            suffix = "" if score == "attention" else f"_{score}"
            if number:
                named[f"geometry_{kind}{suffix}"] = hit / number
    return named
