"""Sintel, KITTI and FlyingChairs, as their owners ship them, in folders of a few pixels."""

import numpy as np
import pytest
from public_layouts import add_flying_chairs, add_kitti_flow, add_sintel
from tiny_images import SIZE, colours
from written_formats import write_flo

from generation.errors import CrossviewError
from training.downstream.datasets.flying_chairs import open_flying_chairs
from training.downstream.datasets.kitti import open_kitti
from training.downstream.datasets.sintel import open_sintel

NAN = np.float32("nan")


def flow_of(seed, size=SIZE):
    """(H, W, 2) multiples of 1/64, which every format holds exactly."""
    return np.random.default_rng(seed).integers(-640, 640, (*size, 2)).astype(np.float32) / 64


def names(examples):
    return [examples[number].name for number in range(len(examples))]


def mask(*pixels):
    values = np.zeros(SIZE, np.uint8)
    for row, column in pixels:
        values[row, column] = 255
    return values


SINTEL_SCENES = ("alley_1", "temple_2", "temple_3")


@pytest.fixture
def sintel(tmp_path):
    """Three scenes of three frames: pixel (0, 1) is occluded, (2, 3) invalid."""
    for number, scene in enumerate(SINTEL_SCENES):
        for frame in (1, 2, 3):
            add_sintel(
                tmp_path,
                f"{scene}/frame_{frame:04d}",
                {
                    render_pass: colours(100 * shift + 10 * number + frame)
                    for shift, render_pass in enumerate(("clean", "final"))
                },
                flow_of(10 * number + frame) if frame < 3 else None,
                mask((0, 1)),
                mask((2, 3)),
            )
    return tmp_path


def test_sintel_goes_from_each_frame_to_the_next(sintel):
    for shift, render_pass in enumerate(("clean", "final")):
        splits = open_sintel(sintel, render_pass=render_pass)
        assert names(splits.train) == ["alley_1/frame_0001", "alley_1/frame_0002"]
        second = splits.train[1]
        for image, frame in zip(second.images, (2, 3)):
            np.testing.assert_array_equal(image, colours(100 * shift + frame))
        expected = flow_of(2)
        expected[2, 3] = NAN
        np.testing.assert_array_equal(second.truth["flow"], expected)
        np.testing.assert_array_equal(second.truth["occluded"], mask((0, 1)) > 0)


def test_sintel_validates_on_two_temples(sintel):
    assert names(open_sintel(sintel).val) == [
        f"{scene}/frame_000{frame}" for scene in ("temple_2", "temple_3") for frame in (1, 2)
    ]


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (
            "clean/alley_1/frame_0002.png",
            r"no clean image .* or the next for 2 of 6: alley_1/frame_0001, alley",
        ),
        (
            "clean/temple_3/frame_0003.png",
            r"no clean image .* or the next for 1 of 6: temple_3/frame_0002",
        ),
        ("flow/alley_1/frame_0002.flo", r"no flow for 1 of 6: alley_1/frame_0002"),
        ("occlusions/alley_1/frame_0001.png", r"training/occlusions/alley_1/frame_0001\.png"),
        ("invalid/temple_2/frame_0002.png", r"training/invalid/temple_2/frame_0002\.png"),
    ],
)
def test_a_file_that_sintel_lacks_is_named(sintel, gone, expected):
    (sintel / "training" / gone).unlink()
    with pytest.raises(CrossviewError, match=expected):
        open_sintel(sintel)


def test_sintel_beside_its_stereo_archive_is_refused(sintel):
    """Of which the last to be unpacked left its occlusions."""
    (sintel / "training/disparities").mkdir()
    with pytest.raises(CrossviewError, match=r"training/disparities is of .* into its own folder"):
        open_sintel(sintel)


def test_sintel_without_its_temples_has_nothing_to_validate_on(sintel):
    for part in ("clean", "flow", "occlusions", "invalid"):
        for scene in ("temple_2", "temple_3"):
            (sintel / "training" / part / scene).rename(sintel / f"{part}_{scene}")
    with pytest.raises(CrossviewError, match="nothing to validate on"):
        open_sintel(sintel)


def test_a_flow_of_another_size_or_half_a_file_is_named(sintel):
    path = sintel / "training/flow/alley_1/frame_0001.flo"
    write_flo(path, flow_of(0, (6, 7)))
    splits = open_sintel(sintel)
    with pytest.raises(CrossviewError, match=r"6 x 7.*frame_0001\.flo|frame_0001\.flo.*6 x 7"):
        splits.train[0]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CrossviewError, match=r"flow/alley_1/frame_0001\.flo: "):
        splits.train[0]


@pytest.fixture
def kitti(tmp_path):
    """Ten scenes: pixel (0, 0) is unknown, (1, 1) known but seen by one camera only."""
    for number in range(10):
        flow = flow_of(number)
        flow[0, 0] = NAN
        seen = flow.copy()
        seen[1, 1] = NAN
        images = colours(10 * number), colours(10 * number + 1)
        add_kitti_flow(tmp_path, f"{number:06d}", images, flow, seen)
    return tmp_path


def test_kitti_flow_is_of_all_pixels_and_knows_what_is_occluded(kitti):
    example = open_kitti(kitti, task="flow").train[3]
    assert example.name == "000003"
    np.testing.assert_array_equal(example.images, [colours(30), colours(31)])
    expected = flow_of(3)
    expected[0, 0] = NAN
    np.testing.assert_array_equal(example.truth["flow"], expected)
    np.testing.assert_array_equal(example.truth["occluded"], mask((1, 1)) > 0)


def test_kitti_validates_on_its_last_fifth(kitti):
    splits = open_kitti(kitti, task="flow")
    assert names(splits.train) == [f"{number:06d}" for number in range(8)]
    assert names(splits.val) == ["000008", "000009"]


def test_a_file_that_kitti_lacks_is_named(kitti):
    (kitti / "training/image_2/000004_11.png").unlink()
    with pytest.raises(CrossviewError, match=r"no image_2/\*_11\.png for 1 of 10: 000004"):
        open_kitti(kitti, task="flow")
    with pytest.raises(CrossviewError, match=r"no training/image_3(.|\n)*data_scene_flow\.zip"):
        open_kitti(kitti, task="stereo")


@pytest.fixture
def chairs(tmp_path):
    """Four pairs, of which the third validates."""
    for number in range(1, 5):
        images = colours(10 * number), colours(10 * number + 1)
        add_flying_chairs(tmp_path, number, images, flow_of(number))
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n1\n2\n1\n")
    return tmp_path


def test_flying_chairs_are_split_by_their_list(chairs):
    splits = open_flying_chairs(chairs)
    assert names(splits.train) == ["00001", "00002", "00004"]
    assert names(splits.val) == ["00003"]
    example = splits.val[0]
    np.testing.assert_array_equal(example.images, [colours(30), colours(31)])
    np.testing.assert_array_equal(example.truth["flow"], flow_of(3))
    assert "occluded" not in example.truth


@pytest.mark.parametrize("text", ["1\n1\n2\n", "1\n1\n2\n3\n", "1 1 2 1 1", "<html>"])
def test_a_list_of_other_chairs_is_refused(chairs, text):
    (chairs / "FlyingChairs_train_val.txt").write_text(text)
    with pytest.raises(CrossviewError, match=r"train_val\.txt: expected .* each of the 4 pairs"):
        open_flying_chairs(chairs)


def test_flying_chairs_without_a_file_or_their_list_say_so(chairs):
    (chairs / "data/00002_img2.ppm").unlink()
    with pytest.raises(CrossviewError, match=r"no _img2\.ppm for 1 of 4: 00002"):
        open_flying_chairs(chairs)
    (chairs / "FlyingChairs_train_val.txt").unlink()
    with pytest.raises(CrossviewError, match=r"no FlyingChairs_train_val\.txt(.|\n)*uni-freiburg"):
        open_flying_chairs(chairs)


def test_a_cut_image_is_named(chairs):
    path = chairs / "data/00001_img2.ppm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CrossviewError, match=r"00001_img2\.ppm: not a whole image"):
        open_flying_chairs(chairs).train[0]
