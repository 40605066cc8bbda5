"""Pictures of what a model does with a pair: what it completes, and where each patch looked.

Shapes: B batch, N patches row by row over a square grid, S height and width in pixels. Pictures are
(B, 3, S, S) RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from generation.geometry import UInt8
from training.augment import denormalise, normalise, to_unit_range
from training.completion import complete, grid_places, looked
from training.losses import patchify, unpatchify
from training.model.croco import CroCo
from training.validation import ValidationPairs

HIDDEN_GREY = 0.86
"""What a hidden patch is painted with: light, and of no colour."""
_CORNERS = ((0.10, 0.30, 1.00), (0.95, 0.10, 0.55), (0.00, 0.70, 0.50), (1.00, 0.75, 0.00))
"""Blue top left, magenta top right, green bottom left, amber bottom right."""
_PIXELS = 96
"""Least height and width of a picture on a sheet."""
_GAP = 4


def masked(images: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Return pictures of which the patches that are True in the (B, N) mask are light grey."""
    patches = patchify(images, patch_size)
    hidden = mask.to(images.device).unsqueeze(-1)
    return unpatchify(patches.masked_fill(hidden, HIDDEN_GREY), patch_size)


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


def places_looked_at(attention: Tensor) -> Tensor:
    """Return the (B, N, 2) places that get the most of (B, N, N) attention, for each patch."""
    side = _side(attention.shape[-1])
    best = attention.argmax(-1)
    return torch.stack([best // side, best % side], -1).float()


def painted(images: Tensor, colours: Tensor, patch_size: int) -> Tensor:
    """Return pictures in the patches' colours, (B, N, 3) or (N, 3), as bright as the images are."""
    grey = images.mean(1, keepdim=True).expand_as(images)
    light = patchify(grey, patch_size).unflatten(-1, (-1, 3))  # (B, N, pixels, 3)
    colours = colours.to(images).expand(len(images), *colours.shape[-2:]).unsqueeze(2)
    mixed = colours * (0.6 + 0.4 * light) + 0.2 * light
    return unpatchify(mixed.flatten(2), patch_size).clamp(0, 1)


def as_bytes(picture: Tensor) -> UInt8:
    """Return a (3, H, W) picture as (H, W, 3) bytes."""
    data: UInt8 = (picture.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    return data


@torch.no_grad()
def validation_pictures(
    model: CroCo,
    pairs: ValidationPairs,
    device: torch.device,
    precision: Callable[[], torch.autocast],
) -> dict[str, UInt8]:
    """Return sheets, (H, W, 3), of the first pairs, one a row.

    completions: masked target, reference, completion, truth. cross_attention, of a model that sees
    a reference: the reference with a colour for each place; the target with the colours of where
    its patches looked; and, of pairs with depth, of where they should have looked.
    """
    was_training = model.training
    model.eval()
    size, side, rows = model.config.patch_size, model.config.grid[0], slice(0, 8)
    mask = pairs.masks[rows]
    views = [to_unit_range(pairs.images[view, rows], device) for view in (0, 1)]
    target, reference = (normalise(view) for view in views)
    with precision():
        completed = complete(model, target, reference, mask)
        attention = looked(model, target, reference, mask) if model.config.sees_reference else None
    model.train(was_training)
    truth = denormalise(target).clamp(0, 1)
    sheets = {"completions": sheet([masked(truth, mask, size), views[1], completed, truth])}
    if attention is not None:
        columns = [painted(views[1], colours_of_places(grid_places(side), side), size)]
        found = [places_looked_at(attention).cpu()]
        if pairs.truth is not None:
            found.append(pairs.truth[rows])
        columns += [painted(truth, colours_of_places(places, side), size) for places in found]
        sheets["cross_attention"] = sheet(columns)
    return sheets


def sheet(columns: list[Tensor]) -> UInt8:
    """Lay out columns of pictures, a pair a row, with white between them: (H, W, 3) bytes."""
    grid = torch.stack([column.float().cpu() for column in columns], 1)  # (rows, columns, 3, S, S)
    zoom = max(1, _PIXELS // grid.shape[-1])
    grid = grid.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
    grid = torch.nn.functional.pad(grid, (0, _GAP, 0, _GAP), value=1.0)
    rows, count, channels, height, width = grid.shape
    return as_bytes(grid.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, count * width))


def _side(num_patches: int) -> int:
    side = int(num_patches**0.5)
    assert side * side == num_patches, num_patches
    return side
