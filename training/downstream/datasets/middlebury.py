"""Middlebury stereo, version 3 (Scharstein et al., GCPR 2014)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from training.downstream.datasets.folder import Layout, folders_in, require_files
from training.downstream.datasets.held_out import splits
from training.downstream.datasets.stereo_pairs import IMAGES, TRUTHS, read_scene
from training.downstream.example import Example, Splits

HELD_OUT = ("Recycle", "Teddy", "Vintage")
"""Of 15 training scenes; no other shows the same objects in another light."""
LAYOUT = Layout(
    title="Middlebury stereo v3",
    url="https://vision.middlebury.edu/stereo/submit3/",
    licence="for research",
    drawing="""
        trainingH/Adirondack/im0.png, im1.png, calib.txt        MiddEval3-data-H.zip
        trainingH/Adirondack/disp0GT.pfm, mask0nocc.png         MiddEval3-GT0-H.zip
        trainingH/ArtL/...                                      or trainingF, trainingQ
        """,
)


def open_middlebury(root: Path, *, resolution: Literal["F", "H", "Q"] = "H") -> Splits:
    """Open MiddEval3/, at full, half or quarter resolution; validated on HELD_OUT.

    Disparity is in pixels of that resolution. Raises CrossviewError where files are missing.
    """
    folder = f"training{resolution}"
    LAYOUT.require(root, folder)
    scenes = folders_in(root / folder)
    files = [scene / file for scene in scenes for file in (*IMAGES, *TRUTHS)]
    require_files(root, files, LAYOUT.title)

    train = [scene for scene in scenes if scene.name not in HELD_OUT]
    val = [scene for scene in scenes if scene.name in HELD_OUT]
    return splits(LAYOUT, root, train, val, _read)


def _read(scene: Path) -> Example:
    return read_scene(f"{scene.parent.name}/{scene.name}", scene, scene)
