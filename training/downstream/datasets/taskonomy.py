"""Taskonomy: eight dense targets of views in scanned buildings, depth in two ways."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from generation.errors import CrossviewError, first_few
from generation.geometry import Bool, Float32
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    files_in,
    read_channels,
    read_rgb,
    require_one_size,
)
from training.downstream.example import Example, Splits

logger = logging.getLogger(__name__)

LAYOUT = Layout(
    title="Taskonomy",
    url="https://github.com/StanfordVL/taskonomy/tree/master/data",
    licence="for non-commercial research and education",
    drawing="""
    train_val_test_tiny.csv                                 or another size; may be missing
    BUILDING/rgb/point_0_view_0_domain_rgb.png              or rgb/BUILDING/...,
    BUILDING/normal/point_0_view_0_domain_normal.png        or rgb/taskonomy/BUILDING/...
    BUILDING/depth_zbuffer/point_0_view_0_domain_depth_zbuffer.png
    ...                                                     the same of each target, and of a depth
                                                            or Omnidata's mask_valid
    """,
)


@dataclass(frozen=True)
class Encoding:
    """How a target is stored."""

    num_channels: int
    """The first ones of the file; others repeat or are empty."""
    bits: Literal[8, 16]
    """Of each stored number."""
    zero: int
    """The stored number that means 0."""
    one: int
    """The stored number that means 1."""

    def decoded(self, stored: NDArray[Any], path: Path) -> Float32:
        """Return (H, W, num_channels) values of a file's (H, W, C) numbers.

        Raises CrossviewError where the file has other bits, or fewer channels.
        """
        bits = 8 * stored.dtype.itemsize
        if bits != self.bits or stored.shape[2] < self.num_channels:
            raise CrossviewError(
                f"{path}: {stored.shape[2]} channels of {bits} bits; expected {self.num_channels} "
                f"of {self.bits}"
            )
        values = stored[..., : self.num_channels].astype(np.float32)
        return (values - np.float32(self.zero)) / np.float32(self.one - self.zero)


TARGETS = {
    "principal_curvature": Encoding(2, 8, 127, 255),
    "depth_zbuffer": Encoding(1, 16, 0, 512),
    "depth_euclidean": Encoding(1, 16, 0, 512),
    "edge_texture": Encoding(1, 16, 0, 65535),
    "edge_occlusion": Encoding(1, 16, 0, 65535),
    "keypoints2d": Encoding(1, 16, 0, 65535),
    "keypoints3d": Encoding(1, 16, 0, 65535),
    "normal": Encoding(3, 8, 127, 255),
    "reshading": Encoding(1, 8, 0, 255),
}
"""By name. Distances, along the optical axis (zbuffer) or from the camera, are in metres;
normals and curvatures -1 to 1, as far as 8 bits centred on 127 go; edges, keypoints and shading 0
to 1."""
_NO_DEPTH = 65535
_MASKS = (
    ("mask_valid", "mask_valid"),
    ("mask_valid", "depth_zbuffer"),  # how Omnidata's copy names them
    ("depth_euclidean", "depth_euclidean"),
    ("depth_zbuffer", "depth_zbuffer"),
)
"""Folder and ending of the files that tell what is known, the first that there are."""


def open_taskonomy(root: Path, target: str) -> Splits:
    """Open Taskonomy; examples have one of the TARGETS by its name, (H, W, C) float32.

    Pixels are unknown (NaN) where mask_valid, which Omnidata adds, is 0 or, without such files,
    where a depth is 65535; only images and files of the target and of the mask are needed. Views
    that lack one are left out: the owners' files have such holes. Buildings are split by the
    owners' table in root, train_val_test_*.csv (id,train,val,test), of which test is judged on;
    without one, each fifth building by name is judged on and the others are trained on. Buildings
    of the table that are not there are left out.

    Source: Zamir et al., Taskonomy (CVPR 2018). Raises CrossviewError where a building has no view
    with all files, or a split has no building.
    """
    pattern, buildings = _arrangement(root)
    folders = _Folders(root, pattern, _mask(root, pattern, buildings[0]))
    train, val = (
        FromFiles(folders.views(names, target), partial(_read, folders, target))
        for names in _split(root, buildings)
    )
    return Splits(train=train, val=val)


@dataclass(frozen=True)
class _Folders:
    """Where each file lies."""

    root: Path
    pattern: str
    mask: tuple[str, str]

    def folder(self, building: str, domain: str) -> Path:
        return self.root / self.pattern.format(building=building, domain=domain)

    def file(self, view: str, domain: str, ending: str) -> Path:
        building, name = view.split("/")
        return self.folder(building, domain) / f"{name}_domain_{ending}.png"

    def views(self, buildings: Iterable[str], target: str) -> NDArray[np.bytes_]:
        """Return 'BUILDING/point_X_view_Y' of all views, small enough for millions."""
        views: list[bytes] = []
        lacking: list[str] = []
        for building in buildings:
            names = {
                domain: _names(self.folder(building, domain), ending)
                for domain, ending in ((target, target), ("rgb", "rgb"), self.mask)
            }
            whole = set.intersection(*names.values())
            if not whole:
                raise CrossviewError(
                    f"{self.root}: no view of {building} has a file in each of {', '.join(names)}; "
                    "unpack the dataset again, or remove the building"
                )
            lacking += [f"{building}/{name}" for name in set.union(*names.values()) - whole]
            views += [os.fsencode(f"{building}/{name}") for name in sorted(whole)]
        if lacking:
            shown = first_few(sorted(lacking))
            logger.warning(
                "%s: left out %d views that lack a file: %s", self.root, len(lacking), shown
            )
        return np.array(views)


def _names(folder: Path, ending: str) -> set[str]:
    ending = f"_domain_{ending}.png"
    return {path.name.removesuffix(ending) for path in files_in(folder, (ending,))}


def _arrangement(root: Path) -> tuple[str, list[str]]:
    """Return how folders lie in root, and the buildings."""
    LAYOUT.require(root)
    if (root / "rgb" / "taskonomy").is_dir():
        pattern = "{domain}/taskonomy/{building}"
    elif (root / "rgb").is_dir():
        pattern = "{domain}/{building}"
    else:
        pattern = "{building}/{domain}"
    part = pattern.split("/").index("{building}")
    images = root.glob(pattern.format(building="*", domain="rgb"))
    buildings = sorted(path.relative_to(root).parts[part] for path in images if path.is_dir())
    if not buildings:
        raise LAYOUT.error(root, "there is no folder rgb of a building")
    return pattern, buildings


def _mask(root: Path, pattern: str, building: str) -> tuple[str, str]:
    for domain, ending in _MASKS:
        folder = root / pattern.format(building=building, domain=domain)
        if folder.is_dir() and files_in(folder, (f"_domain_{ending}.png",)):
            return domain, ending
    raise LAYOUT.error(
        root, f"nothing tells what is known of {building}: neither mask_valid nor a depth"
    )


def _split(root: Path, buildings: list[str]) -> tuple[list[str], list[str]]:
    tables = sorted(root.glob("train_val_test_*.csv"))
    if len(tables) > 1:
        names = first_few(path.name for path in tables)
        raise CrossviewError(f"{root}: several tables of splits ({names}); keep one")
    if not tables:
        logger.warning("%s: no train_val_test_*.csv; judging on each fifth building", root)
        val = buildings[::5]
        train = [name for name in buildings if name not in val]
        split, where = (train, val), f"{root}: without a train_val_test_*.csv"
    else:
        split, where = _by_table(tables[0], buildings), str(tables[0])
    for name, some in zip(("train", "test"), split):
        if not some:
            raise CrossviewError(
                f"{where}, no building is left for {name}; found {first_few(buildings)}"
            )
    return split


def _by_table(path: Path, buildings: list[str]) -> tuple[list[str], list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        splits = {
            split: {row["id"].casefold() for row in rows if int(row[split])}
            for split in ("train", "test")
        }
    except (OSError, KeyError, AttributeError, TypeError, ValueError, csv.Error) as error:
        raise CrossviewError(
            f"{path}: not a table with the columns id,train,val,test of names and 0 or 1 ({error})"
        ) from error
    train, val = (
        [name for name in buildings if name.casefold() in splits[split]]
        for split in ("train", "test")
    )
    return train, val


def _read(folders: _Folders, target: str, entry: bytes) -> Example:
    view = os.fsdecode(entry)
    image_path = folders.file(view, "rgb", "rgb")
    path, mask_path = folders.file(view, target, target), folders.file(view, *folders.mask)
    image, stored, mask = read_rgb(image_path), read_channels(path), read_channels(mask_path)
    require_one_size({image_path: image, mask_path: mask, path: stored})
    known: Bool = mask[..., 0] != (0 if folders.mask[0] == "mask_valid" else _NO_DEPTH)
    values = TARGETS[target].decoded(stored, path)
    values[~known] = np.nan
    if target.startswith("depth_"):
        values[stored == _NO_DEPTH] = np.nan
    return Example(name=view, images=(image,), truth={target: values})
