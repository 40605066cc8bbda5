"""Taskonomy by building, as its owners and as Omnidata arrange it, and its tasks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from public_layouts import add_taskonomy

from generation.errors import CrossviewError
from training.downstream import taskonomy
from training.downstream.colours import error_picture
from training.downstream.datasets.taskonomy import TARGETS, open_taskonomy
from training.downstream.example import Example
from training.downstream.tasks import TASKS

STORED = {
    "rgb": np.full((2, 2, 3), 40, np.uint8),
    "principal_curvature": np.array([[[127, 255, 9], [0, 127, 9]]] * 2, np.uint8),
    "depth_zbuffer": np.array([[256, 65535], [1024, 65534]], np.uint16),
    "depth_euclidean": np.array([[512, 1280], [65535, 65534]], np.uint16),
    "edge_texture": np.array([[0, 65535], [13107, 1]], np.uint16),
    "edge_occlusion": np.array([[65535, 0], [13107, 1]], np.uint16),
    "keypoints2d": np.array([[0, 13107], [65535, 1]], np.uint16),
    "keypoints3d": np.array([[1, 13107], [65535, 0]], np.uint16),
    "normal": np.array([[[255, 127, 63], [127, 127, 255]]] * 2, np.uint8),
    "reshading": np.array([[[255] * 3, [51] * 3], [[0] * 3, [102] * 3]], np.uint8),
    "mask_valid": np.array([[255, 255], [255, 0]], np.uint8),
}


def write(root, building, view, *, stored=STORED, **arranged):
    add_taskonomy(root, building, view, stored, **arranged)


@pytest.fixture
def root(tmp_path):
    for building in ("allensville", "darden", "ihlen", "unlisted"):
        write(tmp_path, building, "point_0_view_1")
    write(tmp_path, "ihlen", "point_12_view_0")
    rows = ["id,train,val,test", "allensville,1,0,0", "darden,0,1,0", "ihlen,0,0,1", "absent,1,0,0"]
    (tmp_path / "train_val_test_tiny.csv").write_text("\n".join(rows))
    return tmp_path


def names_of(examples):
    return [examples[number].name for number in range(len(examples))]


NAN = np.nan
EXPECTED = {  # the last pixel is not in mask_valid
    "principal_curvature": [[[0, 1], [-127 / 128, 0]], [[0, 1], [NAN, NAN]]],
    "depth_zbuffer": [[[0.5], [NAN]], [[2.0], [NAN]]],
    "depth_euclidean": [[[1.0], [2.5]], [[NAN], [NAN]]],
    "edge_texture": [[[0], [1]], [[0.2], [NAN]]],
    "edge_occlusion": [[[1], [0]], [[0.2], [NAN]]],
    "keypoints2d": [[[0], [0.2]], [[1], [NAN]]],
    "keypoints3d": [[[1 / 65535], [0.2]], [[1], [NAN]]],
    "normal": [[[1, 0, -0.5], [0, 0, 1]], [[1, 0, -0.5], [NAN, NAN, NAN]]],
    "reshading": [[[1], [0.2]], [[0], [NAN]]],
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_has_its_unit_and_the_unknown_is_nan(root, target):
    example = open_taskonomy(root, target).train[0]
    assert example.name == "allensville/point_0_view_1"
    np.testing.assert_array_equal(example.images[0], STORED["rgb"])
    assert set(example.truth) == {target}
    assert example.truth[target].dtype == np.float32
    np.testing.assert_allclose(example.truth[target], EXPECTED[target], rtol=1e-6)


def test_buildings_are_split_by_the_owners_table(root):
    splits = open_taskonomy(root, "normal")
    assert names_of(splits.train) == ["allensville/point_0_view_1"]
    assert names_of(splits.val) == ["ihlen/point_0_view_1", "ihlen/point_12_view_0"]


def test_tables_of_any_line_ends_and_case_are_read(root):
    table = root / "train_val_test_tiny.csv"
    table.write_bytes(b"id,train,val,test\rDarden,1,0,0\rAllensville,0,0,1\r")
    splits = open_taskonomy(root, "normal")
    assert names_of(splits.train) == ["darden/point_0_view_1"]
    assert names_of(splits.val) == ["allensville/point_0_view_1"]


def test_without_a_table_each_fifth_building_is_judged_on(root, caplog):
    (root / "train_val_test_tiny.csv").unlink()
    splits = open_taskonomy(root, "normal")
    assert names_of(splits.val) == ["allensville/point_0_view_1"]
    assert len(splits.train) == 4
    assert "no train_val_test_*.csv" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "mask_ending"),
    [("{domain}/{building}", "mask_valid"), ("{domain}/taskonomy/{building}", "depth_zbuffer")],
)
def test_folders_by_domain_give_the_same(root, tmp_path_factory, pattern, mask_ending):
    other = tmp_path_factory.mktemp("by_domain")
    for building in ("allensville", "ihlen"):
        write(other, building, "point_0_view_1", pattern=pattern, mask_ending=mask_ending)
    table = "train_val_test_tiny.csv"
    (other / table).write_bytes((root / table).read_bytes())
    ours, theirs = open_taskonomy(root, "normal"), open_taskonomy(other, "normal")
    assert names_of(theirs.train) == names_of(ours.train)
    found, expected = (splits.train[0].truth["normal"] for splits in (theirs, ours))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("depth", ["depth_euclidean", "depth_zbuffer"])
def test_without_masks_a_depth_tells_what_is_known(tmp_path, depth):
    stored = {name: STORED[name] for name in ("rgb", "reshading")}
    stored[depth] = STORED["depth_euclidean"]
    write(tmp_path, "a", "point_0_view_0", stored=stored)
    write(tmp_path, "b", "point_0_view_0", stored=stored)
    shading = open_taskonomy(tmp_path, "reshading").train[0].truth["reshading"]
    np.testing.assert_allclose(shading, [[[1], [0.2]], [[np.nan], [0.4]]], rtol=1e-6)


def test_only_the_wanted_target_is_needed(tmp_path):
    stored = {name: STORED[name] for name in ("rgb", "normal", "mask_valid")}
    write(tmp_path, "a", "point_0_view_0", stored=stored)
    write(tmp_path, "b", "point_0_view_0", stored=stored)
    assert set(open_taskonomy(tmp_path, "normal").train[0].truth) == {"normal"}
    with pytest.raises(CrossviewError, match="reshading: no such folder"):
        open_taskonomy(tmp_path, "reshading")


def test_something_must_tell_what_is_known(tmp_path):
    write(tmp_path, "a", "point_0_view_0", stored={"rgb": STORED["rgb"]})
    with pytest.raises(CrossviewError, match="neither mask_valid nor a depth"):
        open_taskonomy(tmp_path, "normal")


def test_views_that_lack_a_file_are_left_out(root, caplog):
    (root / "ihlen/normal/point_12_view_0_domain_normal.png").unlink()
    assert names_of(open_taskonomy(root, "normal").val) == ["ihlen/point_0_view_1"]
    assert "left out 1 views that lack a file: ihlen/point_12_view_0" in caplog.text
    (root / "ihlen/rgb/point_0_view_1_domain_rgb.png").unlink()
    with pytest.raises(CrossviewError, match=r"no view of ihlen has a file in each of .*normal"):
        open_taskonomy(root, "normal")


def test_a_target_of_another_size_is_named(root):
    path = root / "allensville/keypoints2d/point_0_view_1_domain_keypoints2d.png"
    Image.fromarray(STORED["keypoints2d"][:1]).save(path)
    with pytest.raises(CrossviewError, match=re.escape(f"{path}: 1 x 2 pixels, but ")):
        open_taskonomy(root, "keypoints2d").train[0]


def test_a_target_of_other_bits_is_named(root):
    path = root / "allensville/keypoints2d/point_0_view_1_domain_keypoints2d.png"
    Image.fromarray(STORED["mask_valid"]).save(path)
    with pytest.raises(CrossviewError, match="1 channels of 8 bits; expected 1 of 16"):
        open_taskonomy(root, "keypoints2d").train[0]


def test_several_tables_are_ambiguous(root):
    (root / "train_val_test_full.csv").touch()
    with pytest.raises(CrossviewError, match=r"several tables of splits \(train_val_test_full"):
        open_taskonomy(root, "normal")


@pytest.mark.parametrize(
    "text",
    ["", "id,train,val\nihlen,1,0", "id,train,val,test\nihlen", "id,train,val,test\na,x,0,0"],
)
def test_a_table_of_another_form_is_named(root, text):
    (root / "train_val_test_tiny.csv").write_text(text)
    with pytest.raises(CrossviewError, match=r"train_val_test_tiny\.csv"):
        open_taskonomy(root, "normal")


def test_a_split_without_buildings_is_an_error(root):
    (root / "train_val_test_tiny.csv").write_text("id,train,val,test\nihlen,1,0,0\nother,0,0,1\n")
    with pytest.raises(CrossviewError, match="no building is left for test; found allensville"):
        open_taskonomy(root, "normal")


def test_a_missing_dataset_says_where_to_get_it(tmp_path):
    with pytest.raises(CrossviewError, match=r"https://github\.com/StanfordVL/taskonomy"):
        open_taskonomy(tmp_path, "normal")


# The tasks


def test_taskonomy_trains_on_no_more_images_than_published(opened, monkeypatch):
    monkeypatch.setattr(taskonomy, "NUM_TRAIN", 2)
    splits = opened("taskonomy_normal", "taskonomy")
    assert len(splits.train) == 2
    assert set(splits.train[0].truth) == {"normal"}


def test_pictures_of_normals_show_angles_whatever_their_length():
    """The prediction is parallel, 30 degrees off, of no length; the truth unknown at last."""
    truth = np.array([[[0, 0, 0.9], [0, 0, 1], [0, 0, 1], [NAN] * 3]], np.float32)
    found = np.array([[[0, 0, 7], [0, 0.5, 0.75**0.5], [0, 0, 0], [0, 0, 1]]], np.float32)
    example = Example(name="row", images=(np.zeros((1, 4, 3), np.uint8),), truth={"normal": truth})
    *_, (title, error) = TASKS["taskonomy_normal"].pictures(example, {"normal": found})
    assert title == "error to 50 deg"
    np.testing.assert_array_equal(error, error_picture(np.array([[0, 30, NAN, NAN]]), 50))
