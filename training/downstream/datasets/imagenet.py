"""ImageNet (ILSVRC 2012), or any images in a folder for each class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np

from generation.errors import CrossviewError, first_few
from training.downstream.datasets.folder import (
    FromFiles,
    Layout,
    files_in,
    folders_in,
    read_rgb,
)
from training.downstream.example import Example, Splits

LAYOUT = Layout(
    title="ImageNet (ILSVRC 2012)",
    url="https://www.image-net.org/download.php",
    licence="after registration, for non-commercial research and education",
    drawing="""
    train/n01440764/n01440764_10026.JPEG
    ...
    val/n01440764/ILSVRC2012_val_00000293.JPEG    sorted into a folder for each class
    ...
    """,
)


def open_imagenet(root: Path) -> Splits:
    """Open ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG; examples have a `label`.

    The classes are the folders of train, sorted by name. Raises CrossviewError where a folder is
    missing or has no images, or where val has a class that train has not.
    """
    LAYOUT.require(root, "train", "val")
    classes = tuple(folder.name for folder in folders_in(root / "train"))
    if unknown := sorted({folder.name for folder in folders_in(root / "val")} - set(classes)):
        raise CrossviewError(
            f"{root / 'val'}: {len(unknown)} classes that {root / 'train'} has not: "
            f"{first_few(unknown)}; both need the same classes"
        )
    return Splits(
        train=_images(root, "train", classes), val=_images(root, "val", classes), classes=classes
    )


def _images(root: Path, split: str, classes: tuple[str, ...]) -> FromFiles[bytes]:
    folders = folders_in(root / split)
    images = [(folder.name, files_in(folder)) for folder in folders]
    if empty := [name for name, paths in images if not paths]:
        raise LAYOUT.error(root, f"no images in {split}/ of the classes {first_few(empty)}")
    if not images:
        raise LAYOUT.error(root, f"no folder of a class in {split}/")
    # A million strings would be 150 MB, copied by every worker that counts references to them.
    names = np.array(
        [os.fsencode(f"{name}/{path.name}") for name, paths in images for path in paths]
    )
    labels = {name: label for label, name in enumerate(classes)}
    return FromFiles(names, partial(_read, root / split, labels))


def _read(folder: Path, labels: dict[str, int], entry: bytes) -> Example:
    name = os.fsdecode(entry)
    label = labels[name.split("/")[0]]
    return Example(
        name=name,
        images=(read_rgb(folder / name),),
        truth={"label": np.array(label, np.int64)},
    )
