"""ImageNet's folders."""

from __future__ import annotations

import re

import numpy as np
import pytest
from public_layouts import add_imagenet

from generation.errors import CrossviewError
from training.downstream.datasets.imagenet import open_imagenet


def write(root, split, name, shade):
    add_imagenet(root, f"{split}/{name}", np.full((8, 16, 3), shade, np.uint8))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train", "n02/n02_7.JPEG", 70)
    write(tmp_path, "train", "n01/n01_20.JPEG", 20)
    write(tmp_path, "train", "n01/n01_10.JPEG", 10)
    write(tmp_path, "val", "n02/ILSVRC2012_val_00000001.JPEG", 90)
    write(tmp_path, "val", "n01/ILSVRC2012_val_00000002.JPEG", 30)
    return tmp_path


def test_labels_are_the_folders_by_name(root):
    splits = open_imagenet(root)
    assert splits.classes == ("n01", "n02")
    examples = [splits.train[number] for number in range(len(splits.train))]
    assert [(example.name, int(example.truth["label"])) for example in examples] == [
        ("n01/n01_10.JPEG", 0),
        ("n01/n01_20.JPEG", 0),
        ("n02/n02_7.JPEG", 1),
    ]
    assert [int(splits.val[number].truth["label"]) for number in range(len(splits.val))] == [0, 1]
    assert examples[0].truth["label"].dtype == np.int64
    for example, shade in zip(examples, (10, 20, 70)):
        (image,) = example.images
        assert image.shape == (8, 16, 3)
        assert np.abs(image.astype(int) - shade).max() <= 1


def test_a_label_does_not_depend_on_which_classes_val_has(root):
    (root / "val/n01/ILSVRC2012_val_00000002.JPEG").unlink()
    (root / "val/n01").rmdir()
    (example,) = open_imagenet(root).val
    assert example.truth["label"] == 1


def test_a_class_that_only_val_has_is_named(root):
    write(root, "val", "n03/ILSVRC2012_val_00000003.JPEG", 0)
    with pytest.raises(CrossviewError, match=r"val: 1 classes that .*train has not: n03;"):
        open_imagenet(root)


def test_a_class_without_images_is_named(root):
    (root / "train/n02/n02_7.JPEG").unlink()
    with pytest.raises(CrossviewError, match="no images in train/ of the classes n02;"):
        open_imagenet(root)


def test_validation_images_must_be_sorted_into_classes(root):
    for path in (root / "val").glob("*/*"):
        path.rename(root / "val" / path.name)
        path.parent.rmdir()
    with pytest.raises(CrossviewError, match=r"(?s)no folder of a class in val/.*sorted into"):
        open_imagenet(root)


def test_a_missing_dataset_says_where_to_get_it(tmp_path):
    with pytest.raises(CrossviewError, match=re.escape("https://www.image-net.org/download")):
        open_imagenet(tmp_path)


def test_a_damaged_image_is_named_when_it_is_read(root):
    (root / "train/n02/n02_7.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CrossviewError, match=r"n02_7\.JPEG: not a whole image"):
        open_imagenet(root).train[2]
