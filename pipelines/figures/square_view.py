"""An image file as a model sees it: its middle square, at the model's resolution."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from generation.errors import CrossviewError
from generation.geometry import Float64, UInt8
from training.augment import normalise, to_unit_range


@dataclass(frozen=True, kw_only=True)
class SquareView:
    """An image, and the part of it that a model sees."""

    path: Path
    original: UInt8
    """(H, W, 3), upright as its EXIF orientation says."""
    pixels: UInt8
    """(S, S, 3), the middle square of the original, resized to the model's size."""

    @classmethod
    def read(cls, path: Path, size: int) -> SquareView:
        """Read an image file for a model of images of size x size pixels.

        Raises CrossviewError where there is none, it cannot be read, or is smaller than that.
        """
        original = _read(path)
        height, width = original.shape[:2]
        if min(height, width) < size:
            raise CrossviewError(
                f"{path}: {width} x {height} pixels; the model takes {size} x {size}, so that "
                "both sides must have as many: take a larger image"
            )
        side, row, column = _middle_square(height, width)
        square = Image.fromarray(original[row : row + side, column : column + side])
        pixels = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))
        return cls(path=path, original=original, pixels=pixels)

    def normalised(self) -> Tensor:
        """Return (1, 3, S, S), as the model takes it."""
        pixels = torch.from_numpy(self.pixels.copy()).unsqueeze(0)
        return normalise(to_unit_range(pixels, torch.device("cpu")))

    def in_original(self, points: Float64) -> Float64:
        """Return where (n, 2) points (x, y) of the square lie in the original, all in pixels.

        The centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
        """
        side, row, column = _middle_square(*self.original.shape[:2])
        found: Float64 = points * (side / len(self.pixels)) + (column, row)
        return found

    def __str__(self) -> str:
        height, width = self.original.shape[:2]
        side, size = min(height, width), len(self.pixels)
        cut = "" if height == width else f", the middle {side} x {side} of it"
        resized = "" if side == size else f", resized to {size} x {size}"
        return f"{self.path}: {width} x {height} pixels{cut}{resized}"


def _read(path: Path) -> UInt8:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise CrossviewError(f"{path}: expected 8 bits a channel, found mode {image.mode}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except CrossviewError:
        raise
    except FileNotFoundError:
        raise CrossviewError(f"{path}: expected an image, found no such file") from None
    except Image.DecompressionBombError as error:
        raise CrossviewError(f"{path}: too large an image ({error})") from error
    # What Pillow says of damaged files, and of kinds that it does not know.
    except (
        NotImplementedError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise CrossviewError(f"{path}: not an image that can be read ({error})") from error


def _middle_square(height: int, width: int) -> tuple[int, int, int]:
    """Return side, first row and first column."""
    side = min(height, width)
    return side, (height - side) // 2, (width - side) // 2
