"""ADE20k as the challenge of 2016 ships it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from public_layouts import add_ade20k

from generation.errors import CrossviewError
from training.downstream.datasets.ade20k import open_ade20k

ANNOTATION = np.array([[0, 1, 2], [150, 0, 13]], np.uint8)


def write(root, split, name, annotation=ANNOTATION):
    add_ade20k(root, split, name, np.full((2, 3, 3), 200, np.uint8), annotation)


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "training", "ADE_train_00000002")
    write(tmp_path, "training", "ADE_train_00000001")
    write(tmp_path, "validation", "ADE_val_00000001")
    return tmp_path


def test_labels_count_from_zero_and_other_is_unknown(root):
    splits = open_ade20k(root)
    assert (len(splits.train), len(splits.val)) == (2, 1)
    assert splits.train[0].name == "ADE_train_00000001"
    example = splits.val[0]
    labels = example.truth["labels"]
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [[-1, 0, 1], [149, -1, 12]])
    np.testing.assert_array_equal(example.images[0], np.full((2, 3, 3), 200))


def test_classes_are_the_same_wherever_their_names_are_listed(root):
    classes = open_ade20k(root).classes
    assert classes == tuple(str(number) for number in range(1, 151))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t1\twall\n")
    assert open_ade20k(root).classes == classes


def test_an_image_without_an_annotation_is_named(root):
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(CrossviewError, match="no annotation for 1 of 2: ADE_train_00000002;"):
        open_ade20k(root)


def test_an_annotation_without_an_image_is_named(root):
    (root / "images/validation/ADE_val_00000001.jpg").unlink()
    with pytest.raises(CrossviewError, match="no image for 1 of 1: ADE_val_00000001;"):
        open_ade20k(root)


def test_an_annotation_of_another_size_is_named(root):
    write(root, "training", "ADE_train_00000002")
    path = root / "annotations/training/ADE_train_00000002.png"
    Image.fromarray(ANNOTATION[:, :2]).save(path)
    expected = re.escape(f"{path}: 2 x 2 pixels, but {root / 'images'}")
    with pytest.raises(CrossviewError, match=expected):
        open_ade20k(root).train[1]


def test_the_full_datasets_annotations_are_refused(root):
    write(root, "training", "ADE_train_00000002", ANNOTATION + np.uint8(100))
    with pytest.raises(CrossviewError, match="class 250; expected 0 to 150"):
        open_ade20k(root).train[1]


def test_a_missing_dataset_says_where_to_get_it(tmp_path):
    expected = r"(?s)no images/training, images/validation.*http://sceneparsing\.csail\.mit\.edu"
    with pytest.raises(CrossviewError, match=expected):
        open_ade20k(tmp_path)


def test_an_empty_split_is_an_error(root):
    for path in root.glob("*/validation/*"):
        path.unlink()
    with pytest.raises(CrossviewError, match="no images in images/validation/;"):
        open_ade20k(root)
