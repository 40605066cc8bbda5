"""Warps, colour jitter and normalisation, batched on the training device.

Shapes: B batch, images (B, 3, H, W), RGB in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from generation.bounds import require
from training.order import jitter_generator
from training.warp import Warp, draw_warps, resample

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, rounded as torchvision does


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Colour jitter of the published code, and bending; each view of each pair its own."""

    brightness: float = 0.4
    """Factor uniform in 1 - x to 1 + x; 0 turns it off. Published: 0.4."""
    contrast: float = 0.4
    """As brightness."""
    saturation: float = 0.4
    """As brightness."""
    homography: float = 0.0
    """Each corner comes inwards by up to this part of half a side, as in torchvision's
    RandomPerspective; 0 turns it off. The paper: 0.5; the authors later found no use in it."""
    rotation_deg: float = 0.0
    """Turned about the centre by up to this, either way; 0 turns it off. The paper: 10."""
    unrelated: bool = False
    """Give every target the reference of another pair that is computed with it, so that
    optim.accumulate and the number of processes say which: a control, which can learn nothing from
    the reference."""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", value, "0 to 1")
        require(0 <= self.homography < 1, "augment.homography", self.homography, "0 to below 1")
        angle = self.rotation_deg
        require(0 <= angle <= 180, "augment.rotation_deg", angle, "0 to 180 degrees")

    @property
    def bends(self) -> bool:
        """Whether images are warped on the device, and so must come there uncropped."""
        return self.homography > 0 or self.rotation_deg > 0


@dataclass(frozen=True)
class Jitter:
    """What to do to one view of each pair in a batch."""

    order: tuple[int, ...]
    """The order of brightness (0), contrast (1) and saturation (2), one for the whole batch."""
    factors: Tensor
    """(B, 3) factors of brightness, contrast and saturation."""
    warp: Warp | None = None
    """How to bend and crop what comes uncropped."""


def draw_jitter(config: AugmentConfig, seed: int, step: int, batch_size: int) -> list[Jitter]:
    """Return the jitter, and the warp if any, of both views of a step's global batch."""
    warps: list[Warp] | list[None] = [None, None]
    if config.bends:
        warps = draw_warps(config.homography, config.rotation_deg, seed, step, batch_size)
    generator = jitter_generator(seed, step)
    spread = np.array([config.brightness, config.contrast, config.saturation])
    views = []
    for warp in warps:
        order = tuple(int(i) for i in generator.permutation(3))
        factors = 1 + spread * generator.uniform(-1, 1, (batch_size, 3))
        views.append(Jitter(order, torch.from_numpy(factors.astype(np.float32)), warp))
    return views


def augment(images: Tensor, jitter: Jitter, rows: slice, crop: int) -> Tensor:
    """Return (B, 3, S, S) of images that are crops already, or whole where jitter has a warp."""
    if jitter.warp:
        height, width = images.shape[-2:]
        images = resample(images, jitter.warp.maps(rows, (height, width), crop), crop)
    return apply_jitter(images, jitter, rows)


def apply_jitter(images: Tensor, jitter: Jitter, rows: slice = slice(None)) -> Tensor:
    """Jitter (B, 3, H, W) images in 0..1 by the factors of these rows of the global batch.

    The same as torchvision's adjust_brightness, adjust_contrast and adjust_saturation, image by
    image: each blends towards black, the image's mean grey, or its own grey, then clamps.
    """
    factors = jitter.factors[rows].to(images.device, non_blocking=True)
    for operation in jitter.order:
        factor = factors[:, operation].view(-1, 1, 1, 1)
        if operation == 0:
            images = images * factor
        elif operation == 1:
            images = torch.lerp(_grey(images).mean((1, 2, 3), keepdim=True), images, factor)
        else:
            images = torch.lerp(_grey(images), images, factor)
        images = images.clamp_(0, 1)
    return images


def _grey(images: Tensor) -> Tensor:
    """Return (B, 1, H, W) luma."""
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze(1)


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Bring (B, H, W, 3) bytes to the device as (B, 3, H, W) in 0..1."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean colour from (B, 3, H, W) in 0..1 and divide by its deviation."""
    mean, std = _channel_statistics(images.device)
    return (images - mean) / std


def denormalise(images: Tensor) -> Tensor:
    """Undo normalise."""
    mean, std = _channel_statistics(images.device)
    return images * std + mean


@lru_cache
def _channel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ImageNet's mean and deviation; kept there, for the host would wait for the copy."""
    mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=device).view(3, 1, 1)
    return mean, torch.tensor(IMAGENET_DEFAULT_STD, device=device).view(3, 1, 1)
