"""Where a patch lies: fixed sine-cosine vectors added to tokens, or rotations of q and k (RoPE).

Shapes: N patches, row by row over a (rows, columns) grid; D channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rotation(NamedTuple):
    """Rotary tables, broadcastable to (batch, heads, tokens, head_dim)."""

    cos: Tensor
    sin: Tensor
    """With the sign of the pair's member: minus for the first, plus for the second."""

    def of_tokens(self, tokens: Tensor | None) -> Rotation:
        """Return (B, 1, V, D) tables of the grid positions in (B, V) tokens; all where None."""
        if tokens is None:
            return self
        return Rotation(self.cos[tokens].unsqueeze(1), self.sin[tokens].unsqueeze(1))


def grid_places(grid: tuple[int, int]) -> Tensor:
    """Return the (N, 2) float32 places, (row, column), of the patches of a grid."""
    rows, columns = (torch.arange(steps, dtype=torch.float32) for steps in grid)
    return torch.cartesian_prod(rows, columns)


def sine_cosine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return (N, dim) fixed positions: the first half encodes the column, the second the row.

    Each half holds sines, then cosines, of the coordinate times 10000 ** (-i / (dim / 4)).
    Source: the published checkpoints' enc_pos_embed and dec_pos_embed.
    """
    assert dim % 4 == 0, dim
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = grid_places(grid).flip(1).double()[:, :, None] * frequencies  # (N, 2, dim / 4)
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1).float()


def interpolated(positions: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return (N', D) positions of another grid from the (N, D) ones of the grid trained on.

    Bicubic, as the published code does when it fine-tunes at another resolution: the same part of
    the image keeps its position, where positions computed anew for a larger grid would go beyond
    those that the encoder has seen.
    """
    image = positions.unflatten(0, trained).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return resized.squeeze(0).flatten(1).T


def rotary_tables(grid: tuple[int, int], head_dim: int, base: float) -> Rotation:
    """Return (N, head_dim) tables: half of the channels turn with the row, half with the column.

    Channel i of a half pairs with channel i + head_dim / 4 and turns by
    coordinate * base ** (-i / (head_dim / 4)). Source: RoFormer, in two dimensions as CroCo v2.
    """
    assert head_dim % 4 == 0, head_dim
    frequencies = torch.exp(
        -math.log(base) * torch.arange(head_dim // 4, dtype=torch.float64) / (head_dim // 4)
    )
    angles = grid_places(grid).double()[:, :, None] * frequencies
    cos = torch.cat([angles.cos(), angles.cos()], 2).flatten(1)
    sin = torch.cat([-angles.sin(), angles.sin()], 2).flatten(1)
    return Rotation(cos.float(), sin.float())


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Rotate (..., tokens, head_dim) queries or keys by their tokens' positions.

    Chunks and a cat, because flip took five times as long on a CPU, a tenth of a training step.
    """
    row_first, row_second, column_first, column_second = vectors.chunk(4, -1)
    swapped = torch.cat([row_second, row_first, column_second, column_first], -1)
    cos, sin = rotation.cos.to(vectors.dtype), rotation.sin.to(vectors.dtype)
    return torch.addcmul(vectors * cos, swapped, sin)
