"""Files of flow and disparity as public datasets store them: .flo, PFM, and PNGs of numbers.

Whatever way a file says that a pixel is unknown, here it is NaN. Flow is (H, W, 2) float32, (x, y)
in pixels; disparity (H, W) float32 pixels. All raise CrossviewError naming a file that is missing,
truncated or of another format.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from generation.errors import CrossviewError
from generation.geometry import Float32

FLO_TAG = struct.pack("<f", 202021.25)  # b"PIEH"
FLO_LARGEST = 1e9
_PFM_HEADER = re.compile(rb"Pf\s+(\d+)\s+(\d+)\s+([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s")
_UNKNOWN = np.float32("nan")


def read_flo(path: Path) -> Float32:
    """Read flow as Middlebury stores it (and Sintel, FlyingChairs).

    Little-endian: the tag 202021.25, width and height as int32, then float32 (x, y) row by row.
    Unknown beyond 1e9. Source: vision.middlebury.edu/flow, flow-code/README.txt.
    """
    data = _bytes(path)
    if data[:4] != FLO_TAG or len(data) < 12:
        raise CrossviewError(
            f"{path}: not a .flo file: {_start_of(data)}; expected {FLO_TAG!r} and a size"
        )
    width, height = struct.unpack("<ii", data[4:12])
    _require_rest(path, data, 12, height, width, 2)
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    known = (np.abs(flow) <= FLO_LARGEST).all(-1, keepdims=True)
    return np.where(known, flow, _UNKNOWN)


def read_pfm_disparity(path: Path) -> Float32:
    """Read disparity as Middlebury stores it (and ETH3D, Scene Flow): a grey portable float map.

    A header of 'Pf', width, height and a number that is negative in little-endian files; its size
    means nothing here. Then float32, the lowest row first. Unknown where it is infinite, 0 or less,
    as to CroCo v2. Source: netpbm.sourceforge.net/doc/pfm.html.
    """
    data = _bytes(path)
    header = _PFM_HEADER.match(data)
    if header is None:
        raise CrossviewError(
            f"{path}: not a grey PFM file: {_start_of(data)}; expected b'Pf' and sizes"
        )
    columns, rows, scale = header.groups()
    width, height = int(columns), int(rows)
    _require_rest(path, data, header.end(), height, width, 1)
    stored = np.frombuffer(data, "<f4" if scale.startswith(b"-") else ">f4", offset=header.end())
    disparity = stored.reshape(height, width)[::-1].astype(np.float32)
    return np.where(np.isfinite(disparity) & (disparity > 0), disparity, _UNKNOWN)


def read_kitti_flow(path: Path) -> Float32:
    """Read flow as KITTI stores it: a 16-bit RGB PNG.

    Red and green are 64 times (x, y) plus 2^15, blue is 0 where unknown. Source: KITTI 2015's
    devkit, readme.txt.
    """
    stored = _read_png(path, np.uint16, 3)
    flow = (stored[..., :2].astype(np.float32) - 2**15) / 64
    return np.where(stored[..., 2:] > 0, flow, _UNKNOWN)


def read_kitti_disparity(path: Path) -> Float32:
    """Read disparity as KITTI stores it: a 16-bit grey PNG of 256 times its value, 0 unknown.

    Source: KITTI 2015's devkit, readme.txt.
    """
    stored = _read_png(path, np.uint16, 1)
    return np.where(stored > 0, stored.astype(np.float32) / 256, _UNKNOWN)


def read_sintel_disparity(path: Path) -> Float32:
    """Read disparity as Sintel stores it: an 8-bit RGB PNG of 4 R + G / 64 + B / 16384.

    All pixels are known. Source: MPI-Sintel stereo's README.
    """
    red, green, blue = np.moveaxis(_read_png(path, np.uint8, 3).astype(np.int64), -1, 0)
    return (red * 65536 + green * 256 + blue).astype(np.float32) / 16384


def _read_png(path: Path, dtype: type[np.unsignedinteger], num_channels: int) -> NDArray[Any]:
    """Read a PNG, (H, W) or (H, W, 3) RGB, by OpenCV: Pillow cuts colours of 16 bits to 8."""
    data = np.frombuffer(_bytes(path), np.uint8)
    stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if stored is None:
        raise CrossviewError(f"{path}: not a whole PNG; fetch or unpack it again")
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    if stored.dtype != dtype or channels != num_channels:
        raise CrossviewError(
            f"{path}: {channels} channels of {8 * stored.itemsize} bits; expected {num_channels} "
            f"of {8 * np.dtype(dtype).itemsize}"
        )
    return stored if channels == 1 else stored[..., ::-1]  # OpenCV's order is BGR


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CrossviewError(f"{path}: cannot be read ({error.strerror})") from error


def _require_rest(
    path: Path, data: bytes, start: int, height: int, width: int, channels: int
) -> None:
    """Raise CrossviewError unless as many floats follow a header as it says."""
    expected = 4 * height * width * channels
    if height < 1 or width < 1 or len(data) - start != expected:
        raise CrossviewError(
            f"{path}: {len(data) - start} bytes behind a header that says {height} x {width} "
            f"pixels of {channels} floats, {expected} bytes; fetch or unpack it again"
        )


def _start_of(data: bytes) -> str:
    return f"begins with {data[:8]!r}" if data else "empty"
