"""Camera poses in text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from generation.errors import CrossviewError
from generation.geometry import Float64
from training.downstream.datasets.folder import read_matrix

_TOLERANCE = 1e-2


def read_pose(path: Path) -> Float64:
    """Read a (4, 4) world_from_camera: four rows of four numbers, metres.

    Raises CrossviewError where the file is missing, or the matrix is not a rigid motion.
    """
    return rigid(read_matrix(path, (4, 4)), str(path))


def rigid(matrix: Float64, where: str) -> Float64:
    """Return a (4, 4) matrix. Raises CrossviewError unless it is a rotation and a translation."""
    rotation = matrix[:3, :3]
    if not (
        np.isfinite(matrix).all()
        and np.abs(rotation.T @ rotation - np.eye(3)).max() < _TOLERANCE
        and np.linalg.det(rotation) > 0
        and np.abs(matrix[3] - (0, 0, 0, 1)).max() < _TOLERANCE
    ):
        raise CrossviewError(
            f"{where}: expected a rotation and a translation, found {matrix.round(4).tolist()}; "
            "the camera was not tracked there, or the file is another one"
        )
    return matrix
