"""Files of flow and disparity, written as the formats that are read say."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from training.downstream.datasets.formats import FLO_TAG


def write_flo(path, flow):
    """(H, W, 2) pixels; NaN is unknown."""
    height, width = flow.shape[:2]
    known = np.isfinite(flow).all(-1, keepdims=True)
    values = np.where(known, flow, 1e10).astype("<f4")
    path.write_bytes(FLO_TAG + struct.pack("<ii", width, height) + values.tobytes())


def write_pfm(path, values, *, big_endian=False):
    """(H, W) or (H, W, 3); NaN is unknown, and written as infinite."""
    height, width = values.shape[:2]
    kind, scale = "Pf" if values.ndim == 2 else "PF", "1.0" if big_endian else "-1.0"
    stored = np.where(np.isfinite(values), values, np.inf)[::-1]
    rows = stored.astype(">f4" if big_endian else "<f4").tobytes()
    path.write_bytes(f"{kind}\n{width} {height}\n{scale}\n".encode() + rows)


def write_kitti_flow(path, flow):
    """(H, W, 2) pixels, to 1/64; NaN is unknown."""
    known = np.isfinite(flow).all(-1)
    stored = np.zeros((*known.shape, 3), np.uint16)
    stored[known, :2] = np.rint(flow[known] * 64 + 2**15)
    stored[known, 2] = 1
    path.write_bytes(png(stored[..., ::-1]))


def write_kitti_disparity(path, disparity):
    """(H, W) pixels, to 1/256; NaN is unknown."""
    known = np.isfinite(disparity)
    stored = np.zeros(known.shape, np.uint16)
    stored[known] = np.rint(disparity[known] * 256)
    path.write_bytes(png(stored))


def write_sintel_disparity(path, disparity):
    """(H, W) pixels, to 1/16384; all are known."""
    stored = np.rint(disparity.astype(np.float64) * 16384).astype(np.int64)
    red, green, blue = stored >> 16, stored >> 8 & 255, stored & 255
    path.write_bytes(png(np.stack([blue, green, red], -1).astype(np.uint8)))


def png(stored):
    """The bytes of a PNG of (H, W) or (H, W, 3), in OpenCV's order: blue, green, red."""
    return cv2.imencode(".png", stored)[1].tobytes()
