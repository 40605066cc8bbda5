"""Pictures of what a model does with a pair: what it completes, and where each patch looked.

Shapes: B batch, N patches row by row, H and W multiples of the patch size, S height and width of
squares. Pictures are (B, 3, H, W) RGB in 0..1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from generation.geometry import UInt8
from training.augment import denormalise
from training.losses import patch_statistics, patchify, unpatchify
from training.model.croco import CroCo

HIDDEN_GREY = 0.86
"""What a hidden patch is painted with: light, and of no colour."""
_CORNERS = ((0.10, 0.30, 1.00), (0.95, 0.10, 0.55), (0.00, 0.70, 0.50), (1.00, 0.75, 0.00))
"""Blue top left, magenta top right, green bottom left, amber bottom right."""
_PIXELS = 96
"""Least height and width of a picture on a sheet."""
_GAP = 4


@torch.no_grad()
def complete(model: CroCo, target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return (B, 3, H, W) pictures in 0..1: the target with its masked patches predicted.

    target and reference are normalised images as in forward; mask is (B, N), True where hidden. A
    predicted patch takes the mean and deviation of the target's own hidden patch, which the loss
    normalises away, as is customary: it shows the predicted structure, not the predicted colour.
    """
    patch_size = model.config.patch_size
    patches = patchify(target, patch_size)
    mean, deviation = patch_statistics(patches)
    predicted = model(target, reference, mask).float() * deviation + mean
    merged = torch.where(mask.to(target.device).unsqueeze(-1), predicted, patches)
    return denormalise(unpatchify(merged, patch_size, target.shape[-2:])).clamp(0, 1)


def masked(images: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Return pictures of which the patches that are True in the (B, N) mask are light grey."""
    patches = patchify(images, patch_size)
    hidden = mask.to(images.device).unsqueeze(-1)
    return unpatchify(patches.masked_fill(hidden, HIDDEN_GREY), patch_size, images.shape[-2:])


def colours_of_places(places: Tensor, side: int) -> Tensor:
    """Return (..., 3) colours of (..., 2) places, (row, column) on a grid of side x side patches.

    The four corners have colours of their own and all between is a mixture, so that neighbours look
    alike. NaN, a place that is not known, is light grey.
    """
    share = (places + 0.5).clamp(0, side) / side
    down, right = share[..., :1], share[..., 1:]
    corners = torch.tensor(_CORNERS, device=places.device)
    top = torch.lerp(corners[0], corners[1], right)
    bottom = torch.lerp(corners[2], corners[3], right)
    colours = torch.lerp(top, bottom, down)
    return torch.where(colours.isnan(), torch.full_like(colours, HIDDEN_GREY), colours)


def painted(images: Tensor, colours: Tensor, patch_size: int) -> Tensor:
    """Return pictures in the patches' colours, (B, N, 3) or (N, 3), as bright as the images are."""
    grey = images.mean(1, keepdim=True).expand_as(images)
    light = patchify(grey, patch_size).unflatten(-1, (-1, 3))  # (B, N, pixels, 3)
    colours = colours.to(images).expand(len(images), *colours.shape[-2:]).unsqueeze(2)
    mixed = colours * (0.6 + 0.4 * light) + 0.2 * light
    return unpatchify(mixed.flatten(2), patch_size, images.shape[-2:]).clamp(0, 1)


def as_bytes(picture: Tensor) -> UInt8:
    """Return a (3, H, W) picture as (H, W, 3) bytes."""
    data: UInt8 = (picture.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    return data


def sheet(columns: list[Tensor]) -> UInt8:
    """Lay out columns of pictures, a pair a row, with white between them: (H, W, 3) bytes."""
    grid = torch.stack([column.float().cpu() for column in columns], 1)  # (rows, columns, 3, S, S)
    zoom = max(1, _PIXELS // grid.shape[-1])
    grid = grid.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
    grid = torch.nn.functional.pad(grid, (0, _GAP, 0, _GAP), value=1.0)
    rows, count, channels, height, width = grid.shape
    return as_bytes(grid.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, count * width))
