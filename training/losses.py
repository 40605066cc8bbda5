"""The loss: mean squared error on masked patches, each normalised by its own mean and variance.

Shapes: B batch, N patches row by row, P = patch_size ** 2 * 3 values (row, column, channel).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut (B, 3, H, W) images into (B, N, P) patches."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    patches = images.view(batch, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


def unpatchify(patches: Tensor, patch_size: int, size: Sequence[int]) -> Tensor:
    """Put (B, N, P) patches together to (B, 3, H, W), given the size (H, W)."""
    rows, columns = size[0] // patch_size, size[1] // patch_size
    grid = patches.view(len(patches), rows, columns, patch_size, patch_size, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, *size)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, N, 1) means and standard deviations (unbiased variance + 1e-6, then root)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=1)
    return mean, (variance + 1e-6).sqrt()


def patch_targets(images: Tensor, patch_size: int) -> Tensor:
    """Return the (B, N, P) values that the model is to predict."""
    patches = patchify(images, patch_size)
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def completion_losses(prediction: Tensor, images: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Return (B,) mean squared errors of (B, N, P) predictions over each image's masked patches."""
    targets = patch_targets(images.float(), patch_size)
    per_patch = (prediction.float() - targets).square().mean(-1)
    hidden = mask.to(per_patch.device, per_patch.dtype, non_blocking=True)
    return (per_patch * hidden).sum(1) / hidden.sum(1)
