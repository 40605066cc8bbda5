"""ETH3D's two-view stereo (Schoeps et al., CVPR 2017)."""

from __future__ import annotations

from pathlib import Path

from training.downstream.datasets.folder import Layout, folders_in, require_files, splits
from training.downstream.datasets.stereo_pairs import IMAGES, TRUTHS, read_scene
from training.downstream.example import Example, Splits

HELD_OUT = ("facade", "forest", "terrace")
"""Of 7 sites, all pairs of these: 5 of 27. Pairs of one site show much the same things."""
_TRUTH = "two_view_training_gt"
LAYOUT = Layout(
    title="ETH3D low-res two-view",
    url="https://www.eth3d.net/datasets",
    licence="CC BY-NC-SA 4.0",
    drawing="""
        two_view_training/delivery_area_1l/im0.png, im1.png             two_view_training.7z
        two_view_training/delivery_area_1l/disp0GT.pfm, mask0nocc.png   two_view_training_gt.7z
        two_view_training/delivery_area_1s/...                          (or in a folder of its name)
        """,
)


def open_eth3d(root: Path) -> Splits:
    """Open the training pairs, validated on the sites HELD_OUT; the images are grey.

    The truth may lie beside the images, or in two_view_training_gt/. Raises CrossviewError where
    files are missing.
    """
    LAYOUT.require(root, "two_view_training")
    scenes = folders_in(root / "two_view_training")
    images = [scene / file for scene in scenes for file in IMAGES]
    truths = [_truths(scene) / file for scene in scenes for file in TRUTHS]
    require_files(root, images + truths, LAYOUT.title)
    train = [scene for scene in scenes if _site(scene) not in HELD_OUT]
    val = [scene for scene in scenes if _site(scene) in HELD_OUT]
    return splits(LAYOUT, root, train, val, _read)


def _site(scene: Path) -> str:
    return scene.name.rpartition("_")[0]


def _truths(scene: Path) -> Path:
    apart = scene.parents[1] / _TRUTH
    return apart / scene.name if apart.is_dir() else scene


def _read(scene: Path) -> Example:
    return read_scene(scene.name, scene, _truths(scene))
