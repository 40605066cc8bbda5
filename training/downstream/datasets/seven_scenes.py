"""7-Scenes: pairs of frames of one room, and how the camera moved between them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from generation.errors import CrossviewError
from generation.geometry import Float32, Float64, Int32, invert_rigid
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    files_in,
    paired,
    read_integers,
    read_rgb,
    require_one_size,
)
from training.downstream.datasets.poses import read_pose
from training.downstream.example import Example, Splits

LAYOUT = Layout(
    title="7-Scenes",
    url="https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    licence="for non-commercial use",
    drawing="""
    chess/TrainSplit.txt                       a line for each sequence: sequence1
    chess/TestSplit.txt
    chess/seq-01/frame-000000.color.png        each seq-XX.zip unpacked
    chess/seq-01/frame-000000.depth.png        16 bits, millimetres
    chess/seq-01/frame-000000.pose.txt         world from camera
    ...                                        fire, heads, office, pumpkin, redkitchen, stairs
    """,
)
INTRINSICS: Float64 = np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]])
"""In pixels of 640 x 480: the owners' own default; neither camera was calibrated."""
MIN_FRAMES_APART = 30
"""A second of one sequence."""
MAX_DISTANCE_M = 1.0
"""Of pairs to train on: a turn by 28 degrees or a shift by 0.7 m, half of what a view shows."""
_AHEAD_M = 2.0
_KINDS = ("color.png", "depth.png", "pose.txt")
_UNKNOWN_MM = (0, 65535)


class _Frame(NamedTuple):
    sequence: Path
    name: str
    """frame-000000."""
    number: int
    """In its sequence."""
    world_from_camera: Float64


def open_seven_scenes(root: Path) -> Splits:
    """Open 7-Scenes; pairs have `camera2_from_camera1`, intrinsics and depths.

    The distance of two views is that of two points together, the camera's centre and one 2 m
    ahead of it: sqrt(|c1 - c2|^2 + |a1 - a2|^2). Each test frame comes with the train frame of its
    scene that is nearest. Each train frame comes with the nearest train frame that is of another
    sequence or at least 30 frames away, unless that is further than 1 m.

    All scenes that are there are read. Depth is the depth camera's, a few centimetres beside the
    other and not aligned with it, as the owners ship it. Source: Shotton et al., Scene Coordinate
    Regression Forests (CVPR 2013). Raises CrossviewError where files are missing.
    """
    LAYOUT.require(root)
    parts = ("*/TrainSplit.txt", "*/TestSplit.txt", "*/seq-*")
    names = sorted({path.parent.name for part in parts for path in root.glob(part)})
    if not names:
        raise LAYOUT.error(root, "no scene with a TrainSplit.txt")
    train: list[tuple[_Frame, _Frame]] = []
    test: list[tuple[_Frame, _Frame]] = []
    for name in names:
        train_frames = _frames(root, name, "TrainSplit.txt")
        train += _train_pairs(train_frames)
        test += _test_pairs(_frames(root, name, "TestSplit.txt"), train_frames)
    if not train:
        raise CrossviewError(f"{root}: no two frames to train on are within {MAX_DISTANCE_M} m")
    read = partial(_read, root)
    return Splits(train=FromFiles(train, read), val=FromFiles(test, read))


def _frames(root: Path, scene: str, split_file: str) -> list[_Frame]:
    path = root / scene / split_file
    LAYOUT.require(root, f"{scene}/{split_file}")
    frames: list[_Frame] = []
    for line in path.read_text("utf-8", "replace").split():
        if not line.removeprefix("sequence").isdecimal():
            raise CrossviewError(f"{path}: {line!r}; expected lines such as sequence1")
        sequence = root / scene / f"seq-{int(line.removeprefix('sequence')):02}"
        LAYOUT.require(root, f"{scene}/{sequence.name}")
        kinds = {
            kind: [file.name.split(".")[0] for file in files_in(sequence, (f".{kind}",))]
            for kind in _KINDS
        }
        for number, name in enumerate(paired(sequence, kinds)):
            pose = read_pose(sequence / f"{name}.pose.txt")
            frames.append(_Frame(sequence, name, number, pose))
    if not frames:
        raise LAYOUT.error(root, f"no frames of {scene}/{split_file}")
    return frames


def _places(frames: list[_Frame]) -> Float64:
    """Return (N, 6): what the distance of two views is measured on."""
    poses = np.stack([frame.world_from_camera for frame in frames])
    centres, forward = poses[:, :3, 3], poses[:, :3, 2]
    return np.concatenate([centres, centres + _AHEAD_M * forward], axis=1)


def _test_pairs(test: list[_Frame], train: list[_Frame]) -> list[tuple[_Frame, _Frame]]:
    _, nearest = KDTree(_places(train)).query(_places(test))
    return [(frame, train[number]) for frame, number in zip(test, nearest)]


def _train_pairs(frames: list[_Frame]) -> list[tuple[_Frame, _Frame]]:
    places = _places(frames)
    num_candidates = min(
        len(frames), 2 * MIN_FRAMES_APART
    )  # one more than can be too close in time
    distances_m, numbers = KDTree(places).query(places, k=range(1, num_candidates + 1))
    pairs = []
    for frame, row_m, candidates in zip(frames, distances_m, numbers):
        for distance_m, candidate in zip(row_m, (frames[number] for number in candidates)):
            if distance_m > MAX_DISTANCE_M:
                break
            if (
                candidate.sequence != frame.sequence
                or abs(candidate.number - frame.number) >= MIN_FRAMES_APART
            ):
                pairs.append((frame, candidate))
                break
    return pairs


def _read(root: Path, pair: tuple[_Frame, _Frame]) -> Example:
    first, second = pair
    files = {
        frame.sequence / f"{frame.name}.color.png": frame.sequence / f"{frame.name}.depth.png"
        for frame in pair
    }
    images = {path: read_rgb(path) for path in files}
    depths = {path: read_integers(path) for path in files.values()}
    require_one_size({**images, **depths})
    depth_m, depth2_m = (_depth_m(depth) for depth in depths.values())
    name1, name2 = (f"{frame.sequence.relative_to(root)}/{frame.name}" for frame in pair)
    return Example(
        name=f"{name1} {name2}",
        images=tuple(images.values()),
        truth={
            "camera2_from_camera1": invert_rigid(second.world_from_camera)
            @ first.world_from_camera,
            "intrinsics1": INTRINSICS.copy(),
            "intrinsics2": INTRINSICS.copy(),
            "depth_m": depth_m,
            "depth2_m": depth2_m,
        },
    )


def _depth_m(depth_mm: Int32) -> Float32:
    known = ~np.isin(depth_mm, _UNKNOWN_MM)
    return np.where(known, depth_mm / 1000, np.nan).astype(np.float32)
