"""NYU Depth V2: the labeled .mat, or folders of images and depth maps made from it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from generation.errors import CrossviewError
from generation.geometry import Float32
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    paired,
    read_channels,
    read_rgb,
    require_one_size,
)
from training.downstream.example import Example, Splits

logger = logging.getLogger(__name__)

LABELED = "nyu_depth_v2_labeled.mat"
LAYOUT = Layout(
    title="NYU Depth V2",
    url="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    licence="for research",
    drawing="""
    nyu_depth_v2_labeled.mat                     1449 images
    splits.mat                                   the official 795 and 654 of them
or the same as files, depth as 16-bit PNG in millimetres:
    train/SCENE/rgb_00045.jpg                    train may be called sync,
    train/SCENE/sync_depth_00045.png             test official_splits/test or val
    test/SCENE/rgb_00045.jpg
    test/SCENE/sync_depth_00045.png
or
    train/rgb/NAME.jpg, train/depth/NAME.png     rgb may be called image, images or color,
    test/rgb/NAME.jpg, test/depth/NAME.png       depth depths
    """,
)
MAX_DEPTH_M = 10.5
"""The Kinect sees no further: a file of larger numbers is in another unit."""
_TRAIN_FOLDERS = ("train", "sync")
_TEST_FOLDERS = ("test", "official_splits/test", "val")
_IMAGE_FOLDERS = ("rgb", "image", "images", "color")
_DEPTH_FOLDERS = ("depth", "depths")


def open_nyuv2(root: Path) -> Splits:
    """Open NYU Depth V2; examples have `depth_m`, NaN where the file has 0.

    Of the .mat, which fills holes in, where its rawDepths are 0. Without a splits.mat, each second
    scene by name is judged on. Source: Silberman et al., Indoor Segmentation and Support Inference
    from RGBD Images (ECCV 2012). Raises CrossviewError where files are missing or do not fit.
    """
    LAYOUT.require(root)
    if (root / LABELED).exists():
        return _open_labeled(root)
    return Splits(train=_open_folder(root, _TRAIN_FOLDERS), val=_open_folder(root, _TEST_FOLDERS))


def _open_labeled(root: Path) -> Splits:
    path = root / LABELED
    with _opened(path) as file:
        for name in ("images", "depths", "rawDepths"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise CrossviewError(f"{path}: no array {name}; found {', '.join(file)}")
        num_images, height_width = len(file["images"]), file["images"].shape[2:]
        for name in ("depths", "rawDepths"):
            if file[name].shape != (num_images, *height_width):
                raise CrossviewError(
                    f"{path}: images of shape {file['images'].shape} but {name} of shape "
                    f"{file[name].shape}"
                )
    if (root / "splits.mat").exists():
        train, test = _official(root / "splits.mat", num_images)
    else:
        logger.warning("%s: no splits.mat; judging on each second scene", root)
        train, test = _by_scene(path, num_images)
    read = partial(_read_labeled, path)
    return Splits(train=FromFiles(train, read), val=FromFiles(test, read))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a MATLAB 7.3 file, which is HDF5; its arrays have MATLAB's axes in reverse."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise CrossviewError(f"{path}: not a whole HDF5 file ({error}); fetch it again") from error


def _official(path: Path, num_images: int) -> tuple[list[int], list[int]]:
    try:
        splits = scipy.io.loadmat(path)
        train, test = (splits[name].ravel().astype(int) for name in ("trainNdxs", "testNdxs"))
    except Exception as error:  # SciPy raises half a dozen kinds on damaged files
        raise CrossviewError(f"{path}: no trainNdxs and testNdxs ({error})") from error
    both = np.concatenate([train, test])
    fits = np.isin(both, np.arange(num_images) + 1).all() and len(np.unique(both)) == len(both)
    if not fits or not len(train) or not len(test):
        raise CrossviewError(
            f"{path}: {len(train)} trainNdxs and {len(test)} testNdxs; expected some of each, all "
            f"different, from 1 to the {num_images} images of {LABELED}"
        )
    return (train - 1).tolist(), (test - 1).tolist()


def _by_scene(path: Path, num_images: int) -> tuple[list[int], list[int]]:
    with _opened(path) as file:
        if "scenes" not in file:
            raise CrossviewError(f"{path.parent}: no splits.mat, and {path.name} names no scenes")
        texts = [file[reference] for reference in file["scenes"][:].ravel()]
        scenes = ["".join(map(chr, text[:].ravel())) for text in texts]
    judged = set(sorted(set(scenes))[1::2])
    train = [number for number in range(num_images) if scenes[number] not in judged]
    return train, [number for number in range(num_images) if scenes[number] in judged]


def _read_labeled(path: Path, number: int) -> Example:
    # Opened anew each time, which takes a millisecond: HDF5's handles do not survive a fork.
    with _opened(path) as file:
        image, depth_m = file["images"][number], file["depths"][number]
        measured = file["rawDepths"][number] > 0
    return Example(
        name=f"{number + 1:04}",
        images=(np.ascontiguousarray(image.transpose(2, 1, 0)),),
        truth={"depth_m": _known(np.where(measured, depth_m, 0).T)},
    )


def _open_folder(root: Path, names: tuple[str, ...]) -> FromFiles[Any]:
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise LAYOUT.error(root, f"no {LABELED} and no folder {' or '.join(names)}")
    images: dict[str, Path] = {}
    depths: dict[str, Path] = {}
    walk = os.walk(folder, followlinks=True)  # scenes may lie on several disks
    for path in sorted(Path(place) / name for place, _, names in walk for name in names):
        kind, key = _kind_and_key(path.relative_to(folder))
        if kind:
            (images if kind == "image" else depths)[key] = path
    keys = paired(folder, {"image": images, "depth map": depths})
    if not keys:
        raise LAYOUT.error(folder, "no images and depth maps")
    entries = [(key, images[key], depths[key]) for key in keys]
    return FromFiles(entries, _read_files)


def _kind_and_key(path: Path) -> tuple[str, str]:
    """Return 'image', 'depth' or nothing, and what an image and its depth map have in common."""
    folders, name = path.parts[:-1], path.stem
    if name.startswith(".") or path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return "", ""
    if of_scene := re.fullmatch(r"(rgb|sync_depth)_(\d+)", name):  # not sync_depth_dense_00045
        kind, number = of_scene.groups()
        return "image" if kind == "rgb" else "depth", "/".join((*folders, number))
    for kind, kind_folders in (("image", _IMAGE_FOLDERS), ("depth", _DEPTH_FOLDERS)):
        others = [folder for folder in folders if folder not in kind_folders]
        if len(others) < len(folders):
            return kind, "/".join((*others, name))
    return "", ""


def _read_files(entry: tuple[str, Path, Path]) -> Example:
    name, image_path, depth_path = entry
    image, depth_mm = read_rgb(image_path), read_channels(depth_path)
    require_one_size({image_path: image, depth_path: depth_mm})
    if depth_mm.dtype != np.uint16:
        raise CrossviewError(
            f"{depth_path}: {depth_mm.shape[2]} channels of {8 * depth_mm.itemsize} bits; expected "
            "millimetres, 1 of 16"
        )
    if depth_mm.max() > 1000 * MAX_DEPTH_M:
        raise CrossviewError(
            f"{depth_path}: read in millimetres, its depths reach {depth_mm.max() / 1000:.2f} m; "
            f"expected at most {MAX_DEPTH_M} m, as a Kinect sees. Write them in millimetres (those "
            f"of MultiMAE's prepare_nyuv2.py are in 10 / 65536 m), or take the {LABELED} that they "
            "come from"
        )
    truth = {"depth_m": _known(depth_mm[..., 0] / 1000)}
    return Example(name=name, images=(image,), truth=truth)


def _known(depth_m: NDArray[Any]) -> Float32:
    known = np.isfinite(depth_m) & (depth_m > 0)
    return np.where(known, depth_m, np.nan).astype(np.float32)
