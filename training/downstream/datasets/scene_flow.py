"""Scene Flow: stereo of rendered things, an animated film, drives (Mayer et al., CVPR 2016)."""

from __future__ import annotations

import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from generation.errors import CrossviewError
from training.downstream.datasets.folder import (
    Layout,
    files_in,
    paired,
    read_rgb,
    require_one_size,
    splits,
)
from training.downstream.datasets.formats import read_pfm_disparity
from training.downstream.example import Example, Splits

logger = logging.getLogger(__name__)

_PARTS = ("TRAIN/", "TEST/")
"""Of FlyingThings3D."""
_UNUSED = "all_unused_files.txt"
_UNUSED_LINE = re.compile(r"((?:TRAIN|TEST)/[ABC]/\d{4})/(?:left|right)/(\d{4})\.png")
LAYOUT = Layout(
    title="Scene Flow Datasets",
    url="https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html",
    licence="for research",
    drawing="""
        frames_cleanpass/TRAIN/A/0000/left/0006.png, ...    scene_flow_final: frames_finalpass
        frames_cleanpass/TRAIN/A/0000/right/0006.png, ...
        frames_cleanpass/TEST/...
        disparity/TRAIN/A/0000/left/0006.pfm, ...
        disparity/TEST/...
        all_unused_files.txt                                may be missing
        and, unpacked into the same folders where wanted, Monkaa and Driving:
        frames_cleanpass/a_rain_of_stones_x2/left/0048.png, ...
        frames_cleanpass/15mm_focallength/scene_forwards/fast/left/0001.png, ...
        disparity/...
        """,
)


def open_scene_flow(root: Path, *, render_pass: Literal["clean", "final"]) -> Splits:
    """Open FlyingThings3D's TRAIN, validated on its TEST. Nobody knows what is occluded.

    Monkaa and Driving, which have no such parts, are trained on where they are there too. Frames of
    the owners' all_unused_files.txt, where things come too near for sensible disparities, are left
    out. Raises CrossviewError where files are missing, or that list is not one of them.
    """
    frames = f"frames_{render_pass}pass"
    LAYOUT.require(root, *(f"{f}/{part}" for f in (frames, "disparity") for part in _PARTS))
    unused = _unused(root)
    names = _names(root, frames, unused)
    val = [name for name in names if name.startswith("TEST/")]
    train = [name for name in names if not name.startswith("TEST/")]
    return splits(LAYOUT, root, train, val, partial(_read, root, frames))


def _unused(root: Path) -> set[str]:
    """Return 'TRAIN/A/0004/0006' and so on. Raises CrossviewError for a line of another kind."""
    path = root / _UNUSED
    if not path.exists():
        logger.warning(
            "%s: no %s of the dataset's page; its frames with disparities of hundreds of pixels "
            "and more are judged on",
            root,
            _UNUSED,
        )
        return set()
    unused = set()
    for line in path.read_text("ascii", "replace").split() or [""]:  # an empty file is no list
        frame = _UNUSED_LINE.fullmatch(line)
        if frame is None:
            raise CrossviewError(
                f"{path}: {line!r}; expected lines such as TRAIN/A/0004/left/0006.png; fetch it "
                "again from the dataset's page, or remove it"
            )
        unused.add(f"{frame[1]}/{frame[2]}")
    return unused


def _names(root: Path, frames: str, unused: set[str]) -> list[str]:
    """Return 'TRAIN/A/0000/0006' and so on, without those that are unused."""
    files = ((frames, "left", ".png"), (frames, "right", ".png"), ("disparity", "left", ".pfm"))
    kinds = {
        f"{kind}/{side}": {*_files(root / kind, side, ending)} - unused
        for kind, side, ending in files
    }
    # The disparities are of both passes, and Monkaa and Driving may be there with the other one.
    shown = {name.rpartition("/")[0] for name in kinds[f"{frames}/left"]}
    return paired(
        root / frames,
        {
            kind: [n for n in names if n.startswith(_PARTS) or n.rpartition("/")[0] in shown]
            for kind, names in kinds.items()
        },
    )


def _files(folder: Path, side: str, ending: str) -> list[str]:
    """Return all below a folder, also below links to others."""
    names: list[str] = []
    for place, folders, _ in os.walk(folder, followlinks=True):
        if side in folders:
            folders.clear()  # what lies beside it, of the other camera, need not be listed
            sequence = Path(place).relative_to(folder).as_posix()
            files = files_in(Path(place) / side, (ending,))
            names += [f"{sequence}/{path.stem}" for path in files]
    return names


def _read(root: Path, frames: str, name: str) -> Example:
    sequence, _, frame = name.rpartition("/")
    left, right = (root / frames / sequence / side / f"{frame}.png" for side in ("left", "right"))
    disparity = root / "disparity" / sequence / "left" / f"{frame}.pfm"
    maps: dict[Path, NDArray[Any]] = {left: read_rgb(left), right: read_rgb(right)}
    maps[disparity] = read_pfm_disparity(disparity)
    require_one_size(maps)
    if np.isnan(maps[disparity]).all():
        raise CrossviewError(
            f"{disparity}: no disparity is above 0; expected how much further left a point lies in "
            "the right image, in pixels; unpack the dataset's own archive"
        )
    truth = {"disparity": maps[disparity]}
    return Example(name=name, images=(maps[left], maps[right]), truth=truth)
