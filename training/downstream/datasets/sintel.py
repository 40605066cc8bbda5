"""MPI-Sintel: flow and stereo of an animated film (Butler et al., ECCV 2012)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from generation.geometry import Float32
from training.downstream.datasets.folder import (
    Layout,
    files_in,
    folders_in,
    paired,
    read_integers,
    read_rgb,
    require_one_size,
    splits,
)
from training.downstream.datasets.formats import read_flo, read_sintel_disparity
from training.downstream.example import Example, Splits

HELD_OUT = ("temple_2", "temple_3")
"""Of 23 scenes. Source: Weinzaepfel et al., CroCo v2, ICCV 2023."""
_FRAME = re.compile(r"frame_\d{4}")
_STEREO_MASKS = ("occlusions", "outofframe")
FLOW_LAYOUT = Layout(
    title="MPI-Sintel",
    url="http://sintel.is.tue.mpg.de/downloads",
    licence="for research; film CC BY 3.0",
    drawing="""
        training/clean/alley_1/frame_0001.png, ...      MPI-Sintel-complete.zip
        training/final/alley_1/frame_0001.png, ...
        training/flow/alley_1/frame_0001.flo, ...       one less than images
        training/occlusions/alley_1/frame_0001.png, ... not those of the stereo archive
        training/invalid/alley_1/frame_0001.png, ...
        """,
)
STEREO_LAYOUT = Layout(
    title="MPI-Sintel Stereo",
    url="http://sintel.is.tue.mpg.de/stereo",
    licence="for research; film CC BY 3.0",
    drawing="""
        training/clean_left/alley_1/frame_0001.png, ...     sintel_stereo_final: final_left
        training/clean_right/alley_1/frame_0001.png, ...    and final_right
        training/disparities/alley_1/frame_0001.png, ...
        training/occlusions/alley_1/frame_0001.png, ...     not those of the flow archive
        training/outofframe/alley_1/frame_0001.png, ...
        """,
)

RenderPass = Literal["clean", "final"]


def open_sintel(root: Path, *, render_pass: RenderPass = "clean") -> Splits:
    """Open flow from each frame to the next, validated on HELD_OUT.

    Flow is unknown where the dataset calls it invalid. Raises CrossviewError where files are
    missing, or the stereo archive was unpacked into the same folder.
    """
    training, masks = root / "training", ("occlusions", "invalid")
    _refuse_both(FLOW_LAYOUT, root, other="disparities")
    FLOW_LAYOUT.require(root, *(f"training/{part}" for part in (render_pass, "flow", *masks)))
    images = set(_frames(training / render_pass, ".png"))
    kinds = {
        f"{render_pass} image of the frame or the next": {f for f in images if _next(f) in images},
        "flow": _frames(training / "flow", ".flo"),
    }
    frames = paired(training, kinds)
    files = [training / mask / f"{frame}.png" for mask in masks for frame in frames]
    FLOW_LAYOUT.require_files(root, files)
    return _splits(FLOW_LAYOUT, root, frames, partial(_read_flow, training, render_pass))


def open_sintel_stereo(root: Path, *, render_pass: RenderPass) -> Splits:
    """Open the left and right image of each frame, validated on HELD_OUT.

    Disparity is unknown outside of the right image: the owners do not judge there. Raises
    CrossviewError where files are missing, or the flow archive was unpacked into the same folder.
    """
    training = root / "training"
    _refuse_both(STEREO_LAYOUT, root, other="flow")
    parts = (f"{render_pass}_left", f"{render_pass}_right", "disparities", *_STEREO_MASKS)
    STEREO_LAYOUT.require(root, *(f"training/{part}" for part in parts))
    frames = paired(training, {part: _frames(training / part, ".png") for part in parts})
    return _splits(STEREO_LAYOUT, root, frames, partial(_read_stereo, training, render_pass))


def _refuse_both(layout: Layout, root: Path, *, other: str) -> None:
    """Raise CrossviewError where the truth of the other archive is too."""
    if (root / "training" / other).exists():
        raise layout.error(
            root,
            f"training/{other} is of Sintel's other archive, whose training/occlusions have the "
            "same names and another meaning; unpack each archive into its own folder",
        )


def _frames(folder: Path, ending: str) -> list[str]:
    """Return 'alley_1/frame_0001' and so on, of the files with this ending."""
    paths = [path for scene in folders_in(folder) for path in files_in(scene, (ending,))]
    return [f"{path.parent.name}/{path.stem}" for path in paths if _FRAME.fullmatch(path.stem)]


def _next(frame: str) -> str:
    return f"{frame[:-4]}{int(frame[-4:]) + 1:04d}"


def _splits(
    layout: Layout, root: Path, frames: Sequence[str], read: Callable[[str], Example]
) -> Splits:
    scenes = [frame.partition("/")[0] for frame in frames]
    train = [frame for frame, scene in zip(frames, scenes) if scene not in HELD_OUT]
    val = [frame for frame, scene in zip(frames, scenes) if scene in HELD_OUT]
    return splits(layout, root, train, val, read)


def _read_flow(training: Path, render_pass: RenderPass, frame: str) -> Example:
    files = (
        f"flow/{frame}.flo",
        f"{render_pass}/{frame}.png",
        f"{render_pass}/{_next(frame)}.png",
        f"occlusions/{frame}.png",
        f"invalid/{frame}.png",
    )
    return _example(frame, [training / file for file in files], "flow", read_flo)


def _read_stereo(training: Path, render_pass: RenderPass, frame: str) -> Example:
    parts = ("disparities", f"{render_pass}_left", f"{render_pass}_right", *_STEREO_MASKS)
    paths = [training / part / f"{frame}.png" for part in parts]
    return _example(frame, paths, "disparity", read_sintel_disparity)


def _example(
    frame: str, paths: Sequence[Path], name: str, read: Callable[[Path], Float32]
) -> Example:
    """Read the truth of this name, both images, and masks of what is occluded and unknown."""
    truth, first, second = read(paths[0]), read_rgb(paths[1]), read_rgb(paths[2])
    occluded, unknown = (read_integers(path) > 0 for path in paths[3:])
    require_one_size(dict(zip(paths, (truth, first, second, occluded, unknown))))
    truth[unknown] = np.nan
    return Example(name=frame, images=(first, second), truth={name: truth, "occluded": occluded})
