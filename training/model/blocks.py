"""Transformer blocks: the encoder's (timm's, with our attention) and the decoder's three kinds."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from training.model.attention import CrossAttention, Maps, SelfAttention
from training.model.positions import Rotation

layer_norm = partial(nn.LayerNorm, eps=1e-6)


class EncoderBlock(Block):
    """timm's pre-norm block with an attention that takes rotary positions."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__(dim, num_heads, mlp_ratio, norm_layer=layer_norm)  # type: ignore[arg-type]
        self.attn = SelfAttention(dim, num_heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, rotation: Rotation | None, maps: Maps | None = None
    ) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        x = x + self.drop_path1(self.attn(self.norm1(x), rotation, maps))
        return x + self.drop_path2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class CrossBlock(nn.Module):
    """Self-attention over the target's tokens, cross-attention to the reference's, MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.norm_y = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, target: Tensor, reference: Tensor, rotation: Rotation | None, maps: Maps | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, N, D) target and reference tokens; the reference passes through unchanged."""
        target = target + self.attn(self.norm1(target), rotation)
        target = target + self.cross_attn(
            self.norm2(target), self.norm_y(reference), rotation, maps
        )
        return target + self.mlp(self.norm3(target)), reference


class CatBlock(nn.Module):
    """Plain self-attention over the tokens of both images, side by side."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.block = EncoderBlock(dim, num_heads, mlp_ratio)

    def forward(
        self, target: Tensor, reference: Tensor, rotation: Rotation | None, maps: Maps | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, N, D) target and reference tokens to the same shapes.

        The map kept is the target's attention to the reference, normalised over the reference.
        """
        num = target.shape[1]
        if rotation is not None:
            rotation = Rotation(rotation.cos.repeat(2, 1), rotation.sin.repeat(2, 1))
        both_maps: Maps | None = None if maps is None else []
        both = self.block(torch.cat([target, reference], 1), rotation, both_maps)
        if maps is not None and both_maps:
            across = both_maps[0][:, :, :num, num:]
            maps.append(across / across.sum(-1, keepdim=True))
        return both[:, :num], both[:, num:]


class SelfBlock(EncoderBlock):
    """Self-attention over the target's tokens alone, as in MAE: the reference is not seen."""

    def forward(  # type: ignore[override]
        self, target: Tensor, reference: None, rotation: Rotation | None, maps: Maps | None
    ) -> tuple[Tensor, None]:
        """Map (B, N, D) target tokens to the same shape; there are no maps to keep."""
        return super().forward(target, rotation), reference
