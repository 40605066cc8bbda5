"""ScanNet-1500: the pairs on which relative poses are judged, and nothing to train on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import Float32, Float64, Int32, UInt8, invert_rigid
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    read_integers,
    read_matrix,
    read_rgb,
    require_one_size,
)
from training.downstream.datasets.poses import read_pose, rigid
from training.downstream.example import Example, Splits

LAYOUT = Layout(
    title="ScanNet-1500",
    url="https://github.com/zju3dv/LoFTR",
    licence="ScanNet's terms of use are to be signed; for non-commercial research",
    drawing="""
    test.npz                                                   in assets/scannet_test_1500 there
    scannet_test_1500/scene0707_00/color/15.jpg                or directly scene0707_00/...
    scannet_test_1500/scene0707_00/depth/15.png                16 bits, millimetres
    scannet_test_1500/scene0707_00/pose/15.txt                 if test.npz has no rel_pose
    scannet_test_1500/scene0707_00/intrinsic/intrinsic_depth.txt
    """,
)


class _Pair(NamedTuple):
    scene: str
    frames: tuple[int, int]
    camera2_from_camera1: Float64 | None
    """None: as the files of poses say."""


def open_scannet1500(root: Path) -> Splits:
    """Open ScanNet-1500; pairs have `camera2_from_camera1`, intrinsics and depths.

    train is empty: train on other data. Images are brought to the size of the depth maps, 640 x
    480, as the benchmark does; depth and intrinsics are the depth camera's, with which the
    images are aligned. Poses are rel_pose of test.npz or, where it has none, from the files of
    poses. Source: Sarlin et al., SuperGlue (CVPR 2020); Dai et al., ScanNet (CVPR 2017). Raises
    CrossviewError naming the files that are missing or do not fit.
    """
    LAYOUT.require(root, "test.npz")
    scenes = root / "scannet_test_1500"
    scenes = scenes if scenes.is_dir() else root
    pairs = _pairs(root / "test.npz")
    if not any((scenes / pair.scene).is_dir() for pair in pairs):
        raise LAYOUT.error(root, f"no folder {pairs[0].scene} of test.npz")
    needed = (path for pair in pairs for path in _files(scenes, pair))
    LAYOUT.require_files(root, sorted(set(needed)))
    read = partial(_read, scenes)
    return Splits(train=FromFiles((), read), val=FromFiles(pairs, read))


def _pairs(path: Path) -> list[_Pair]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays["name"].astype(np.int64)
            poses = arrays["rel_pose"].astype(np.float64) if "rel_pose" in arrays else None
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on damaged files
        raise CrossviewError(f"{path}: no array name of numbers ({error})") from error
    if names.ndim != 2 or names.shape[1] != 4 or not len(names):
        raise CrossviewError(
            f"{path}: name of shape {names.shape}; expected a row of scene, scan and two frames "
            "for each pair"
        )
    if poses is not None and (len(poses) != len(names) or poses[0].size not in (12, 16)):
        raise CrossviewError(
            f"{path}: rel_pose of shape {poses.shape}; expected 3 x 4 numbers for each of the "
            f"{len(names)} pairs"
        )
    pairs = []
    for number, (scene, scan, first, second) in enumerate(names.tolist()):
        motion = None
        if poses is not None:
            rows = poses[number].reshape(-1, 4)[:3]
            motion = rigid(np.vstack([rows, [0, 0, 0, 1]]), f"{path}: rel_pose of pair {number}")
        pairs.append(_Pair(f"scene{scene:04}_{scan:02}", (first, second), motion))
    return pairs


def _files(scenes: Path, pair: _Pair) -> list[Path]:
    """Return images, depth maps and intrinsics of a pair, then poses where they are needed."""
    folder = scenes / pair.scene
    paths = [folder / "color" / f"{frame}.jpg" for frame in pair.frames]
    paths += [folder / "depth" / f"{frame}.png" for frame in pair.frames]
    paths.append(folder / "intrinsic" / "intrinsic_depth.txt")
    if pair.camera2_from_camera1 is None:
        paths += [folder / "pose" / f"{frame}.txt" for frame in pair.frames]
    return paths


def _read(scenes: Path, pair: _Pair) -> Example:
    image1, image2, depth1, depth2, intrinsics_path, *poses = _files(scenes, pair)
    depths = {path: read_integers(path) for path in (depth1, depth2)}
    require_one_size(depths)
    size = depths[depth1].shape
    camera2_from_camera1 = pair.camera2_from_camera1
    if camera2_from_camera1 is None:
        world_from_camera1, world_from_camera2 = (read_pose(path) for path in poses)
        camera2_from_camera1 = invert_rigid(world_from_camera2) @ world_from_camera1
    intrinsics = _intrinsics(intrinsics_path)
    return Example(
        name=f"{pair.scene}/{pair.frames[0]} {pair.frames[1]}",
        images=(_resized(image1, size), _resized(image2, size)),
        truth={
            "camera2_from_camera1": camera2_from_camera1.copy(),
            "intrinsics1": intrinsics,
            "intrinsics2": intrinsics.copy(),
            "depth_m": _depth_m(depths[depth1]),
            "depth2_m": _depth_m(depths[depth2]),
        },
    )


def _intrinsics(path: Path) -> Float64:
    intrinsics = read_matrix(path, (4, 4))[:3, :3].copy()
    intrinsics[:2, 2] += 0.5  # ScanNet counts from the middle of the first pixel
    return intrinsics


def _resized(path: Path, size: tuple[int, ...]) -> UInt8:
    image = read_rgb(path)
    height, width = size
    if abs(image.shape[1] * height / (image.shape[0] * width) - 1) > 0.01:
        raise CrossviewError(
            f"{path}: {image.shape[0]} x {image.shape[1]} pixels, which do not have the shape of "
            f"its {height} x {width} depth map"
        )
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized)


def _depth_m(depth_mm: Int32) -> Float32:
    return np.where(depth_mm > 0, depth_mm / 1000, np.nan).astype(np.float32)
