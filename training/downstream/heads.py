"""Small heads on tokens; they return plain tensors.

Heads for images take the tokens of features.EncoderFeatures or PairFeatures and the images' size,
as dpt.DPT does, so that one can stand for another.
Shapes: B batch, N patches row by row, C channels, (H, W) the images' size in pixels. Weights are
drawn from torch's default generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from generation.errors import CrossviewError
from training.downstream.dpt import Size, as_map, in_float32, upsampled
from training.model.blocks import layer_norm

NUM_CONVNEXT_BLOCKS = 4
"""Of the head of segmentation. Source: MultiMAE."""
POSE_CHANNELS = 16
"""To which the tokens of a patch are brought, for a pose."""


class LinearHead(nn.Module):
    """A linear classifier of an image's mean token, each channel of unit variance.

    Source: He et al., MAE, CVPR 2022, appendix A.1: linear probing.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, dim) to (B, num_classes) logits.

        Raises CrossviewError in training with a single image, which has no variance.
        """
        if self.training and len(tokens) == 1:
            raise CrossviewError("batch_size = 1: the linear classifier expected at least 2")
        return in_float32(self.linear, self.norm(tokens.mean(1)))


class PatchHead(nn.Module):
    """A linear map from the last token of each patch to the patch's pixels."""

    def __init__(self, dim: int, out_channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.linear = nn.Linear(dim, out_channels * patch_size**2)

    def forward(self, tokens: Sequence[Tensor], size: Size) -> Tensor:
        """Map (B, N, dim), the last of tokens, to (B, out_channels, H, W), float32."""
        grid = size[0] // self.patch_size, size[1] // self.patch_size
        return F.pixel_shuffle(as_map(in_float32(self.linear, tokens[-1]), grid), self.patch_size)


class SegmentationHead(nn.Module):
    """ConvNeXt blocks on four by four tokens a patch, then a linear map to classes.

    Source: Bachmann et al., MultiMAE, ECCV 2022.
    """

    def __init__(self, dim: int, num_classes: int, patch_size: int, *, width: int) -> None:
        """Take tokens of dim channels; width is that of the ConvNeXt blocks, published: 384."""
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(dim, width * 16)
        # no layer scale: its 1e-6 would leave the blocks without effect in a short run
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(width, ls_init_value=None) for _ in range(NUM_CONVNEXT_BLOCKS))
        )
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, tokens: Sequence[Tensor], size: Size) -> Tensor:
        """Map (B, N, dim), the last of tokens, to (B, num_classes, H, W) logits."""
        grid = size[0] // self.patch_size, size[1] // self.patch_size
        maps = F.pixel_shuffle(as_map(self.embed(tokens[-1]), grid), 4)
        return upsampled(in_float32(self.classify, self.blocks(maps)), size)


class PoseHead(nn.Module):
    """The motion between two cameras, from the tokens of an image that looks at the other.

    Each patch's tokens are brought to a few channels and all patches' put side by side, for what a
    patch says of a motion depends on where it lies. On frozen tokens of a tiny model, 400 steps of
    16 pairs brought the median rotation from 30.0 degrees, which guessing 'not turned' is off by,
    to 21.1; with a mean over the patches, as is usual in larger models, to 29.4. Untrained, it says
    about 'not turned'. Source of the nine numbers: Levinson et al., An Analysis of SVD for Deep
    Rotation Estimation, NeurIPS 2020.
    """

    def __init__(self, dims: Sequence[int], num_patches: int, width: int = 512) -> None:
        super().__init__()
        self.embed = nn.Linear(sum(dims), POSE_CHANNELS)
        self.mlp = nn.Sequential(
            layer_norm(num_patches * POSE_CHANNELS),
            nn.Linear(num_patches * POSE_CHANNELS, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 12),
        )

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Map (B, N, C) of each of dims to (B, 4, 4) float32 rigid transforms, in metres."""
        numbers = in_float32(self.mlp, self.embed(torch.cat(list(tokens), 2)).flatten(1))
        matrix = torch.eye(3, device=numbers.device) + numbers[:, :9].unflatten(1, (3, 3))
        rigid = torch.cat([nearest_rotation(matrix), numbers[:, 9:].unsqueeze(2)], 2)
        last = torch.eye(4, device=numbers.device)[3]
        return torch.cat([rigid, last.expand(len(rigid), 1, 4)], 1)


def nearest_rotation(matrices: Tensor) -> Tensor:
    """Return the (B, 3, 3) rotations nearest to (B, 3, 3) matrices (special Procrustes).

    For M = U S V^T that is R = U V^T, the last axis of U turned round where R would be a mirror.
    Its derivative is dR = U ((A - A^T) / (s_i + s_j)) V^T with A = U^T dM V: finite where M has
    equal singular values, as every rotation has, unlike those of U and V, by which torch would go.
    Under autocast too, this is computed in the precision of the matrices.
    """
    with torch.autocast(matrices.device.type, enabled=False):
        return _nearest_rotation(matrices)


def _nearest_rotation(matrices: Tensor) -> Tensor:
    with torch.no_grad():
        # svd would raise for what is not finite; the result is NaN then, which a loss tells
        u, s, vt = torch.linalg.svd(matrices.nan_to_num(0.0, 0.0, 0.0))
        sign = torch.det(u @ vt).sign()
        u[..., 2] *= sign.unsqueeze(-1)
        s[..., 2] *= sign
        # 0 where M says nothing about the rotation in that plane: a large, yet finite slope
        sums = (s.unsqueeze(-1) + s.unsqueeze(-2)).clamp(min=1e-3)
    moved = u.mT @ (matrices - matrices.detach()) @ vt.mT  # zero, but for its derivative
    identity = torch.eye(3, dtype=u.dtype, device=u.device)
    return u @ (identity + (moved - moved.mT) / sums) @ vt


def points_and_confidence(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Read (B, 4, H, W) as (B, 3, H, W) points in metres and their (B, H, W) confidence above 1.

    A vector v is the point at distance exp(|v|) - 1 in its direction; the confidence of c is
    1 + exp(c). float32. Source: Wang et al., DUSt3R, CVPR 2024, section 3.2 for the confidence.
    """
    vectors, confidence = maps.float().split([3, 1], 1)
    length = vectors.norm(dim=1, keepdim=True).clamp(min=1e-8)
    return vectors * (torch.expm1(length) / length), 1 + confidence.squeeze(1).exp()
