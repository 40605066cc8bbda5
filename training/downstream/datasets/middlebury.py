"""Middlebury stereo, version 3 (Scharstein et al., GCPR 2014)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from training.downstream.datasets.folder import Layout, folders_in, splits
from training.downstream.datasets.stereo_pairs import IMAGES, TRUTHS, read_scene
from training.downstream.example import Example, Splits

HELD_OUT = ("Recycle", "Teddy", "Vintage")
"""Of 15 training scenes; no other shows the same objects in another light."""
_SCALES = {"trainingF": 1, "trainingH": 2, "trainingQ": 4}
"""The owners' folders, best first, and how much wider the images are at full size."""
LAYOUT = Layout(
    title="Middlebury stereo v3",
    url="https://vision.middlebury.edu/stereo/submit3/",
    licence="for research",
    drawing="""
        trainingF/Adirondack/im0.png, im1.png, calib.txt        MiddEval3-data-F.zip
        trainingF/Adirondack/disp0GT.pfm, mask0nocc.png         MiddEval3-GT0-F.zip
        trainingF/ArtL/...                                      else trainingH, else trainingQ
        """,
)


def open_middlebury(root: Path) -> Splits:
    """Open MiddEval3/ at the best of full, half and quarter size whose truth is there.

    Validated on HELD_OUT. Disparity is in pixels of the images; full_width_px says how wide they
    are at full size, in whose pixels the owners count errors (the SDK's runevalF). Raises
    CrossviewError where files are missing.
    """
    sizes = [name for name in _SCALES if (root / name).is_dir()]
    with_truth = [name for name in sizes if any((root / name).glob(f"*/{TRUTHS[0]}"))]
    folder = next(iter(with_truth + sizes), "trainingF")
    LAYOUT.require(root, folder)
    scenes = folders_in(root / folder)
    files = [scene / file for scene in scenes for file in (*IMAGES, *TRUTHS)]
    LAYOUT.require_files(root, files)

    train = [scene for scene in scenes if scene.name not in HELD_OUT]
    val = [scene for scene in scenes if scene.name in HELD_OUT]
    return splits(LAYOUT, root, train, val, partial(_read, _SCALES[folder]))


def _read(scale: int, scene: Path) -> Example:
    example = read_scene(f"{scene.parent.name}/{scene.name}", scene, scene)
    width = scale * example.images[0].shape[1]
    return replace(example, truth={**example.truth, "full_width_px": np.array(width)})
