"""ETH3D's two-view stereo (Schoeps et al., CVPR 2017)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.downstream.datasets.folder import Layout, folders_in, splits
from training.downstream.datasets.stereo_pairs import IMAGES, TRUTHS, read_scene
from training.downstream.example import Example, Splits

HELD_OUT = ("facade", "forest", "terrace")
"""Of 7 sites, all pairs of these: 5 of 27. Pairs of one site show much the same things."""
_TRAINED_ON = ("delivery_area", "electro", "playground", "terrains")
LAYOUT = Layout(
    title="ETH3D low-res two-view",
    url="https://www.eth3d.net/datasets",
    licence="CC BY-NC-SA 4.0",
    drawing="""
        delivery_area_1l/im0.png, im1.png             two_view_training.7z
        delivery_area_1l/disp0GT.pfm, mask0nocc.png   two_view_training_gt.7z
        delivery_area_1s/...                          or each archive in a folder of its name
        """,
)


def open_eth3d(root: Path) -> Splits:
    """Open the training pairs, validated on the sites HELD_OUT; the images are grey.

    Both archives may be unpacked into one folder, or each into one of its name. Other sites, of the
    test archive, have no truth and are left out. Raises CrossviewError where files are missing.
    """
    LAYOUT.require(root)
    images = _below(root, "two_view_training") or root
    truths = _below(root, "two_view_training_gt") or images
    names = sorted({folder.name for folder in (*folders_in(images), *folders_in(truths))})
    train = [scene for scene in names if _site(scene) in _TRAINED_ON]
    val = [scene for scene in names if _site(scene) in HELD_OUT]
    scenes = [*train, *val]
    files = [images / scene / file for scene in scenes for file in IMAGES]
    files += [truths / scene / file for scene in scenes for file in TRUTHS]
    LAYOUT.require_files(root, files)
    return splits(LAYOUT, root, train, val, partial(_read, images, truths))


def _below(root: Path, name: str) -> Path | None:
    return root / name if (root / name).is_dir() else None


def _site(scene: str) -> str:
    return scene.rpartition("_")[0]


def _read(images: Path, truths: Path, scene: str) -> Example:
    return read_scene(scene, images / scene, truths / scene)
