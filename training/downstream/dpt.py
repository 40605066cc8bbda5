"""DPT: tokens of four blocks, put together from coarse to fine, to a value for every pixel.

Shapes: B batch, N patches row by row, C channels, (h, w) the grid of patches.
Source: Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""(height, width)."""


def as_map(tokens: Tensor, grid: Size) -> Tensor:
    """Lay (B, N, C) tokens out as a (B, C, h, w) map."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def upsampled(maps: Tensor, size: Size) -> Tensor:
    """Resize (B, C, h, w) maps bilinearly to (height, width)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def in_float32(layers: nn.Module, values: Tensor) -> Tensor:
    """Apply a head's last layers to values in float32, under autocast too.

    In bfloat16 what they give would be rounded: from 128 pixels on to whole ones.
    """
    with torch.autocast(values.device.type, enabled=False):
        return layers(values.float())  # type: ignore[no-any-return]


class DPT(nn.Module):
    """Four maps of tokens, of the blocks from first to last, to out_channels of every pixel."""

    def __init__(
        self, dims: Sequence[int], out_channels: int, patch_size: int, width: int = 256
    ) -> None:
        """Take tokens of dims channels each; width is that of all maps, published: 256."""
        super().__init__()
        assert len(dims) == 4, dims
        assert width % 8 == 0, width
        self.patch_size = patch_size
        narrow = [width * eighths // 8 for eighths in (3, 6, 12, 24)]  # published: 96 to 768
        self.projections = nn.ModuleList(nn.Conv2d(dim, n, 1) for dim, n in zip(dims, narrow))
        # 4, 2, 1 and 1/2 of the grid: for patches of 16 pixels, strides of 4, 8, 16 and 32
        self.resamplings = nn.ModuleList(
            [
                nn.ConvTranspose2d(narrow[0], narrow[0], 4, stride=4),
                nn.ConvTranspose2d(narrow[1], narrow[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(narrow[3], narrow[3], 3, stride=2, padding=1),
            ]
        )
        self.alignments = nn.ModuleList(
            nn.Conv2d(n, width, 3, padding=1, bias=False) for n in narrow
        )
        self.coarsest = ResidualUnit(width)
        self.fusions = nn.ModuleList(Fusion(width) for _ in range(3))
        hidden = max(width // 8, out_channels, 16)  # published: 32; of a few, all may be off
        self.reduce = nn.Conv2d(width, width // 2, 3, padding=1)
        self.output = nn.Sequential(
            nn.Conv2d(width // 2, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 1),
        )

    def forward(self, tokens: Sequence[Tensor], size: Size) -> Tensor:
        """Map four (B, N, C) of images of (height, width) to (B, out_channels, height, width).

        float32, in any precision.
        """
        grid = size[0] // self.patch_size, size[1] // self.patch_size
        maps = [
            align(resample(project(as_map(each, grid))))
            for each, project, resample, align in zip(
                tokens, self.projections, self.resamplings, self.alignments, strict=True
            )
        ]
        fused = self.coarsest(maps.pop())
        for fusion in self.fusions:
            fused = fusion(fused, maps.pop())
        # twice, but no larger than the image: small patches have few pixels
        doubled = min(2 * fused.shape[-2], size[0]), min(2 * fused.shape[-1], size[1])
        fused = self.reduce(upsampled(fused, doubled))
        return in_float32(self.output, upsampled(fused, size))


class ResidualUnit(nn.Module):
    """Two convolutions around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        return maps + self.branch(maps)  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """A coarse map, brought to the size of a finer one, plus this one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, width, 1)
        self.of_finer = ResidualUnit(width)
        self.of_sum = ResidualUnit(width)

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        """Map (B, width, h', w') and (B, width, h, w) to (B, width, h, w)."""
        size = finer.shape[-2], finer.shape[-1]
        coarse = upsampled(self.project(coarse), size)  # the same the other way round, but dearer
        return self.of_sum(coarse + self.of_finer(finer))  # type: ignore[no-any-return]
