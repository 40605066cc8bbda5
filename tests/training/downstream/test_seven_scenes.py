"""7-Scenes' sequences, and which frames make pairs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import rotation_about_axis
from training.downstream.datasets.seven_scenes import open_seven_scenes

HEIGHT, WIDTH = 3, 4
DEPTH_MM = np.array([[0, 65535, 1, 1500]] * HEIGHT, np.uint16)


def camera(x_m, turn_deg=0.0):
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = rotation_about_axis(1, np.radians(turn_deg))
    world_from_camera[0, 3] = x_m
    return world_from_camera


def write_sequence(scene, number, poses, shade=0):
    folder = scene / f"seq-{number:02}"
    folder.mkdir(parents=True)
    for frame, pose in enumerate(poses):
        start = folder / f"frame-{frame:06}"
        image = np.full((HEIGHT, WIDTH, 3), shade + frame % 100, np.uint8)
        Image.fromarray(image).save(f"{start}.color.png")
        Image.fromarray(DEPTH_MM).save(f"{start}.depth.png")
        rows = ["\t ".join(f"{value: .9e}" for value in row) for row in pose]
        (folder / f"frame-{frame:06}.pose.txt").write_text("\n".join(rows) + "\n\n")


def write_splits(scene, train, test):
    for name, sequences in (("Train", train), ("Test", test)):
        lines = "".join(f"sequence{number}\r\n" for number in sequences)
        (scene / f"{name}Split.txt").write_bytes(lines.encode())


@pytest.fixture
def root(tmp_path):
    """Two sequences to train on, side by side, and one to test between them."""
    scene = tmp_path / "chess"
    write_sequence(scene, 1, [camera(0.0), camera(1.0), camera(2.0)], shade=0)
    write_sequence(scene, 2, [camera(0.1), camera(1.2), camera(9.0)], shade=100)
    write_sequence(scene, 3, [camera(1.14), camera(2.0, turn_deg=10)], shade=200)
    write_splits(scene, train=[1, 2], test=[3])
    return tmp_path


def names_of(examples):
    return [examples[number].name for number in range(len(examples))]


def test_test_frames_come_with_the_nearest_train_frames(root):
    assert names_of(open_seven_scenes(root).val) == [
        "chess/seq-03/frame-000000 chess/seq-02/frame-000001",
        "chess/seq-03/frame-000001 chess/seq-01/frame-000002",
    ]


def test_train_frames_come_with_near_ones_of_other_sequences(root):
    assert names_of(open_seven_scenes(root).train) == [
        "chess/seq-01/frame-000000 chess/seq-02/frame-000000",
        "chess/seq-01/frame-000001 chess/seq-02/frame-000001",
        # frame 2 is sqrt(2) * 0.8 m from the nearest, frame 2 of the second further still
        "chess/seq-02/frame-000000 chess/seq-01/frame-000000",
        "chess/seq-02/frame-000001 chess/seq-01/frame-000001",
    ]


def test_turning_counts_as_much_as_what_lies_ahead_moves(tmp_path):
    scene = tmp_path / "heads"
    turned = camera(0.0, turn_deg=20)  # moves what is 2 m ahead by 4 sin(10 deg) = 0.695 m
    write_sequence(scene, 1, [turned, camera(0.5), camera(0.48)])
    write_sequence(scene, 2, [camera(0.0)])  # the others: sqrt(2) * 0.5 = 0.707, 0.679
    write_sequence(scene, 3, [camera(0.0, turn_deg=1)])
    write_splits(scene, train=[1, 3], test=[2])
    nearest = open_seven_scenes(tmp_path).val
    assert names_of(nearest) == ["heads/seq-02/frame-000000 heads/seq-03/frame-000000"]
    write_splits(scene, train=[1], test=[2])
    with pytest.raises(CrossviewError, match=r"no two frames to train on are within 1\.0 m"):
        open_seven_scenes(tmp_path)


def test_frames_of_one_sequence_are_a_second_apart(tmp_path):
    scene = tmp_path / "heads"
    poses = [camera(0.01 * frame) for frame in range(90)]
    write_sequence(scene, 1, poses)
    write_sequence(scene, 2, poses[:1])
    write_splits(scene, train=[1], test=[2])
    pairs = [
        re.findall(r"frame-(\d+)", name) for name in names_of(open_seven_scenes(tmp_path).train)
    ]
    assert len(pairs) == 90
    for first, second in pairs:
        apart = abs(int(first) - int(second))
        assert apart == 30


def test_poses_say_where_the_first_camera_is_in_the_second(root):
    example = open_seven_scenes(root).val[1]
    motion = example.truth["camera2_from_camera1"]
    assert motion.dtype == np.float64
    np.testing.assert_allclose(motion, camera(0.0, turn_deg=10), atol=1e-8)
    first = open_seven_scenes(root).val[0].truth["camera2_from_camera1"]
    np.testing.assert_allclose(first[:3, 3], [1.14 - 1.2, 0, 0], atol=1e-8)


def test_images_depths_and_intrinsics_come_back(root):
    example = open_seven_scenes(root).val[0]
    assert [image[0, 0, 0] for image in example.images] == [200, 101]
    for name in ("depth_m", "depth2_m"):
        depth_m = example.truth[name]
        assert depth_m.dtype == np.float32
        np.testing.assert_allclose(depth_m, [[np.nan, np.nan, 0.001, 1.5]] * HEIGHT, rtol=1e-6)
    for name in ("intrinsics1", "intrinsics2"):
        expected = [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
        np.testing.assert_array_equal(example.truth[name], expected)


def test_scenes_are_never_mixed(root):
    for number in (1, 2, 3):
        write_sequence(root / "fire", number, [camera(0.0)])
    write_splits(root / "fire", train=[1, 2], test=[3])
    assert len(open_seven_scenes(root).val) == 3
    for name in names_of(open_seven_scenes(root).train):
        assert name.count("fire") in (0, 2)


@pytest.mark.parametrize("kind", ["color.png", "depth.png", "pose.txt"])
def test_a_frame_without_one_of_its_files_is_named(root, kind):
    (root / f"chess/seq-02/frame-000001.{kind}").unlink()
    with pytest.raises(CrossviewError, match=f"seq-02: no {kind} for 1 of 3: frame-000001;"):
        open_seven_scenes(root)


def test_a_sequence_that_is_still_packed_is_named(root):
    write_splits(root / "chess", train=[1, 2, 4], test=[3])
    with pytest.raises(CrossviewError, match=r"(?s)there is no chess/seq-04; .*zip unpacked"):
        open_seven_scenes(root)


@pytest.mark.parametrize("file", ["TrainSplit.txt", "TestSplit.txt"])
def test_a_scene_that_lacks_a_split_is_named_though_others_have_one(root, file):
    for number in (1, 2, 3):
        write_sequence(root / "fire", number, [camera(0.0)])
    write_splits(root / "fire", train=[1, 2], test=[3])
    (root / f"fire/{file}").unlink()
    with pytest.raises(CrossviewError, match=f"there is no fire/{file}"):
        open_seven_scenes(root)


@pytest.mark.parametrize("line", [b"seq-03", b"sequence3\xff"])
def test_a_line_of_another_form_is_named(root, line):
    (root / "chess/TestSplit.txt").write_bytes(line)
    with pytest.raises(CrossviewError, match=r"TestSplit\.txt: 'seq.*'; expected lines such as"):
        open_seven_scenes(root)


def test_a_pose_that_is_none_is_named(root):
    np.savetxt(root / "chess/seq-01/frame-000002.pose.txt", np.full((4, 4), np.inf))
    with pytest.raises(CrossviewError, match=r"frame-000002\.pose\.txt: expected a rotation"):
        open_seven_scenes(root)


def test_a_depth_map_of_another_size_is_named(root):
    Image.fromarray(DEPTH_MM[:2]).save(root / "chess/seq-02/frame-000001.depth.png")
    with pytest.raises(CrossviewError, match=r"frame-000001\.depth\.png: 2 x 4 pixels, but "):
        open_seven_scenes(root).val[0]


def test_a_missing_dataset_says_where_to_get_it(tmp_path):
    expected = r"(?s)no scene with a TrainSplit\.txt.*https://www\.microsoft\.com/"
    with pytest.raises(CrossviewError, match=expected):
        open_seven_scenes(tmp_path)
