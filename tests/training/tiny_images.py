"""Images of a few pixels, for tests that write datasets as their owners ship them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 8)


def colours(seed, size=SIZE):
    """(H, W, 3) random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save_image(path: Path, pixels) -> None:
    """Write (H, W) or (H, W, 3) bytes without loss, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def made(path: Path) -> Path:
    """Make the folder of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
