"""What of one view another view sees, by the depth of both.

A pixel's surface point is projected into the other view and must have the depth seen there. Depths
agree when they differ by less than DEPTH_TOLERANCE of the depth. The depth seen between pixel
centres is that of the nearest pixel, or interpolated linearly in inverse depth, which is exact on
planes at any slant, so that the tolerance has to cover only curvature within a pixel (at 256 pixels
and 60 degrees, a cylinder of 10 cm radius at 2 m bends by 0.3 mm over one) and the float32 depths
(1e-5). One per cent does that a hundred times over, and still keeps the two sides of a 5 cm wall at
5 m apart. Across a silhouette interpolation mixes two surfaces, and a point between them may count
as seen: in pictures of 56 pixels, one pixel in 500.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from generation.geometry import Bool, compose
from generation.view import View

DEPTH_TOLERANCE = 0.01
"""Relative depth difference below which two pixels show the same surface point."""


def seen_pixels(view_a: View, view_b: View) -> Bool:
    """Return (H, W) whether each of a's pixels shows a surface point that b sees."""
    seen = np.zeros(view_a.depth_m.shape, np.bool_)
    _mark_seen(
        view_a.depth_m,
        view_a.camera.intrinsics,
        view_b.depth_m,
        view_b.camera.intrinsics,
        compose(view_b.camera.camera_from_world, view_a.camera.world_from_camera),
        seen,
    )
    return seen


@numba.njit(cache=True, error_model="numpy")
def _mark_seen(depth_a, intrinsics_a, depth_b, intrinsics_b, b_from_a, seen):  # type: ignore[no-untyped-def]
    """Set seen (H, W) at every pixel of a whose surface point b sees."""
    height_a, width_a = depth_a.shape
    height_b, width_b = depth_b.shape
    for i in range(height_a):
        ray_y = (i + 0.5 - intrinsics_a[1, 2]) / intrinsics_a[1, 1]
        for j in range(width_a):
            z_a = np.float64(depth_a[i, j])
            if z_a <= 0:
                continue
            x_a = z_a * (j + 0.5 - intrinsics_a[0, 2]) / intrinsics_a[0, 0]
            y_a = z_a * ray_y
            z = b_from_a[2, 0] * x_a + b_from_a[2, 1] * y_a + b_from_a[2, 2] * z_a + b_from_a[2, 3]
            if z <= 0:
                continue
            x = b_from_a[0, 0] * x_a + b_from_a[0, 1] * y_a + b_from_a[0, 2] * z_a + b_from_a[0, 3]
            y = b_from_a[1, 0] * x_a + b_from_a[1, 1] * y_a + b_from_a[1, 2] * z_a + b_from_a[1, 3]
            u = intrinsics_b[0, 0] * x / z + intrinsics_b[0, 2]
            v = intrinsics_b[1, 1] * y / z + intrinsics_b[1, 2]
            if not (0 <= u < width_b and 0 <= v < height_b):  # NaN, of bad intrinsics, neither
                continue
            nearest = np.float64(depth_b[int(v), int(u)])
            if nearest > 0 and abs(nearest - z) <= DEPTH_TOLERANCE * z:
                seen[i, j] = True
                continue
            left = min(max(math.floor(u - 0.5), 0), width_b - 2)
            top = min(max(math.floor(v - 0.5), 0), height_b - 2)
            d00 = np.float64(depth_b[top, left])
            d01 = np.float64(depth_b[top, left + 1])
            d10 = np.float64(depth_b[top + 1, left])
            d11 = np.float64(depth_b[top + 1, left + 1])
            if d00 <= 0 or d01 <= 0 or d10 <= 0 or d11 <= 0:
                continue
            fx = u - 0.5 - left
            fy = v - 0.5 - top
            inverse = (1 - fy) * ((1 - fx) / d00 + fx / d01) + fy * ((1 - fx) / d10 + fx / d11)
            if abs(1.0 - z * inverse) <= DEPTH_TOLERANCE:
                seen[i, j] = True
