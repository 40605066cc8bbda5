"""How much of one view another view sees: by visibility, and by CroCo's published rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from generation.geometry import Camera, Float32, Float64, compose
from generation.raycast import RayCaster
from generation.view import View
from generation.visibility import DEPTH_TOLERANCE, seen_pixels

OFFICIAL_RADIUS_M = 0.05
"""Distance of the neighbour that the published rule looks for."""


@dataclass(frozen=True, kw_only=True)
class Covisibility:
    """The numbers of a pair, each 0 to 1."""

    covisibility_1_in_2: float
    """Fraction of view 1's pixels with depth whose surface point view 2 sees."""
    covisibility_2_in_1: float
    """The same the other way round."""
    covisibility_official: float
    """CroCo's published number: see official_covisibility."""

    @property
    def covisibility(self) -> float:
        """The smaller of both directions."""
        return min(self.covisibility_1_in_2, self.covisibility_2_in_1)


def measure_pair(view1: View, view2: View) -> Covisibility:
    """Measure all numbers of a pair of rendered views, at their full resolution."""
    return Covisibility(
        covisibility_1_in_2=covisibility_a_in_b(view1, view2),
        covisibility_2_in_1=covisibility_a_in_b(view2, view1),
        covisibility_official=official_covisibility(view1, view2),
    )


def covisibility_a_in_b(view_a: View, view_b: View) -> float:
    """Return the fraction of a's pixels with depth whose surface point b sees; 0 without depth."""
    valid = np.count_nonzero(view_a.depth_m)
    return np.count_nonzero(seen_pixels(view_a, view_b)) / valid if valid else 0.0


def official_covisibility(view1: View, view2: View) -> float:
    """Return CroCo's number (github.com/naver/croco, datasets/habitat_sim).

    Of each view's surface points, those with a point of the other view within 5 cm, over all
    pixels, also those without depth; the smaller of both directions. It does not test visibility:
    both sides of a thin wall count as seen.
    """
    return min(_official_a_in_b(view1, view2), _official_a_in_b(view2, view1))


def _official_a_in_b(view_a: View, view_b: View) -> float:
    near = _count_near(
        view_a.depth_m,
        view_a.camera.intrinsics,
        view_b.depth_m,
        view_b.camera.intrinsics,
        compose(view_b.camera.camera_from_world, view_a.camera.world_from_camera),
        OFFICIAL_RADIUS_M,
    )
    return float(near) / view_a.depth_m.size


def surface_points(camera: Camera, depth_m: Float32) -> Float64:
    """Return the (N, 3) world points of a view's pixels with depth, row by row."""
    return camera.unproject(depth_m)[depth_m.ravel() > 0]


def ray_miss_m(caster: RayCaster, camera: Camera, points_world: Float64) -> Float64:
    """Cast a ray from the camera to each of (N, 3) points; return how far off it ends, in metres.

    (N,) distance from the point to where the ray really ends; infinite outside of the image or
    where the ray hits nothing. Estimates co-visibility from a few hundred points, without a render.
    """
    miss_m = np.full(len(points_world), np.inf)
    pixels, depth_m = camera.project(points_world)
    height, width = camera.image_size
    inside = np.flatnonzero(
        (depth_m > 0)
        & (pixels[:, 0] >= 0)
        & (pixels[:, 0] < width)
        & (pixels[:, 1] >= 0)
        & (pixels[:, 1] < height)
    )
    if len(inside) == 0:
        return miss_m
    directions = (points_world[inside] - camera.centre).astype(np.float32)
    hits = caster.cast(camera.centre, directions)
    lengths = np.sqrt((directions**2).sum(axis=1))
    miss_m[inside] = np.where(hits.hit, np.abs(hits.distances - 1) * lengths, np.inf)
    return miss_m


def estimate_a_in_b(caster: RayCaster, points_a: Float64, camera_b: Camera) -> float:
    """Estimate covisibility_a_in_b from (N, 3) of a's surface points; 0 without points."""
    if len(points_a) == 0:
        return 0.0
    distances = np.sqrt(((points_a - camera_b.centre) ** 2).sum(axis=1))
    return float((ray_miss_m(caster, camera_b, points_a) <= DEPTH_TOLERANCE * distances).mean())


def estimate_official_a_in_b(
    caster: RayCaster, points_a: Float64, num_pixels: int, camera_b: Camera
) -> float:
    """Estimate the official number of a in b from the surface points of num_pixels of a's pixels.

    The nearest point that b shows is taken to be the one on its ray towards the point.
    """
    return float((ray_miss_m(caster, camera_b, points_a) <= OFFICIAL_RADIUS_M).sum()) / num_pixels


@numba.njit(cache=True, error_model="numpy", inline="always")
def _cell_hash(x: int, y: int, z: int, mask: int) -> int:
    return ((x * 73856093) ^ (y * 19349663) ^ (z * 83492791)) & mask


@numba.njit(cache=True, error_model="numpy")
def _count_near(depth_a, intrinsics_a, depth_b, intrinsics_b, b_from_a, radius):  # type: ignore[no-untyped-def]
    """Return how many of a's surface points have one of b's within radius; all in b's frame.

    A hash of cells as wide as the radius: neighbours lie in the 27 cells around a point. Cells that
    share a hash cost time, never correctness. A point further than the radius outside of b's
    frustum has no neighbour, which spares most of the vain searches.
    """
    starts, points_b = _hash_points(depth_b, intrinsics_b, radius)
    mask = len(starts) - 2
    height_a, width_a = depth_a.shape
    height_b, width_b = depth_b.shape
    # Slopes x / z and y / z of the frustum's sides, and how far a side moves out by the radius.
    low_x, high_x = -intrinsics_b[0, 2], width_b - intrinsics_b[0, 2]
    low_x, high_x = low_x / intrinsics_b[0, 0], high_x / intrinsics_b[0, 0]
    low_y, high_y = -intrinsics_b[1, 2], height_b - intrinsics_b[1, 2]
    low_y, high_y = low_y / intrinsics_b[1, 1], high_y / intrinsics_b[1, 1]
    reach_x = radius * math.sqrt(1 + max(low_x * low_x, high_x * high_x))
    reach_y = radius * math.sqrt(1 + max(low_y * low_y, high_y * high_y))
    limit = np.float32(radius * radius)
    near = 0
    last = 0  # neighbouring pixels have neighbouring points: the last match often serves again
    for i in range(height_a):
        ray_y = (i + 0.5 - intrinsics_a[1, 2]) / intrinsics_a[1, 1]
        for j in range(width_a):
            z_a = np.float64(depth_a[i, j])
            if z_a <= 0:
                continue
            x_a = z_a * (j + 0.5 - intrinsics_a[0, 2]) / intrinsics_a[0, 0]
            y_a = z_a * ray_y
            z = b_from_a[2, 0] * x_a + b_from_a[2, 1] * y_a + b_from_a[2, 2] * z_a + b_from_a[2, 3]
            if z < -radius:
                continue
            x = b_from_a[0, 0] * x_a + b_from_a[0, 1] * y_a + b_from_a[0, 2] * z_a + b_from_a[0, 3]
            if x < low_x * z - reach_x or x > high_x * z + reach_x:
                continue
            y = b_from_a[1, 0] * x_a + b_from_a[1, 1] * y_a + b_from_a[1, 2] * z_a + b_from_a[1, 3]
            if y < low_y * z - reach_y or y > high_y * z + reach_y:
                continue
            px, py, pz = np.float32(x), np.float32(y), np.float32(z)
            if len(points_b) > 0:
                dx, dy, dz = px - points_b[last, 0], py - points_b[last, 1], pz - points_b[last, 2]
                if dx * dx + dy * dy + dz * dz <= limit:
                    near += 1
                    continue
            cell_x, cell_y, cell_z = (
                math.floor(x / radius),
                math.floor(y / radius),
                math.floor(z / radius),
            )
            found = False
            for k in range(27):
                # The point's own cell (13) first: it holds a neighbour more often than not.
                cell = 13 if k == 0 else (0 if k == 13 else k)
                h = _cell_hash(
                    cell_x + cell // 9 - 1, cell_y + cell // 3 % 3 - 1, cell_z + cell % 3 - 1, mask
                )
                for m in range(starts[h], starts[h + 1]):
                    dx, dy, dz = px - points_b[m, 0], py - points_b[m, 1], pz - points_b[m, 2]
                    if dx * dx + dy * dy + dz * dz <= limit:
                        found = True
                        last = m
                        break
                if found:
                    break
            near += found
    return near


@numba.njit(cache=True, error_model="numpy")
def _hash_points(depth, intrinsics, radius):  # type: ignore[no-untyped-def]
    """Return a view's surface points in its own frame, those of hash h at starts[h]:starts[h+1]."""
    height, width = depth.shape
    size = 2
    while size < 2 * height * width:
        size *= 2
    starts = np.zeros(size + 1, np.int32)
    hashes = np.full((height, width), -1, np.int32)
    num_points = 0
    for i in range(height):
        ray_y = (i + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
        for j in range(width):
            z = np.float64(depth[i, j])
            if z <= 0:
                continue
            x = z * (j + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
            h = _cell_hash(
                math.floor(x / radius),
                math.floor(z * ray_y / radius),
                math.floor(z / radius),
                size - 1,
            )
            hashes[i, j] = h
            starts[h + 1] += 1
            num_points += 1
    for h in range(size):
        starts[h + 1] += starts[h]
    ends = starts[:-1].copy()
    points = np.empty((num_points, 3), np.float32)
    for i in range(height):
        ray_y = (i + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
        for j in range(width):
            h = hashes[i, j]
            if h < 0:
                continue
            z = np.float64(depth[i, j])
            points[ends[h], 0] = z * (j + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
            points[ends[h], 1] = z * ray_y
            points[ends[h], 2] = z
            ends[h] += 1
    return starts, points
