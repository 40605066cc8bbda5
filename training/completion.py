"""Completed images, as pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from training.augment import denormalise
from training.losses import patch_statistics, patchify, unpatchify
from training.model.croco import CroCo


@torch.no_grad()
def complete(model: CroCo, target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return (B, 3, S, S) pictures in 0..1: the target with its masked patches predicted.

    target and reference are normalised images as in forward; mask is (B, N), True where hidden. A
    predicted patch takes the mean and deviation of the target's own hidden patch, which the loss
    normalises away, as is customary: it shows the predicted structure, not the predicted colour.
    """
    patch_size = model.config.patch_size
    patches = patchify(target, patch_size)
    mean, deviation = patch_statistics(patches)
    predicted = model(target, reference, mask).float() * deviation + mean
    merged = torch.where(mask.to(target.device).unsqueeze(-1), predicted, patches)
    return denormalise(unpatchify(merged, patch_size)).clamp(0, 1)
