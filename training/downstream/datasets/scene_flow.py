"""Scene Flow's FlyingThings3D: stereo of rendered things (Mayer et al., CVPR 2016)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from training.downstream.datasets.folder import (
    Layout,
    files_in,
    folders_in,
    paired,
    read_rgb,
    require_one_size,
    splits,
)
from training.downstream.datasets.formats import read_pfm
from training.downstream.example import Example, Splits

_PARTS = ("TRAIN", "TEST")
LAYOUT = Layout(
    title="FlyingThings3D of Scene Flow Datasets",
    url="https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html",
    licence="for research",
    drawing="""
        frames_cleanpass/TRAIN/A/0000/left/0006.png, ...    scene_flow_final: frames_finalpass
        frames_cleanpass/TRAIN/A/0000/right/0006.png, ...
        frames_cleanpass/TEST/...
        disparity/TRAIN/A/0000/left/0006.pfm, ...
        disparity/TEST/...
        """,
)


def open_scene_flow(root: Path, *, render_pass: Literal["clean", "final"]) -> Splits:
    """Open TRAIN, validated on TEST. Nobody knows what is occluded.

    Raises CrossviewError where files are missing.
    """
    frames = f"frames_{render_pass}pass"
    LAYOUT.require(root, *(f"{f}/{part}" for f in (frames, "disparity") for part in _PARTS))
    train, val = (_names(root, frames, part) for part in _PARTS)
    return splits(LAYOUT, root, train, val, partial(_read, root, frames))


def _names(root: Path, frames: str, part: str) -> list[str]:
    """Return 'TRAIN/A/0000/0006' and so on."""
    files = ((frames, "left", ".png"), (frames, "right", ".png"), ("disparity", "left", ".pfm"))
    kinds = {f"{kind}/{side}": _files(root / kind / part, side, end) for kind, side, end in files}
    return [f"{part}/{name}" for name in paired(root / frames / part, kinds)]


def _files(folder: Path, side: str, ending: str) -> list[str]:
    return [
        f"{letter.name}/{sequence.name}/{path.stem}"
        for letter in folders_in(folder)
        for sequence in folders_in(letter)
        for path in files_in(sequence / side, (ending,))
    ]


def _read(root: Path, frames: str, name: str) -> Example:
    sequence, _, frame = name.rpartition("/")
    left, right = (root / frames / sequence / side / f"{frame}.png" for side in ("left", "right"))
    disparity = root / "disparity" / sequence / "left" / f"{frame}.pfm"
    maps: dict[Path, NDArray[Any]] = {left: read_rgb(left), right: read_rgb(right)}
    maps[disparity] = read_pfm(disparity)
    require_one_size(maps)
    truth = {"disparity": maps[disparity]}
    return Example(name=name, images=(maps[left], maps[right]), truth=truth)
