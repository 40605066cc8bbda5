"""Navigation meshes: the triangles on which a person can stand, as habitat-sim has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from generation.geometry import Float64
from generation.scenes.asset_config import STAGE_CONFIG_ENDING
from generation.scenes.composed import SCENE_INSTANCE_ENDING


def navmesh_beside(path: Path) -> Path | None:
    """Return the navigation mesh that lies beside a mesh, stage or scene instance, or None.

    NAME.navmesh or, as HM3D has it, NAME.basis.navmesh, for NAME.glb and NAME.basis.glb.
    """
    endings = (STAGE_CONFIG_ENDING, SCENE_INSTANCE_ENDING, path.suffix)
    stem = path.name.removesuffix(next(end for end in endings if path.name.endswith(end)))
    for ending in (".navmesh", ".basis.navmesh"):
        beside = path.with_name(stem.removesuffix(".basis") + ending)
        if beside.is_file():
            return beside
    return None


def places_on(corners: Float64, step_m: float) -> Float64:
    """Return (N, 3) places on (T, 3, 3) triangles, in metres, one in each square of step_m.

    They lie in the middle of the squares of a grid in x and z.
    """
    found = [np.zeros((0, 3))]
    for a, b, c in corners:
        flat = np.array([b - a, c - a])[:, [0, 2]].T
        if abs(np.linalg.det(flat)) < 1e-12:  # upright, or a line
            continue
        in_steps = np.array([a, b, c])[:, [0, 2]] / step_m
        low, high = np.floor(in_steps.min(axis=0)), np.ceil(in_steps.max(axis=0))
        squares = np.stack(
            np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), axis=-1
        ).reshape(-1, 2)
        centres = (squares + 0.5) * step_m
        weights = (centres - a[[0, 2]]) @ np.linalg.inv(flat).T
        inside = (weights >= 0).all(axis=1) & (weights.sum(axis=1) <= 1)
        heights = a[1] + weights @ np.array([b - a, c - a])[:, 1]
        found.append(np.column_stack([centres[:, 0], heights, centres[:, 1]])[inside])
    places = np.concatenate(found)
    # Triangles share their edges, and the places on those.
    squares = np.floor(places / step_m + [0.25, 0.5, 0.25])
    return places[np.unique(squares, axis=0, return_index=True)[1]]
