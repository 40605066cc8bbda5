"""Cameras and the maps between pixels, camera space and the world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

HABITAT_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
"""habitat-sim's cameras look along -Z, with +Y up."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Camera:
    """A pinhole camera at rest.

    The centre of pixel (row i, column j) is (j + 0.5, i + 0.5) in pixel coordinates.
    """

    intrinsics: Float64
    """(3, 3) focal lengths and principal point in pixels."""
    world_from_camera: Float64
    """(4, 4) rigid; columns are the camera's x (right), y (down), z (forward) axes and centre."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""

    @classmethod
    def from_hfov(
        cls, hfov_deg: float, image_size: tuple[int, int], world_from_camera: Float64
    ) -> Camera:
        """Make a camera with square pixels, the principal point in the middle of the image."""
        return cls(
            intrinsics=intrinsics_from_hfov(hfov_deg, image_size),
            world_from_camera=world_from_camera,
            image_size=image_size,
        )

    @property
    def centre(self) -> Float64:
        """(3,) camera centre in the world."""
        return self.world_from_camera[:3, 3]

    @property
    def camera_from_world(self) -> Float64:
        """(4, 4) inverse of world_from_camera."""
        return invert_rigid(self.world_from_camera)

    def resized(self, image_size: tuple[int, int]) -> Camera:
        """Return the same camera (same field of view, same pose) with another pixel grid."""
        scale_y = image_size[0] / self.image_size[0]
        scale_x = image_size[1] / self.image_size[1]
        return Camera(
            intrinsics=np.diag([scale_x, scale_y, 1.0]) @ self.intrinsics,
            world_from_camera=self.world_from_camera,
            image_size=image_size,
        )

    def rays(self) -> Float64:
        """Return (H * W, 3) directions in the camera frame, row by row, each with z = 1.

        A distance along such a ray, in units of its length, is a depth along the optical axis.
        """
        x, y = self._slopes()
        rays = np.ones((*self.image_size, 3))
        rays[..., 0] = x
        rays[..., 1] = y[:, None]
        return rays.reshape(-1, 3)

    def world_rays(self) -> Float32:
        """Return rays() in the world, in single precision, as they are cast.

        Written without matrix products, whose last bit depends on the machine's BLAS.
        """
        x, y = (slopes.astype(np.float32) for slopes in self._slopes())
        right, down, forward = self.world_from_camera[:3, :3].T.astype(np.float32)
        rays: Float32 = x[None, :, None] * right + (y[:, None, None] * down + forward)
        return rays.reshape(-1, 3)

    def _slopes(self) -> tuple[Float64, Float64]:
        """Return x (W,) and y (H,) of rays with z = 1 in the camera frame."""
        height, width = self.image_size
        x = (np.arange(width) + 0.5 - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        y = (np.arange(height) + 0.5 - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        return x, y

    def unproject(self, depth_m: NDArray[np.floating]) -> Float64:
        """Return (H * W, 3) world points of a (H, W) depth map, row by row.

        Pixels of depth 0 (nothing was hit) come out at the camera centre; mask them.
        """
        points_camera = self.rays() * depth_m.reshape(-1, 1)
        return transform_points(self.world_from_camera, points_camera)

    def project(self, points_world: Float64) -> tuple[Float64, Float64]:
        """Project (N, 3) world points to (N, 2) pixel coordinates and (N,) depths in metres.

        Points at or behind the camera get a depth <= 0 and non-finite or mirrored pixels.
        """
        points_camera = transform_points(self.camera_from_world, points_world)
        depth_m = points_camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = points_camera[:, :2] / depth_m[:, None]
        pixels = slopes * self.intrinsics.diagonal()[:2] + self.intrinsics[:2, 2]
        return pixels, depth_m


def intrinsics_from_hfov(hfov_deg: float, image_size: tuple[int, int]) -> Float64:
    """Return the (3, 3) intrinsics of a horizontal field of view in degrees."""
    height, width = image_size
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def transform_points(to_from: Float64, points: NDArray[np.floating]) -> Float64:
    """Apply a (4, 4) affine transform to (N, 3) points, without BLAS as compose does."""
    x, y, z = points.T
    return np.stack([a * x + b * y + c * z + d for a, b, c, d in to_from[:3]], axis=1)


def compose(a_from_b: Float64, b_from_c: Float64) -> Float64:
    """Return a_from_c, the matrix product of two small matrices.

    Written without BLAS, whose last bit depends on the machine.
    """
    a_from_c: Float64 = (a_from_b[:, :, None] * b_from_c[None]).sum(axis=1)
    return a_from_c


def invert_rigid(to_from: Float64) -> Float64:
    """Invert a (4, 4) rigid transform without a linear solve."""
    inverse = np.eye(4)
    inverse[:3, :3] = to_from[:3, :3].T
    inverse[:3, 3:] = -compose(inverse[:3, :3], to_from[:3, 3:])
    return inverse


def look_at(centre: Float64, target: Float64) -> Float64:
    """Return the upright (4, 4) world_from_camera at centre that looks at target.

    Raises ValueError where target coincides with centre or lies straight above or below it.
    """
    x, y, z = (float(t) - float(c) for t, c in zip(target, centre))
    sideways, length = math.hypot(x, z), math.hypot(x, y, z)
    if sideways < 1e-9 * max(1.0, length):
        raise ValueError(f"no upright camera at {centre} looks along {(x, y, z)}")
    forward = (x / length, y / length, z / length)
    right = (-z / sideways, 0.0, x / sideways)  # forward x world up
    down = (forward[1] * right[2], forward[2] * right[0] - forward[0] * right[2],
            -forward[1] * right[0])  # forward x right  # fmt: skip
    world_from_camera = np.eye(4)
    world_from_camera[:3] = np.stack([right, down, forward, centre], axis=1)
    return world_from_camera


def rotation_about_axis(axis: int, angle_rad: float) -> Float64:
    """Return the (3, 3) right-handed rotation about coordinate axis 0, 1 or 2."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = cos
    rotation[i, j], rotation[j, i] = -sin, sin
    return rotation


def rotation_from_wxyz(quaternion: NDArray[np.floating] | list[float]) -> Float64:
    """Return the (3, 3) rotation of a quaternion (w, x, y, z), normalised first."""
    w, x, y, z = np.asarray(quaternion, float) / math.hypot(*quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
