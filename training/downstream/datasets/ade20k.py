"""ADE20k, as the scene parsing challenge of 2016 ships it: 150 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from generation.errors import CrossviewError
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    files_in,
    paired,
    read_integers,
    read_rgb,
    require_one_size,
)
from training.downstream.example import UNKNOWN_LABEL, Example, Splits

CLASSES = tuple(str(number) for number in range(1, 151))
"""As the challenge numbers them."""
LAYOUT = Layout(
    title="ADE20k (ADEChallengeData2016)",
    url="http://sceneparsing.csail.mit.edu",
    licence="images for non-commercial research and education",
    drawing="""
    images/training/ADE_train_00000001.jpg
    images/validation/ADE_val_00000001.jpg
    annotations/training/ADE_train_00000001.png    0: other, 1 to 150: class
    annotations/validation/ADE_val_00000001.png
    """,
)


def open_ade20k(root: Path) -> Splits:
    """Open ADEChallengeData2016; examples have `labels` in 0..149, and -1 where the file has 0.

    Source: Zhou et al., Scene Parsing through ADE20K Dataset (CVPR 2017). Raises CrossviewError
    where a folder is missing, or an image or an annotation has no counterpart.
    """
    splits = ("training", "validation")
    LAYOUT.require(
        root, *(f"{kind}/{split}" for kind in ("images", "annotations") for split in splits)
    )
    train, val = (_images(root, split) for split in splits)
    return Splits(train=train, val=val, classes=CLASSES)


def _images(root: Path, split: str) -> FromFiles[str]:
    images, annotations = root / "images" / split, root / "annotations" / split
    kinds = {
        "image": (path.stem for path in files_in(images, (".jpg",))),
        "annotation": (path.stem for path in files_in(annotations, (".png",))),
    }
    names = paired(root, kinds)
    if not names:
        raise LAYOUT.error(root, f"no images in images/{split}/")
    return FromFiles(names, partial(_read, images, annotations))


def _read(images: Path, annotations: Path, name: str) -> Example:
    image_path, annotation_path = images / f"{name}.jpg", annotations / f"{name}.png"
    image, annotation = read_rgb(image_path), read_integers(annotation_path)
    require_one_size({image_path: image, annotation_path: annotation})
    if annotation.max() > len(CLASSES):
        raise CrossviewError(
            f"{annotation_path}: class {annotation.max()}; expected 0 to {len(CLASSES)}, as the "
            "challenge of 2016 numbers them"
        )
    labels = np.where(annotation == 0, UNKNOWN_LABEL, annotation - 1).astype(np.int64)
    return Example(name=name, images=(image,), truth={"labels": labels})
