"""The cameras that a pair's meta.json records."""

from __future__ import annotations

from typing import Any

import numpy as np

from generation.geometry import Camera, Float64

POSES = ("world_from_camera1", "world_from_camera2")


def cameras_of(record: dict[str, Any]) -> tuple[Camera, Camera]:
    """Return both cameras.

    Raises KeyError, TypeError or ValueError where a pose is not rigid, or anything else of them is
    not as the schema says.
    """
    first, second = (_camera(record, pose) for pose in POSES)
    return first, second


def _camera(record: dict[str, Any], pose: str) -> Camera:
    world_from_camera = _matrix(record, pose, 4)
    rotation = world_from_camera[:3, :3]
    if (
        not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        or np.linalg.det(rotation) < 0
        or (world_from_camera[3] != [0, 0, 0, 1]).any()
    ):
        raise ValueError(f"{pose} is not rigid")
    height, width = (int(size) for size in record["image_size"])
    if min(height, width) < 1:
        raise ValueError(f"image_size is {height} x {width}")
    intrinsics = _matrix(record, "intrinsics", 3)
    if intrinsics[0, 1] or intrinsics[1, 0] or (intrinsics[2] != [0, 0, 1]).any():
        raise ValueError("intrinsics are more than focal lengths and a principal point")
    return Camera(
        intrinsics=intrinsics,
        world_from_camera=world_from_camera,
        image_size=(height, width),
    )


def _matrix(record: dict[str, Any], name: str, size: int) -> Float64:
    matrix = np.array(record[name], float)
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        raise ValueError(f"{name} is not a {size} x {size} matrix of numbers")
    return matrix
