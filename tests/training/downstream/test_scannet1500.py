"""ScanNet-1500 as LoFTR ships it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import rotation_about_axis
from training.downstream.datasets.scannet1500 import open_scannet1500

DEPTH_MM = np.array([[0, 1500, 65535, 800]] * 3, np.uint16)
INTRINSICS = np.array([[577.87, 0, 319.5, 0], [0, 577.87, 239.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
NAMES = np.array([[707, 0, 15, 585], [708, 1, 0, 15]], np.uint16)


def world_from_camera(frame):
    """Each frame half a degree and a millimetre on."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_about_axis(1, np.radians(frame / 2))
    matrix[:3, 3] = (0.0, 1.0, frame / 1000)
    return matrix


MOTIONS = np.stack(
    [np.linalg.inv(world_from_camera(j)) @ world_from_camera(i) for _, _, i, j in NAMES.tolist()]
)


def write_scene(folder, frames):
    for kind in ("color", "depth", "pose", "intrinsic"):
        (folder / kind).mkdir(parents=True)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", INTRINSICS, fmt="%.6f")
    for frame in frames:
        image = np.full((6, 8, 3), frame % 200, np.uint8)  # twice the depth map, as ScanNet's are
        Image.fromarray(image).save(folder / "color" / f"{frame}.jpg")
        Image.fromarray(DEPTH_MM).save(folder / "depth" / f"{frame}.png")
        np.savetxt(folder / "pose" / f"{frame}.txt", world_from_camera(frame), fmt="%.9f")


@pytest.fixture
def root(tmp_path):
    write_scene(tmp_path / "scannet_test_1500" / "scene0707_00", [15, 585])
    write_scene(tmp_path / "scannet_test_1500" / "scene0708_01", [0, 15])
    np.savez(tmp_path / "test.npz", name=NAMES, rel_pose=MOTIONS[:, :3].reshape(2, 12))
    return tmp_path


def test_there_is_nothing_to_train_on(root):
    splits = open_scannet1500(root)
    assert (len(splits.train), len(splits.val)) == (0, 2)
    assert splits.val[0].name == "scene0707_00/15 585"
    assert splits.val[1].name == "scene0708_01/0 15"


def test_motions_are_those_of_the_list(root):
    examples = open_scannet1500(root).val
    for number in range(2):
        motion = examples[number].truth["camera2_from_camera1"]
        assert motion.dtype == np.float64
        np.testing.assert_allclose(motion, MOTIONS[number], atol=1e-12)


def test_without_them_the_files_of_poses_say_the_same(root):
    np.savez(root / "test.npz", name=NAMES)
    examples = open_scannet1500(root).val
    for number in range(2):
        motion = examples[number].truth["camera2_from_camera1"]
        np.testing.assert_allclose(motion, MOTIONS[number], atol=1e-7)


def test_images_are_brought_to_the_depth_maps(root):
    example = open_scannet1500(root).val[0]
    for image, shade in zip(example.images, (15, 185)):
        assert image.shape == (3, 4, 3)
        assert np.abs(image.astype(int) - shade).max() <= 1
    for name in ("depth_m", "depth2_m"):
        assert example.truth[name].dtype == np.float32
        np.testing.assert_allclose(example.truth[name], [[np.nan, 1.5, 65.535, 0.8]] * 3, rtol=1e-6)


def test_intrinsics_count_from_the_corner_of_the_first_pixel(root):
    for name in ("intrinsics1", "intrinsics2"):
        np.testing.assert_allclose(
            open_scannet1500(root).val[0].truth[name],
            [[577.87, 0, 320], [0, 577.87, 240], [0, 0, 1]],
        )


def test_scenes_may_lie_beside_the_list(root):
    for scene in (root / "scannet_test_1500").iterdir():
        scene.rename(root / scene.name)
    (root / "scannet_test_1500").rmdir()
    assert open_scannet1500(root).val[1].name == "scene0708_01/0 15"


def test_missing_files_are_named(root):
    folder = root / "scannet_test_1500" / "scene0708_01"
    (folder / "depth" / "15.png").unlink()
    (folder / "color" / "0.jpg").unlink()
    expected = "2 of 10 files are missing: scannet_test_1500/scene0708_01/color/0.jpg, scannet"
    with pytest.raises(CrossviewError, match=re.escape(expected)):
        open_scannet1500(root)


def test_poses_are_only_needed_where_the_list_has_none(root):
    (root / "scannet_test_1500/scene0707_00/pose/585.txt").unlink()
    open_scannet1500(root)
    np.savez(root / "test.npz", name=NAMES)
    with pytest.raises(
        CrossviewError, match=r"missing: scannet_test_1500/scene0707_00/pose/585\.txt;"
    ):
        open_scannet1500(root)


def test_a_frame_that_was_not_tracked_is_named(root):
    np.savez(root / "test.npz", name=NAMES)
    path = root / "scannet_test_1500/scene0707_00/pose/585.txt"
    np.savetxt(path, np.full((4, 4), -np.inf))
    with pytest.raises(CrossviewError, match=re.escape(f"{path}: expected a rotation and a")):
        open_scannet1500(root).val[0]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"pairs": NAMES}, "no array name"),
        ({"name": NAMES[:, :3]}, r"name of shape \(2, 3\)"),
        ({"name": NAMES[:0]}, r"name of shape \(0, 4\)"),
        ({"name": NAMES, "rel_pose": MOTIONS[:1]}, r"rel_pose of shape \(1, 4, 4\)"),
        ({"name": NAMES, "rel_pose": MOTIONS[:, 0]}, r"rel_pose of shape \(2, 4\)"),
        ({"name": NAMES, "rel_pose": 2 * MOTIONS}, "rel_pose of pair 0: expected a rotation"),
        ({"name": np.array([["a"] * 4])}, "no array name of numbers"),
        ({"name": NAMES.astype(object)}, "no array name of numbers"),
    ],
)
def test_a_list_of_another_form_is_named(root, arrays, problem):
    np.savez(root / "test.npz", **arrays)
    with pytest.raises(CrossviewError, match=rf"test\.npz: {problem}"):
        open_scannet1500(root)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_list_is_named(root, data):
    (root / "test.npz").write_bytes(data)
    with pytest.raises(CrossviewError, match=r"test\.npz: no array name"):
        open_scannet1500(root)


def test_an_image_of_another_shape_is_named(root):
    path = root / "scannet_test_1500/scene0707_00/color/15.jpg"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(CrossviewError, match=re.escape(f"{path}: 8 x 8 pixels")):
        open_scannet1500(root).val[0]


def test_a_missing_dataset_says_where_to_get_it(root, tmp_path_factory):
    with pytest.raises(
        CrossviewError, match=r"(?s)there is no test\.npz.*github\.com/zju3dv/LoFTR"
    ):
        open_scannet1500(tmp_path_factory.mktemp("empty"))
    (root / "scannet_test_1500").rename(root / "elsewhere")
    with pytest.raises(CrossviewError, match=r"(?s)no folder scene0707_00 of test\.npz.*LoFTR"):
        open_scannet1500(root)
