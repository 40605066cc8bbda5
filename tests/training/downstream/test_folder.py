"""What all readers of public datasets share."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generation.errors import CrossviewError, first_few
from training.downstream.datasets.folder import (
    Layout,
    files_in,
    paired,
    read_channels,
    read_integers,
    read_matrix,
    read_rgb,
    require_one_size,
)
from training.downstream.datasets.poses import read_pose

LAYOUT = Layout(
    title="Some Rooms",
    url="https://rooms.example/get",
    licence="for research",
    drawing="""
    train/0.png
    val/0.png
    """,
)


def test_a_missing_dataset_says_where_to_get_it_and_how_it_should_look(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "photos.zip").touch()
    LAYOUT.require(tmp_path, "train")
    with pytest.raises(CrossviewError) as raised:
        LAYOUT.require(tmp_path, "train", "val")
    assert str(raised.value) == (
        f"{tmp_path}: there is no val; found photos.zip, train\n"
        "Some Rooms is to be had from https://rooms.example/get (for research). Expected:\n"
        "    train/0.png\n"
        "    val/0.png"
    )


def test_a_folder_that_is_not_there_names_the_last_one_that_is(tmp_path):
    with pytest.raises(CrossviewError, match=f"no such folder; found only {tmp_path}\n"):
        LAYOUT.require(tmp_path / "a" / "b")


def test_up_to_five_are_named():
    assert first_few("abcde") == "a, b, c, d, e"
    assert first_few("abcdefg") == "a, b, c, d, e, and 2 more"


def test_files_are_sorted_and_hidden_ones_not_seen(tmp_path):
    for name in ("b.JPEG", "a.png", "._a.png", "a.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_in(tmp_path)] == ["a.png", "b.JPEG"]


def test_what_does_not_pair_up_is_named(tmp_path):
    assert paired(tmp_path, {"image": "ba", "depth": "ab"}) == ["a", "b"]
    with pytest.raises(CrossviewError, match="no depth for 6 of 7: b, c, d, e, f, and 1 more;"):
        paired(tmp_path, {"image": "abcdefg", "depth": "a"})
    with pytest.raises(CrossviewError, match="no image for 1 of 2: b;"):
        paired(tmp_path, {"image": "a", "depth": "ab"})


def test_missing_files_are_named(tmp_path):
    (tmp_path / "a").touch()
    LAYOUT.require_files(tmp_path, [tmp_path / "a"])
    expected = "(?s)1 of 2 files are missing: b/c;.* is to be had from .* Expected:"
    with pytest.raises(CrossviewError, match=expected):
        LAYOUT.require_files(tmp_path, [tmp_path / "a", tmp_path / "b" / "c"])


def test_sizes_that_differ_are_named():
    image, depth = np.zeros((4, 6, 3)), np.zeros((4, 5))
    require_one_size({Path("a.jpg"): image, Path("b.png"): depth[:, :1].repeat(6, axis=1)})
    with pytest.raises(CrossviewError, match=r"b\.png: 4 x 5 pixels, but a\.jpg: 4 x 6;"):
        require_one_size({Path("a.jpg"): image, Path("b.png"): depth})


@pytest.mark.parametrize(
    "pixels",
    [np.array([[0, 255], [7, 128]], np.uint8), np.array([[0, 65535], [7, 256]], np.uint16)],
)
def test_grey_numbers_come_back_as_stored(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_integers(tmp_path / "a.png"), pixels)
    channels = read_channels(tmp_path / "a.png")
    assert channels.dtype == pixels.dtype
    np.testing.assert_array_equal(channels, pixels[..., None])


def test_colours_are_no_single_number(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_channels(tmp_path / "a.png"), pixels)
    with pytest.raises(CrossviewError, match=r"a\.png: 3 channels"):
        read_integers(tmp_path / "a.png")


def test_images_of_any_colours_are_rgb(tmp_path):
    grey = np.array([[0, 255], [7, 128]], np.uint8)
    for mode in ("L", "RGB", "RGBA", "P"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.stack([grey] * 3, axis=-1))
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).convert("CMYK").save(tmp_path / "a.jpg")
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - 90).max() <= 2


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_cut_image_is_named_wherever_it_was_cut(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    whole, path = stream.getvalue(), tmp_path / "cut"
    last = len(whole) - 32  # decoders do not miss the closing bytes, which hold no pixels
    for length in [0, 1, *range(2, last, 37), last]:
        path.write_bytes(whole[:length])
        with pytest.raises(CrossviewError, match=re.escape(f"{path}: not a whole image")):
            read_rgb(path)


def test_an_image_of_pixels_that_nobody_knows_is_named(tmp_path):
    path = tmp_path / "odd.dds"
    Image.new("RGB", (16, 16)).save(path)
    with open(path, "r+b") as stream:
        stream.seek(80)
        stream.write(b"\4\0\0\0what")
    with pytest.raises(CrossviewError, match=r"odd\.dds: not a whole image \(Unimplemented pixel"):
        read_rgb(path)


def test_bytes_that_changed_never_escape_as_another_error(tmp_path):
    random = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 65536, (16, 16), dtype=np.uint16)).save(stream, "png")
    whole, path, complaints = stream.getvalue(), tmp_path / "a.png", []
    for _ in range(300):
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(data)
        try:
            read_integers(path)
        except CrossviewError as error:
            complaints.append(str(error))
    assert len(complaints) > 200
    assert all(text.startswith(f"{path}: not a whole image") for text in complaints)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(CrossviewError, match=r"a\.png: no such file"):
        read_rgb(tmp_path / "a.png")


def test_a_matrix_is_read_row_by_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" 1.5e0\t2  3 \n4 5 -6\n\n")
    np.testing.assert_array_equal(read_matrix(path, (2, 3)), [[1.5, 2, 3], [4, 5, -6]])
    with pytest.raises(CrossviewError, match=r"a\.txt: 2 x 3 numbers; expected 4 x 4"):
        read_matrix(path, (4, 4))


@pytest.mark.parametrize("text", ["1 2\n3", "1 two", "", "\x80"])
def test_what_is_no_matrix_is_named(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="latin-1")
    with pytest.raises(CrossviewError, match=r"a\.txt: "):
        read_matrix(tmp_path / "a.txt", (2, 2))


@pytest.mark.parametrize(
    "matrix", [np.diag([1, 1, -1, 1]), np.diag([2, 2, 2, 1]), np.full((4, 4), -np.inf)]
)
def test_a_pose_must_be_rigid(tmp_path, matrix):
    np.savetxt(tmp_path / "a.txt", np.eye(4))
    np.testing.assert_array_equal(read_pose(tmp_path / "a.txt"), np.eye(4))
    np.savetxt(tmp_path / "a.txt", matrix)
    with pytest.raises(CrossviewError, match=r"a\.txt: expected a rotation and a translation"):
        read_pose(tmp_path / "a.txt")
