"""Files of flow and disparity, against bytes written by hand and against OpenCV's own readers."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import written_formats as written

from generation.errors import CrossviewError
from training.downstream.datasets import formats

NAN = np.float32("nan")


def some_flow(height=5, width=7):
    flow = np.random.default_rng(0).normal(0, 30, (height, width, 2)).astype(np.float32)
    flow[1, 2] = NAN
    return flow


def some_disparity(height=5, width=7):
    disparity = np.random.default_rng(1).uniform(0.5, 200, (height, width)).astype(np.float32)
    disparity[1, 2] = NAN
    return disparity


def png_by_hand(stored):
    """Encode (H, W) or (H, W, 3) uint16 as a PNG, by the specification alone."""
    height, width = stored.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in stored)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if stored.ndim == 2 else 2, 0, 0, 0)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_flo_is_a_tag_a_size_and_rows_of_x_and_y(tmp_path):
    path = tmp_path / "a.flo"
    values = [1.5, -2.5, 0.0, 3.0, 2e9, 0.0]
    path.write_bytes(b"PIEH" + struct.pack("<2i6f", 3, 1, *values))
    expected = [[[1.5, -2.5], [0, 3], [NAN, NAN]]]
    np.testing.assert_array_equal(formats.read_flo(path), np.float32(expected))


def test_flo_survives_a_round_trip_and_opencv_reads_the_same(tmp_path):
    path = tmp_path / "a.flo"
    flow = some_flow()
    written.write_flo(path, flow)
    np.testing.assert_array_equal(formats.read_flo(path), flow)
    theirs = cv2.readOpticalFlow(str(path))
    known = np.isfinite(flow)
    np.testing.assert_array_equal(theirs[known], flow[known])
    assert (theirs[~known] > 1e9).all()


@pytest.mark.parametrize("order", "<>")
def test_pfm_begins_with_its_lowest_row_in_either_byte_order(tmp_path, order):
    path = tmp_path / "a.pfm"
    scale = b"-0.003922" if order == "<" else b"1"
    rows = struct.pack(f"{order}6f", 4, 5, 0, 1, float("inf"), -3)
    path.write_bytes(b"Pf\n3 2\n" + scale + b"\n" + rows)
    found = formats.read_pfm_disparity(path)
    np.testing.assert_array_equal(found, np.float32([[1, NAN, NAN], [4, 5, NAN]]))


@pytest.mark.parametrize("big_endian", [False, True])
def test_pfm_survives_a_round_trip_and_opencv_reads_the_same(tmp_path, big_endian):
    grey, colours = tmp_path / "grey.pfm", tmp_path / "colours.pfm"
    disparity = some_disparity()
    written.write_pfm(grey, disparity, big_endian=big_endian)
    written.write_pfm(colours, np.ones((5, 7, 3), np.float32), big_endian=big_endian)
    np.testing.assert_array_equal(formats.read_pfm_disparity(grey), disparity)
    theirs = cv2.imread(str(grey), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(np.where(np.isinf(theirs), NAN, theirs), disparity)
    with pytest.raises(CrossviewError, match=r"colours\.pfm: not a grey PFM .*; expected b'Pf'"):
        formats.read_pfm_disparity(colours)


def test_kitti_flow_is_red_and_green_in_64ths_and_blue_says_whether(tmp_path):
    path = tmp_path / "a.png"
    x, y = 2**15 + 64 * 3 + 1, 2**15 - 32
    path.write_bytes(png_by_hand(np.uint16([[[x, y, 1], [x, y, 0]]])))
    expected = np.float32([[[3 + 1 / 64, -0.5], [NAN, NAN]]])
    np.testing.assert_array_equal(formats.read_kitti_flow(path), expected)


def test_kitti_disparity_is_grey_in_256ths_and_0_is_unknown(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_by_hand(np.uint16([[0, 1, 256 * 40 + 128, 65535]])))
    expected = np.float32([[NAN, 1 / 256, 40.5, 65535 / 256]])
    np.testing.assert_array_equal(formats.read_kitti_disparity(path), expected)


def test_sintel_disparity_adds_three_bytes(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.uint8([[[3, 2, 1], [0, 0, 255]]]))  # blue, green, red
    expected = np.float32([[4 + 2 / 64 + 3 / 16384, 1020]])
    np.testing.assert_array_equal(formats.read_sintel_disparity(path), expected)


@pytest.mark.parametrize(
    ("name", "values", "step"),
    [
        ("kitti_flow", some_flow(), 1 / 64),
        ("kitti_disparity", some_disparity(), 1 / 256),
        ("sintel_disparity", some_disparity()[2:], 1 / 16384),
    ],
)
def test_pngs_survive_a_round_trip_to_half_a_step(tmp_path, name, values, step):
    path = tmp_path / "a.png"
    getattr(written, f"write_{name}")(path, values)
    again = getattr(formats, f"read_{name}")(path)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, values, rtol=0, atol=step / 2 + 1e-5)


FILES = {
    "flo": (formats.read_flo, lambda path: written.write_flo(path, some_flow())),
    "pfm": (formats.read_pfm_disparity, lambda path: written.write_pfm(path, some_disparity())),
    "kitti": (
        formats.read_kitti_flow,
        lambda path: written.write_kitti_flow(path, some_flow()),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_missing_empty_truncated_and_foreign_files_are_named(tmp_path, kind, capfd):
    read, write = FILES[kind]
    path = tmp_path / "some.file"
    write(path)
    whole = path.read_bytes()
    read(path)
    for damaged in (b"", whole[:3], whole[:9], whole[:-30], b"P3\n# foreign\n" + whole):
        path.write_bytes(damaged)
        with pytest.raises(CrossviewError, match=r"some\.file: "):
            read(path)
    path.unlink()
    with pytest.raises(CrossviewError, match=r"some\.file: .*No such file"):
        read(path)


def test_bytes_too_many_and_impossible_sizes_are_refused(tmp_path):
    path = tmp_path / "some.flo"
    written.write_flo(path, some_flow())
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    with pytest.raises(CrossviewError, match=r"some\.flo: 284 bytes .* 5 x 7 pixels .* 280 bytes"):
        formats.read_flo(path)
    path.write_bytes(b"PIEH" + struct.pack("<2i", -1, -1) + b"\0" * 8)
    with pytest.raises(CrossviewError, match=r"some\.flo: 8 bytes .* -1 x -1 pixels"):
        formats.read_flo(path)


def test_a_png_of_other_channels_or_bits_is_refused(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((2, 2), np.uint8))
    with pytest.raises(CrossviewError, match="1 channels of 8 bits; expected 1 of 16"):
        formats.read_kitti_disparity(path)
    with pytest.raises(CrossviewError, match="1 channels of 8 bits; expected 3 of 16"):
        formats.read_kitti_flow(path)
    with pytest.raises(CrossviewError, match="1 channels of 8 bits; expected 3 of 8"):
        formats.read_sintel_disparity(path)
