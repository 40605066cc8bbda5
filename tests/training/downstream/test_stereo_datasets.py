"""KITTI, Middlebury, ETH3D, Scene Flow and Sintel's stereo, as their owners ship them."""

import re
import shutil

import numpy as np
import pytest
from public_layouts import (
    add_kitti_stereo,
    add_scene_flow,
    add_sintel_stereo,
    add_stereo_scene,
)
from tiny_images import SIZE, colours, save_image
from written_formats import write_pfm

from generation.errors import CrossviewError
from training.downstream.datasets.eth3d import open_eth3d
from training.downstream.datasets.kitti import open_kitti
from training.downstream.datasets.middlebury import open_middlebury
from training.downstream.datasets.scene_flow import open_scene_flow
from training.downstream.datasets.sintel import open_sintel_stereo

NAN = np.float32("nan")


def disparity_of(seed, size=SIZE):
    """(H, W) multiples of 1/256, which every format holds exactly."""
    return np.random.default_rng(seed).integers(1, 2560, size).astype(np.float32) / 256


def names(examples):
    return [examples[number].name for number in range(len(examples))]


def only(row, column):
    values = np.zeros(SIZE, bool)
    values[row, column] = True
    return values


def check(example, seed, occluded=None):
    """The images of seed and seed + 1; disparity of seed, unknown at (0, 0)."""
    np.testing.assert_array_equal(example.images, [colours(seed), colours(seed + 1)])
    expected = disparity_of(seed)
    expected[0, 0] = NAN
    np.testing.assert_array_equal(example.truth["disparity"], expected)
    assert example.truth["disparity"].dtype == np.float32
    if occluded is not None:
        np.testing.assert_array_equal(example.truth["occluded"], occluded)


def save_scene(images, truths, seed):
    """im0, im1, and their truth: (0, 0) is unknown, (1, 1) occluded."""
    disparity, mask = disparity_of(seed), np.full(SIZE, 255, np.uint8)
    disparity[0, 0], mask[0, 0], mask[1, 1] = np.inf, 0, 128
    add_stereo_scene(images, truths, (colours(seed), colours(seed + 1)), disparity, mask)


@pytest.fixture
def kitti(tmp_path):
    for number in range(5):
        disparity = disparity_of(10 * number)
        disparity[0, 0] = NAN
        seen = disparity.copy()
        seen[1, 1] = NAN
        images = colours(10 * number), colours(10 * number + 1)
        add_kitti_stereo(tmp_path, f"{number:06d}", images, disparity, seen)
    return tmp_path


def test_kitti_pairs_left_and_right(kitti):
    splits = open_kitti(kitti, task="stereo")
    assert names(splits.train) == ["000000", "000001", "000002", "000003"]
    assert names(splits.val) == ["000004"]
    check(splits.train[2], 20, only(1, 1))


def test_kitti_names_a_damaged_disparity(kitti):
    path = kitti / "training/disp_occ_0/000000_10.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CrossviewError, match=r"disp_occ_0/000000_10\.png: not a whole PNG"):
        open_kitti(kitti, task="stereo").train[0]


MIDDLEBURY = ("Adirondack", "ArtL", "Recycle", "Teddy", "Vintage")


@pytest.fixture
def middlebury(tmp_path):
    """At full size the images of 0, 10 and so on, at half of 100 ..., at a quarter of 200 ..."""
    for resolution, first in (("F", 0), ("H", 100), ("Q", 200)):
        for number, scene in enumerate(MIDDLEBURY):
            folder = tmp_path / f"training{resolution}" / scene
            save_scene(folder, folder, first + 10 * number)
            (folder / "calib.txt").write_text("ndisp=70\n")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "scale"), [("trainingF", 1), ("trainingH", 2), ("trainingQ", 4)]
)
def test_middlebury_is_read_at_the_best_size_and_holds_three_scenes_out(middlebury, folder, scale):
    better = {"trainingF": "", "trainingH": "F", "trainingQ": "FH"}[folder]
    for resolution in better:
        shutil.rmtree(middlebury / f"training{resolution}")
    first = 100 * len(better)
    splits = open_middlebury(middlebury)
    assert names(splits.train) == [f"{folder}/{scene}" for scene in ("Adirondack", "ArtL")]
    assert names(splits.val) == [f"{folder}/{scene}" for scene in ("Recycle", "Teddy", "Vintage")]
    check(splits.train[1], first + 10, only(1, 1))
    check(splits.val[0], first + 20, only(1, 1))
    assert splits.val[0].truth["full_width_px"] == scale * SIZE[1]


def test_middlebury_without_truth_at_the_best_size_is_read_at_the_next(middlebury):
    for path in middlebury.glob("trainingF/*/disp0GT.pfm"):
        path.unlink()
    assert names(open_middlebury(middlebury).train)[0] == "trainingH/Adirondack"


def test_middlebury_names_what_is_missing(middlebury, tmp_path_factory):
    (middlebury / "trainingF/ArtL/mask0nocc.png").unlink()
    with pytest.raises(
        CrossviewError, match=r"1 of 20 files .* missing: trainingF/ArtL/mask0nocc\.png"
    ):
        open_middlebury(middlebury)
    with pytest.raises(CrossviewError, match=r"no trainingF; found an empty folder"):
        open_middlebury(tmp_path_factory.mktemp("empty"))


def test_middlebury_names_files_of_different_sizes(middlebury):
    save_image(middlebury / "trainingF/ArtL/im1.png", colours(0, (6, 9)))
    with pytest.raises(CrossviewError, match=r"ArtL/im1\.png: 6 x 9 pixels.*ArtL/im0\.png: 6 x 8"):
        open_middlebury(middlebury).train[1]


@pytest.mark.parametrize(
    ("images", "truths"),
    [
        (".", "."),
        (".", "two_view_training_gt"),
        ("two_view_training", "two_view_training"),
        ("two_view_training", "two_view_training_gt"),
    ],
)
def test_eth3d_holds_whole_sites_out_however_it_is_unpacked(tmp_path, images, truths):
    scenes = ("delivery_area_1l", "facade_1s", "terrace_1s", "terrains_1l")
    for number, scene in enumerate(scenes):
        save_scene(tmp_path / images / scene, tmp_path / truths / scene, 10 * number)
    splits = open_eth3d(tmp_path)
    assert names(splits.train) == ["delivery_area_1l", "terrains_1l"]
    assert names(splits.val) == ["facade_1s", "terrace_1s"]
    check(splits.train[1], 30, only(1, 1))
    for folder, file in ((truths, "terrace_1s/disp0GT.pfm"), (images, "facade_1s/im0.png")):
        (tmp_path / folder / file).unlink()
        with pytest.raises(CrossviewError, match=f"missing: .*{re.escape(file)}"):
            open_eth3d(tmp_path)


def test_truth_of_eth3d_without_its_images_is_named(tmp_path):
    for number, scene in enumerate(("delivery_area_1l", "facade_1s", "terrains_1l")):
        images, truths = (tmp_path / name for name in ("two_view_training", "two_view_training_gt"))
        save_scene(images / scene, truths / scene, 10 * number)
    shutil.rmtree(images / "terrains_1l")
    with pytest.raises(CrossviewError, match=r"missing: .*terrains_1l/im0\.png"):
        open_eth3d(tmp_path)


@pytest.mark.parametrize("folder", ["two_view_training", "."])
def test_pairs_of_eth3d_without_a_truth_are_left_out(tmp_path, folder):
    """Its test archive, unpacked over the other or beside it."""
    for number, scene in enumerate(("facade_1s", "terrains_1l")):
        save_scene(tmp_path / folder / scene, tmp_path / folder / scene, 10 * number)
    for place in (folder, "two_view_test"):
        for scene in ("lakeside_1l", "storage_room_2_1s"):
            for side in (0, 1):
                save_image(tmp_path / place / scene / f"im{side}.png", colours(side))
    splits = open_eth3d(tmp_path)
    assert names(splits.train) == ["terrains_1l"]
    assert names(splits.val) == ["facade_1s"]


def test_a_missing_eth3d_says_where_to_get_it(tmp_path):
    with pytest.raises(CrossviewError, match=r"no such folder(.|\n)*eth3d\.net(.|\n)*disp0GT\.pfm"):
        open_eth3d(tmp_path / "eth3d")


def test_disparities_of_zero_and_below_are_neither_known_nor_occluded(tmp_path):
    for number, scene in enumerate(("delivery_area_1l", "facade_1s")):
        disparity, mask = disparity_of(number), np.zeros(SIZE, np.uint8)
        disparity[0, :2] = 0, -3
        images = colours(number), colours(number + 1)
        add_stereo_scene(tmp_path / scene, tmp_path / scene, images, disparity, mask)
    truth = open_eth3d(tmp_path).train[0].truth
    unknown = only(0, 0) | only(0, 1)
    np.testing.assert_array_equal(np.isnan(truth["disparity"]), unknown)
    np.testing.assert_array_equal(truth["occluded"], ~unknown)


@pytest.fixture
def scene_flow(tmp_path):
    for number, name in enumerate(("TRAIN/A/0000/0006", "TRAIN/B/0001/0007", "TEST/C/0000/0006")):
        images = {
            render_pass: (colours(10 * number + first), colours(10 * number + first + 1))
            for first, render_pass in ((0, "clean"), (50, "final"))
        }
        disparity = disparity_of(10 * number)
        disparity[0, 0] = np.inf
        add_scene_flow(tmp_path, name, images, disparity)
    return tmp_path


def test_scene_flow_trains_on_train_and_validates_on_test(scene_flow):
    splits = open_scene_flow(scene_flow, render_pass="clean")
    assert names(splits.train) == ["TRAIN/A/0000/0006", "TRAIN/B/0001/0007"]
    assert names(splits.val) == ["TEST/C/0000/0006"]
    check(splits.train[1], 10)
    assert "occluded" not in splits.train[1].truth
    final = open_scene_flow(scene_flow, render_pass="final").val[0]
    np.testing.assert_array_equal(final.images, [colours(70), colours(71)])


def test_a_scene_flow_map_without_a_disparity_above_zero_is_named(scene_flow):
    path = scene_flow / "disparity/TRAIN/A/0000/left/0006.pfm"
    disparity = -disparity_of(0)
    disparity[0, :2] = 0, 1
    write_pfm(path, disparity)
    example = open_scene_flow(scene_flow, render_pass="clean").train[0]
    np.testing.assert_array_equal(np.isfinite(example.truth["disparity"]), only(0, 1))
    write_pfm(path, -disparity_of(0))
    with pytest.raises(CrossviewError, match=r"left/0006\.pfm: no disparity is above 0"):
        open_scene_flow(scene_flow, render_pass="clean").train[0]


def test_monkaa_and_driving_are_trained_on_beside_flyingthings(scene_flow):
    others = ("a_rain_of_stones_x2/0048", "15mm_focallength/scene_forwards/fast/0001")
    for number, name in enumerate(others, 3):
        pair = (colours(10 * number), colours(10 * number + 1))
        add_scene_flow(scene_flow, name, {"clean": pair}, disparity_of(10 * number))
    splits = open_scene_flow(scene_flow, render_pass="clean")
    things = ["TRAIN/A/0000/0006", "TRAIN/B/0001/0007"]
    assert names(splits.train) == [others[1], *things, others[0]]
    assert names(splits.val) == ["TEST/C/0000/0006"]
    np.testing.assert_array_equal(splits.train[0].images, [colours(40), colours(41)])
    np.testing.assert_array_equal(splits.train[3].truth["disparity"], disparity_of(30))
    # They are there with the clean pass alone.
    assert names(open_scene_flow(scene_flow, render_pass="final").train) == things
    (scene_flow / f"disparity/{others[0].replace('/', '/left/')}.pfm").unlink()
    with pytest.raises(CrossviewError, match=f"no disparity/left for 1 of 5: {others[0]}"):
        open_scene_flow(scene_flow, render_pass="clean")


def test_parts_of_scene_flow_may_be_links(scene_flow, tmp_path_factory):
    whole = [names(part) for part in parts_of(open_scene_flow(scene_flow, render_pass="clean"))]
    disk = tmp_path_factory.mktemp("disk")
    for number, part in enumerate(("disparity/TRAIN/A", "frames_cleanpass/TEST")):
        shutil.move(scene_flow / part, disk / str(number))
        (scene_flow / part).symlink_to(disk / str(number))
    linked = open_scene_flow(scene_flow, render_pass="clean")
    assert [names(part) for part in parts_of(linked)] == whole
    check(linked.train[1], 10)


def parts_of(splits):
    return splits.train, splits.val


def test_a_file_that_scene_flow_lacks_is_named(scene_flow):
    (scene_flow / "frames_cleanpass/TRAIN/B/0001/right/0007.png").unlink()
    with pytest.raises(CrossviewError, match=r"no frames_cleanpass/right for 1 of 3: TRAIN/B/0001"):
        open_scene_flow(scene_flow, render_pass="clean")


def test_frames_that_the_owners_do_not_use_are_left_out(scene_flow, caplog):
    open_scene_flow(scene_flow, render_pass="clean")
    assert "no all_unused_files.txt" in caplog.text
    (scene_flow / "all_unused_files.txt").write_text("TRAIN/A/0000/left/0006.png\n\n")
    splits = open_scene_flow(scene_flow, render_pass="clean")
    assert names(splits.train) == ["TRAIN/B/0001/0007"]
    assert names(splits.val) == ["TEST/C/0000/0006"]
    (scene_flow / "frames_cleanpass/TRAIN/A/0000/left/0006.png").unlink()  # as some scripts do
    assert names(open_scene_flow(scene_flow, render_pass="clean").train) == names(splits.train)


@pytest.mark.parametrize(
    "text",
    [
        b"<!DOCTYPE HTML>\n<title>404 Not Found</title>\n",
        b"TRAIN/A/0000/left/0006.png\nTRAIN/A/0000/left/0007.pfm\n",
        b"TRAIN\\A\\0000\\left\\0006.png\n",
        b"\xff\xfe",
        b"",
    ],
)
def test_a_list_of_other_files_is_refused(scene_flow, text):
    (scene_flow / "all_unused_files.txt").write_bytes(text)
    expected = r"all_unused_files\.txt: '.*'; expected lines such as TRAIN/A/0004/left/0006\.png"
    with pytest.raises(CrossviewError, match=expected):
        open_scene_flow(scene_flow, render_pass="clean")


@pytest.fixture
def sintel(tmp_path):
    """Disparity is known everywhere; (0, 1) is occluded, (5, 0) outside of the right image."""
    for number, scene in enumerate(("alley_1", "temple_2")):
        images = {
            render_pass: (colours(10 * number + first), colours(10 * number + first + 1))
            for first, render_pass in ((0, "clean"), (50, "final"))
        }
        add_sintel_stereo(
            tmp_path,
            f"{scene}/frame_0001",
            images,
            disparity_of(10 * number),
            255 * only(0, 1),
            255 * only(5, 0),
        )
    return tmp_path


def test_sintel_pairs_left_and_right(sintel):
    for render_pass, first in (("clean", 10), ("final", 60)):
        splits = open_sintel_stereo(sintel, render_pass=render_pass)
        assert names(splits.val) == ["temple_2/frame_0001"]
        example = splits.val[0]
        np.testing.assert_array_equal(example.images, [colours(first), colours(first + 1)])
    expected = np.where(only(5, 0), NAN, disparity_of(10))
    np.testing.assert_array_equal(example.truth["disparity"], expected)
    np.testing.assert_array_equal(example.truth["occluded"], only(0, 1))
    (sintel / "training/outofframe/alley_1/frame_0001.png").unlink()
    with pytest.raises(CrossviewError, match="no outofframe for 1 of 2: alley_1/frame_0001"):
        open_sintel_stereo(sintel, render_pass="clean")


def test_sintel_beside_its_flow_archive_is_refused(sintel):
    (sintel / "training/flow").mkdir()
    with pytest.raises(CrossviewError, match=r"training/flow is of .* into its own folder"):
        open_sintel_stereo(sintel, render_pass="clean")
