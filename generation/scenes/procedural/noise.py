"""Tileable noise fields: what every procedural texture is mixed from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from generation.geometry import Float32

Shape = tuple[int, int]
"""(height, width) in texels."""


@lru_cache(maxsize=256)
def _interpolation(size: int, cells: int) -> csr_matrix:
    """Return the (size, cells) periodic weights of smoothly interpolated lattice values.

    Sparse products add in a fixed order on every machine, and start no threads.
    """
    position = (np.arange(size) + 0.5) * cells / size
    left = np.floor(position).astype(int)
    fraction = position - left
    weight = fraction * fraction * (3 - 2 * fraction)
    rows = np.tile(np.arange(size), 2)
    columns = np.concatenate([left, left + 1]) % cells
    weights = np.concatenate([1 - weight, weight]).astype(np.float32)
    return csr_matrix((weights, (rows, columns)), shape=(size, cells))


def value_noise(rng: np.random.Generator, shape: Shape, cells: Shape) -> Float32:
    """Return smooth (H, W) noise in -1..1 with so many random values down and across."""
    lattice = rng.random(cells, dtype=np.float32) * 2 - 1
    down, across = _interpolation(shape[0], cells[0]), _interpolation(shape[1], cells[1])
    noise: Float32 = down @ np.ascontiguousarray((across @ lattice.T).T)
    return noise


def fractal_noise(
    rng: np.random.Generator,
    shape: Shape,
    *,
    cells: Shape = (4, 4),
    octaves: int = 5,
    fade: float = 0.6,
) -> Float32:
    """Return (H, W) noise of several scales, mostly in -1..1; each octave halves the scale."""
    total = np.zeros(shape, np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        down = min(cells[0] << octave, shape[0] // 2)
        across = min(cells[1] << octave, shape[1] // 2)
        total += np.float32(weight) * value_noise(rng, shape, (down, across))
        norm += weight * weight
        weight *= fade
    return total * np.float32(1.6 / norm**0.5)


def grain_noise(rng: np.random.Generator, shape: Shape) -> Float32:
    """Return white (H, W) noise in -1..1."""
    return rng.random(shape, dtype=np.float32) * 2 - 1


def cell_grid(
    shape: Shape, rows: int, columns: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return texel rows and columns, and the row and column of the cell each lies in, (H, W)."""
    y, x = np.broadcast_arrays(np.arange(shape[0])[:, None], np.arange(shape[1])[None])
    return y, x, y * rows // shape[0], x * columns // shape[1]
