"""Images as bytes: JPEG for colour (simplejpeg), 16-bit PNG millimetres for depth (Pillow)."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from generation.geometry import Float32, UInt8

FARTHEST_M = 65.535
"""Greatest depth that a depth image holds: what is further has this depth there."""


def encode_jpeg(color: UInt8, quality: int) -> bytes:
    """Encode (H, W, 3) RGB with 4:2:0 chroma."""
    data: bytes = simplejpeg.encode_jpeg(color, quality=quality, colorsubsampling="420")
    return data


def decode_jpeg(data: bytes) -> UInt8:
    """Decode to (H, W, 3) RGB. Raises ValueError on damaged data."""
    image: UInt8 = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return image


def encode_depth_png(depth_m: Float32) -> bytes:
    """Encode (H, W) metres as 16-bit millimetres; beyond FARTHEST_M saturates."""
    depth_mm = np.clip(np.rint(depth_m * 1000), 0, 65535).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(depth_mm).save(stream, "png", compress_level=1)
    return stream.getvalue()


def decode_depth_png(data: bytes) -> Float32:
    """Decode to (H, W) metres, 0 where nothing was hit."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, np.float32) / np.float32(1000)
