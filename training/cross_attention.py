"""Where a target's patches look in the reference, and which patches of two images match.

Shapes: B batch, N patches of an image, row by row over a square grid, S height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.croco import CroCo
from training.model.positions import grid_places
from training.order import validation_masks

_MAPS_BYTES = 2**30
"""Of the maps of all layers and heads, which a GPU that trains with fused attention must hold
twice: those of 64 pairs of 448 pixels would be 45 GB."""


@torch.no_grad()
def cross_attention_map(model: CroCo, target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return (B, N, N), how much each of the target's patches looks at each of the reference's.

    The mean over all heads of the last half of the decoder's layers, a fixed rule for every model;
    its rows sum to 1. Chosen on two tiny models, where it found 0.297 and 0.242 of the patches that
    moved; the mean over all layers 0.269 and 0.235, the last layer alone 0.281 and 0.245. So many
    pairs at a time as have maps of _MAPS_BYTES. Raises CrossviewError for a model that sees no
    reference.
    """
    rows, columns = model.grid_of(target)
    config = model.config
    bytes_a_pair = 4 * config.dec_depth * config.dec_heads * (rows * columns) ** 2
    at_once = max(1, _MAPS_BYTES // bytes_a_pair)
    parts = (part.split(at_once) for part in (target, reference, mask))
    return torch.cat([_mean_of_last_half(model.cross_attention(*part)) for part in zip(*parts)])


def _mean_of_last_half(layers: Tensor) -> Tensor:
    return layers[:, layers.shape[1] // 2 :].mean((1, 2))


@torch.no_grad()
def cross_attention_when_hidden(model: CroCo, target: Tensor, reference: Tensor) -> Tensor:
    """Return the same map, each of the target's patches while it was hidden itself.

    One half of the target's patches is hidden, then the other. Raises CrossviewError for a model
    that sees no reference.
    """
    num = model.grid_of(target)[0] * model.grid_of(target)[1]
    half = torch.from_numpy(validation_masks(1, num, num // 2))
    first, second = (
        cross_attention_map(model, target, reference, mask.expand(len(target), -1))
        for mask in (half, ~half)
    )
    return torch.where(half.to(first.device).unsqueeze(-1), first, second)


@torch.no_grad()
def cross_attention_either_way(model: CroCo, target: Tensor, reference: Tensor) -> Tensor:
    """Return (B, N, N), the mean of where patches look while hidden and with nothing hidden.

    Hidden is what a model has learnt to look from: of 64 patches of pairs of unseen rooms, mutual
    matches of a tiny model were 18.1 a pair then, of which 86.5 % were right to a patch; 13.2 and
    87.9 % with nothing hidden; 18.2 and 87.5 % by the mean. Raises CrossviewError for a model that
    sees no reference.
    """
    hidden = cross_attention_when_hidden(model, target, reference)
    nothing = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    return (cross_attention_map(model, target, reference, nothing) + hidden) / 2


@dataclass(frozen=True, kw_only=True)
class PatchMatches:
    """n patches of one image and where the other shows them, the surest first."""

    first: Tensor
    """(n, 2) places in the first image, (row, column) of patches."""
    second: Tensor
    """(n, 2) places in the second image, between patches too."""
    confidence: Tensor
    """(n,) geometric mean of both attention weights, in 0..1."""


@torch.no_grad()
def match(model: CroCo, image1: Tensor, image2: Tensor) -> PatchMatches:
    """Return the patches of two images that look at each other more than at any other patch.

    image1 and image2 are (1, 3, H, W), normalised, of multiples of the patch size; each is once the
    target and once the reference. Raises CrossviewError for a model that sees no reference, and for
    images of two sizes.
    """
    second_of_first = cross_attention_either_way(model, image1, image2)[0]
    first_of_second = cross_attention_either_way(model, image2, image1)[0]
    first = torch.arange(len(second_of_first), device=second_of_first.device)
    second = second_of_first.argmax(1)
    confidence = (second_of_first[first, second] * first_of_second[second, first]).sqrt()
    mutual = first_of_second.argmax(1)[second] == first
    order = confidence[mutual].argsort(descending=True)
    first = first[mutual][order]
    places = grid_places(model.grid_of(image1)).to(first.device)
    return PatchMatches(
        first=places[first],
        second=centred_peaks(second_of_first[first], places),
        confidence=confidence[mutual][order],
    )


def centred_peaks(attention: Tensor, places: Tensor) -> Tensor:
    """Return the (n, 2) mean place of (n, N) attention over each row's peak and its neighbours.

    Over the peaks alone, a tiny model's matches lay 0.77 patches from the truth, these 0.70.
    """
    peak = places[attention.argmax(1)]
    near = (places - peak.unsqueeze(1)).abs().amax(-1) <= 1  # (n, N)
    weights = attention * near
    return weights @ places / weights.sum(1, keepdim=True)
