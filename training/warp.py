"""Crop, homography and rotation in one resampling, batched on the training device.

Shapes: B batch, images (B, 3, H, W), S the side of the crop. Points are (x, y) pixels of the whole
image, the centre of its first pixel at (0.5, 0.5). Outside the image it is black, before the
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from training.order import Float64, crop_positions, warp_generator


@dataclass(frozen=True)
class Warp:
    """How one view of each pair in a batch is bent and cropped, as parts of whatever its size."""

    moves: Float64
    """(B, 4, 2) how far in x and y each corner comes inwards, as parts of a side."""
    turns_deg: Float64
    """(B,) counter-clockwise."""
    places: Float64
    """(B, 2) in [0, 1): where to crop, as crop_at does."""

    def maps(self, rows: slice, image_size: tuple[int, int], crop: int) -> Tensor:
        """Return (b, 3, 3) point in the whole image from point in the crop, of these rows."""
        height, width = image_size
        top, left = (np.floor(self.places[rows, i] * (image_size[i] - crop + 1)) for i in (0, 1))
        maps = (
            perspective(self.moves[rows], height, width)
            @ rotation(self.turns_deg[rows], height, width)
            @ translation(left, top)
        )
        return torch.from_numpy(maps.astype(np.float32))


def draw_warps(
    homography: float, rotation_deg: float, seed: int, step: int, batch_size: int
) -> list[Warp]:
    """Return the warps of both views of a step's global batch.

    homography: corners come inwards by up to this part of half a side; rotation_deg: turns by up to
    this either way. The crops are those that the loader would have cut.
    """
    generator = warp_generator(seed, step)
    places = crop_positions(seed, step, batch_size)
    return [
        Warp(
            moves=generator.uniform(0, homography / 2, (batch_size, 4, 2)),
            turns_deg=generator.uniform(-rotation_deg, rotation_deg, batch_size),
            places=places[:, view],
        )
        for view in range(2)
    ]


def translation(x: Float64, y: Float64) -> Float64:
    """Return (..., 3, 3) maps that add (x, y)."""
    maps = np.broadcast_to(np.eye(3), (*x.shape, 3, 3)).copy()
    maps[..., 0, 2], maps[..., 1, 2] = x, y
    return maps


def rotation(angles_deg: Float64, height: int, width: int) -> Float64:
    """Return (..., 3, 3) maps of output to input that turn an image counter-clockwise."""
    cos, sin = np.cos(np.deg2rad(angles_deg)), np.sin(np.deg2rad(angles_deg))
    turn = np.broadcast_to(np.eye(3), (*angles_deg.shape, 3, 3)).copy()
    turn[..., 0, 0], turn[..., 0, 1] = cos, -sin
    turn[..., 1, 0], turn[..., 1, 1] = sin, cos
    centre = np.array(width / 2), np.array(height / 2)
    return translation(*centre) @ turn @ translation(-centre[0], -centre[1])


def perspective(moves: Float64, height: int, width: int) -> Float64:
    """Return (..., 3, 3) maps of output to input that bring an image's corners inwards.

    moves: (..., 4, 2) how far in x and y, as parts of a side; top left, top right, bottom right,
    bottom left. Solved as torchvision does.
    """
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (width, height)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (width, height)
    moved = corners + moves * inwards
    x, y = moved[..., 0], moved[..., 1]
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    u, v = np.broadcast_to(corners[:, 0], x.shape), np.broadcast_to(corners[:, 1], x.shape)
    rows_u = np.stack([x, y, ones, zeros, zeros, zeros, -u * x, -u * y], -1)
    rows_v = np.stack([zeros, zeros, zeros, x, y, ones, -v * x, -v * y], -1)
    unknowns = np.linalg.solve(
        np.concatenate([rows_u, rows_v], -2), np.concatenate([u, v], -1)[..., None]
    )[..., 0]
    last: NDArray[np.float64] = np.ones((*unknowns.shape[:-1], 1))
    return np.concatenate([unknowns, last], -1).reshape(*unknowns.shape[:-1], 3, 3)


def resample(images: Tensor, maps: Tensor, crop: int) -> Tensor:
    """Return the (B, 3, S, S) crops of (B, 3, H, W) images, bilinear, by (B, 3, 3) maps."""
    height, width = images.shape[-2:]
    maps = maps.to(images.device, non_blocking=True)
    centres = torch.arange(crop, device=images.device) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    # No matrix product, which precision = tf32 would round on a GPU: by up to 0.4 of a pixel.
    per_x, per_y, offset = maps.unsqueeze(1).unsqueeze(1).unbind(-1)  # each (B, 1, 1, 3)
    x, y, w = (per_x * x.unsqueeze(-1) + per_y * y.unsqueeze(-1) + offset).unbind(-1)
    grid = torch.stack([2 * x / w / width - 1, 2 * y / w / height - 1], -1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
