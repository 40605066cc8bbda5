"""Prediction tile by tile, for images larger than a tile; and of an image and its mirror image.

Shapes: B batch, C channels, (H, W) the images' size, (h, w) a tile's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Predict = Callable[..., "Tensor | tuple[Tensor, Tensor]"]
"""Maps one or two (B, 3, h, w) images to (B, C, h, w), or to that and how much each pixel counts
where tiles overlap: (B, 1, h, w), above 0."""


TILES_AT_ONCE = 8
"""A GPU is idle with one."""


def tiled(
    predict: Predict, images: Sequence[Tensor], tile: tuple[int, int], overlap: float
) -> Tensor:
    """Return (B, C, H, W) float32 of one or two (B, 3, H, W) images, predicted tile by tile.

    Tiles are of (height, width), evenly spread from border to border; the next one covers at least
    the share overlap of each. They are blended by the weight that predict returns or, where it
    returns none, by a window that falls smoothly to their borders. Where one tile is enough, its
    prediction is returned as it is. Images are at least as large as a tile.
    """
    height, width = images[0].shape[-2:]
    window = (_bump(tile[0]).unsqueeze(1) * _bump(tile[1])).to(images[0].device)
    if (height, width) == tile:
        return _weighted(predict(*images), window)[0]
    places = [
        (..., slice(row, row + tile[0]), slice(column, column + tile[1]))
        for row in starts(height, tile[0], overlap)
        for column in starts(width, tile[1], overlap)
    ]
    batch = len(images[0])
    sums: Tensor | None = None
    for first in range(0, len(places), TILES_AT_ONCE):
        some = places[first : first + TILES_AT_ONCE]
        tiles = (torch.cat([image[place] for place in some]) for image in images)
        prediction, weight = _weighted(predict(*tiles), window)
        parts = torch.cat([prediction * weight, weight], 1)
        if sums is None:
            sums = parts.new_zeros(batch, parts.shape[1], height, width)
        for place, part in zip(some, parts.split(batch)):
            sums[place] += part
    assert sums is not None
    return sums[:, :-1] / sums[:, -1:]


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where the fewest tiles begin that cover 0 to length and overlap by this share."""
    gaps = math.ceil((length - tile) / max(1.0, tile * (1 - overlap)))
    return [round(i * (length - tile) / gaps) for i in range(gaps)] + [length - tile]


def _bump(length: int) -> Tensor:
    """Return (length,) weights from 0.01 at the ends to 1 in the middle.

    Above 0, for the image's border lies in one tile only.
    """
    phase = (torch.arange(length) + 0.5) / length * math.pi
    return 0.01 + 0.99 * phase.sin().square()


def _weighted(result: Tensor | tuple[Tensor, Tensor], window: Tensor) -> tuple[Tensor, Tensor]:
    """Return a prediction and its weight, the window unless it brings one along."""
    if isinstance(result, tuple):
        prediction, weight = result
        return prediction.float(), weight.float().clamp(min=1e-12)  # its sum divides
    return result.float(), window.expand_as(result[:, :1])


def flipped(predict: Callable[..., Tensor], negated: Sequence[int] = ()) -> Callable[..., Tensor]:
    """Return a prediction that is the mean of the images' and, mirrored back, the mirror images'.

    negated: channels of the prediction that change sign in a mirror, such as the x of a flow.
    """

    def both(*images: Tensor) -> Tensor:
        mirrored = predict(*(image.flip(-1) for image in images)).flip(-1)
        mirrored[:, list(negated)] *= -1
        return (predict(*images) + mirrored) / 2

    return both
