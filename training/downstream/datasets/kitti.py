"""KITTI 2015: flow and stereo of street scenes (Menze and Geiger, CVPR 2015)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from generation.geometry import Bool, Float32
from training.downstream.datasets.folder import (
    Layout,
    files_in,
    paired,
    read_rgb,
    require_one_size,
    splits,
)
from training.downstream.datasets.formats import read_kitti_disparity, read_kitti_flow
from training.downstream.example import Example, Splits

LAYOUT = Layout(
    title="KITTI 2015",
    url="https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php",
    licence="CC BY-NC-SA 3.0",
    drawing="""
        training/image_2/000000_10.png, 000000_11.png, ...      data_scene_flow.zip
        training/image_3/000000_10.png, ...
        training/flow_occ/000000_10.png, ...
        training/flow_noc/000000_10.png, ...
        training/disp_occ_0/000000_10.png, ...
        training/disp_noc_0/000000_10.png, ...
        """,
)


@dataclass(frozen=True)
class _Kind:
    truth: str
    """Its name in Example.truth."""
    read: Callable[[Path], Float32]
    patterns: tuple[str, str, str, str]
    """Both images, the truth of all pixels, and that of pixels which both images show."""


_KINDS = {
    "flow": _Kind(
        "flow",
        read_kitti_flow,
        ("image_2/*_10.png", "image_2/*_11.png", "flow_occ/*_10.png", "flow_noc/*_10.png"),
    ),
    "stereo": _Kind(
        "disparity",
        read_kitti_disparity,
        ("image_2/*_10.png", "image_3/*_10.png", "disp_occ_0/*_10.png", "disp_noc_0/*_10.png"),
    ),
}


def open_kitti(root: Path, *, task: Literal["flow", "stereo"]) -> Splits:
    """Open the training scenes for one task, validated on the last fifth by number.

    Of the 200 that is 000160 to 000199: neighbours may come from one drive, so that scenes drawn
    from everywhere would be seen in training too. Raises CrossviewError where files are missing.
    """
    kind, training = _KINDS[task], root / "training"
    LAYOUT.require(root, *dict.fromkeys(f"training/{Path(p).parent}" for p in kind.patterns))
    names = paired(training, {pattern: _names(training, pattern) for pattern in kind.patterns})
    num_val = max(1, round(0.2 * len(names)))
    read = partial(_read, training, kind)
    return splits(LAYOUT, root, names[:-num_val], names[-num_val:], read)


def _names(training: Path, pattern: str) -> list[str]:
    folder, _, ending = pattern.partition("/*")
    return [path.name.removesuffix(ending) for path in files_in(training / folder, (ending,))]


def _read(training: Path, kind: _Kind, name: str) -> Example:
    paths = [training / pattern.replace("*", name) for pattern in kind.patterns]
    images = read_rgb(paths[0]), read_rgb(paths[1])
    every, both = kind.read(paths[2]), kind.read(paths[3])
    require_one_size(dict(zip(paths, (*images, every, both))))
    occluded = _known(every) & ~_known(both)
    return Example(name=name, images=images, truth={kind.truth: every, "occluded": occluded})


def _known(values: Float32) -> Bool:
    """Return (H, W): where flow or disparity is known."""
    return np.isfinite(values if values.ndim == 2 else values[..., 0])
