"""Two views of which everything is true: shifted planes, and rendered rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from one_worker import SERIAL
from synthetic import plane_pair, view_of

from generation.shards.cameras import cameras_of
from pipelines.config import build
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from training.downstream.datasets.shards import reprojected
from training.downstream.example import Chosen, Example, Splits

MOTION = "camera2_from_camera1"


def write_rooms(folder: Path, num_pairs: int, size: int) -> Path:
    """Write pairs of two furnished rooms, half of each, size x size pixels, with depth."""
    config = {
        "scenes": ["procedural:0-1"],
        "num_pairs": num_pairs,
        "pairs": {"image_size": [size, size], "overlap": "0.4-0.8"},
        "renderer": "embree",
        "shards": {"depth": True},
    }
    render_pairs(build(RenderPairsConfig, config, source="test"), folder, SERIAL)
    return folder


def planes(shift_px, size=36):
    """A frontal plane that moves left by shift_px."""
    view1, view2, depth_m, meta = plane_pair(np.random.default_rng(shift_px), size, shift_px)
    camera1, camera2 = cameras_of(meta)
    flow, occluded = reprojected(view_of(camera1, depth_m), view_of(camera2, depth_m))
    truth = {
        "depth_m": depth_m,
        "depth2_m": depth_m.copy(),
        "flow": flow,
        "occluded": occluded,
        "intrinsics1": camera1.intrinsics,
        "intrinsics2": camera2.intrinsics,
        MOTION: camera2.camera_from_world @ camera1.world_from_camera,
    }
    return Example(name=f"plane {shift_px}", images=(view1, view2), truth=truth)


def some_of(splits, numbers):
    """Judge on the few that are trained on, for so few say nothing about others."""
    few = Chosen(splits.train, numbers)
    return Splits(train=few, val=few)


def dots(picture):
    """Where a picture of dots has colours: all else is grey."""
    return (picture != picture[..., :1]).any(-1)
