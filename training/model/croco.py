"""CroCo: complete a masked target image with the help of a reference view of the same scene.

Shapes: B batch, N patches of an image (row by row), V visible ones, P = patch_size ** 2 * 3 values
a patch (row, column, channel). Images are (B, 3, H, W), ImageNet-normalised; H and W are any
multiples of patch_size, and the same for target and reference.
Source: Weinzaepfel et al., CroCo, NeurIPS 2022 (cosine); CroCo v2, ICCV 2023 (RoPE).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from generation.bounds import require, require_choices
from generation.errors import CrossviewError
from training.model.attention import Maps
from training.model.blocks import CatBlock, CrossBlock, EncoderBlock, SelfBlock, layer_norm
from training.model.positions import (
    Rotation,
    interpolated,
    rotary_tables,
    sine_cosine_positions,
)

ROPE_BASE = 100.0
_DECODER_BLOCKS = {"cross": CrossBlock, "cat": CatBlock, "self": SelfBlock}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What decides the model's tensors. The defaults are the published CroCo v1."""

    image_size: int = 224
    """Height and width of the images it is trained on, in pixels, a multiple of patch_size."""
    patch_size: int = 16
    """Height and width of a patch in pixels."""
    enc_dim: int = 768
    """Channels of the encoder."""
    enc_depth: int = 12
    """Blocks of the encoder."""
    enc_heads: int = 12
    """Attention heads of the encoder."""
    dec_dim: int = 512
    """Channels of the decoder."""
    dec_depth: int = 8
    """Blocks of the decoder."""
    dec_heads: int = 16
    """Attention heads of the decoder."""
    mlp_ratio: float = 4.0
    """Hidden channels of every MLP over its channels."""
    pos_embed: Literal["cosine", "rope100"] = "cosine"
    """Fixed sine-cosine vectors (v1), or RoPE with base 100 in all attention (v2)."""
    decoder: Literal["cross", "cat", "self"] = "cross"
    """CrossBlocks (the paper's choice), CatBlocks, or SelfBlocks, which see no reference (MAE)."""

    def __post_init__(self) -> None:
        require(self.patch_size >= 1, "model.patch_size", self.patch_size, "at least 1")
        multiple = self.image_size > 0 and self.image_size % self.patch_size == 0
        allowed = f"a positive multiple of model.patch_size = {self.patch_size}"
        require(multiple, "model.image_size", self.image_size, allowed)
        for name in ("enc_depth", "dec_depth", "enc_heads", "dec_heads"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        for part in ("enc", "dec"):
            dim, heads = getattr(self, f"{part}_dim"), getattr(self, f"{part}_heads")
            allowed = f"a positive multiple of 4 x model.{part}_heads = {4 * heads}"
            require(dim > 0 and dim % (4 * heads) == 0, f"model.{part}_dim", dim, allowed)
        require(self.mlp_ratio > 0, "model.mlp_ratio", self.mlp_ratio, "above 0")
        require_choices(self, "model.")

    @property
    def sees_reference(self) -> bool:
        """Whether the reference has a part in the prediction."""
        return self.decoder != "self"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]


class CroCo(nn.Module):
    """A shared ViT encoder and a decoder that looks at both images; published tensor names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        enc_dim, dec_dim = config.enc_dim, config.dec_dim
        self.patch_embed = PatchEmbed(
            config.image_size, config.patch_size, 3, enc_dim, strict_img_size=False
        )
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc_dim, config.enc_heads, config.mlp_ratio)
            for _ in range(config.enc_depth)
        )
        self.enc_norm = layer_norm(enc_dim)
        self.decoder_embed = nn.Linear(enc_dim, dec_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec_dim))
        block = _DECODER_BLOCKS[config.decoder]
        self.dec_blocks = nn.ModuleList(
            block(dec_dim, config.dec_heads, config.mlp_ratio) for _ in range(config.dec_depth)
        )
        if config.decoder == "cat":  # side by side, a token must say which image it is of
            self.image_embed = nn.Parameter(torch.zeros(2, 1, dec_dim))
        self.dec_norm = layer_norm(dec_dim)
        self.prediction_head = nn.Linear(dec_dim, config.patch_size**2 * 3)
        self.add_positions()

    def add_positions(self) -> None:
        """Compute the fixed positions of the grid trained on."""
        config = self.config
        for part, dim, heads in (
            ("enc", config.enc_dim, config.enc_heads),
            ("dec", config.dec_dim, config.dec_heads),
        ):
            if config.pos_embed == "cosine":
                positions = sine_cosine_positions(config.grid, dim)
                self.register_buffer(f"{part}_pos_embed", positions)
            else:
                tables = rotary_tables(config.grid, dim // heads, ROPE_BASE)
                self.register_buffer(f"{part}_rope_cos", tables.cos, persistent=False)
                self.register_buffer(f"{part}_rope_sin", tables.sin, persistent=False)

    @classmethod
    def from_pretrained(cls, path: Path | str) -> CroCo:
        """Load a model, for evaluation, from whatever holds one: see checkpoint.load_model."""
        from training.checkpoint import load_model  # which imports this module

        return load_model(path)

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches of (B, 3, H, W) images.

        Raises CrossviewError where H or W is no multiple of patch_size.
        """
        height, width = images.shape[-2:]
        size = self.config.patch_size
        if height % size or width % size:
            raise CrossviewError(
                f"images of {height} x {width} pixels: expected multiples of patch_size = {size}"
            )
        return height // size, width // size

    def _positions(self, part: str, grid: tuple[int, int]) -> Tensor:
        positions: Tensor = getattr(self, f"{part}_pos_embed")
        trained = self.config.grid
        return positions if grid == trained else interpolated(positions, trained, grid)

    def _rotation(self, part: str, grid: tuple[int, int]) -> Rotation | None:
        if self.config.pos_embed == "cosine":
            return None
        cos, sin = getattr(self, f"{part}_rope_cos"), getattr(self, f"{part}_rope_sin")
        if grid == self.config.grid:
            return Rotation(cos, sin)
        return _tables_on(cos.device, grid, cos.shape[-1])

    def encode(
        self, images: Tensor, visible: Tensor | None = None, outputs: list[Tensor] | None = None
    ) -> Tensor:
        """Return (B, V, enc_dim) features of the patches in (B, V) visible; of all where None.

        outputs, if given, receives what each block returns (B, V, enc_dim), before enc_norm.
        """
        grid = self.grid_of(images)
        x = self.patch_embed(images)
        rotation = self._rotation("enc", grid)
        if rotation is None:
            x = x + self._positions("enc", grid)
        else:
            rotation = rotation.of_tokens(visible)
        if visible is not None:
            x = x.gather(1, visible.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        for block in self.enc_blocks:
            x = block(x, rotation)
            if outputs is not None:
                outputs.append(x)
        return self.enc_norm(x)  # type: ignore[no-any-return]

    def decode(
        self,
        target_features: Tensor,
        visible: Tensor | None,
        reference_features: Tensor | None,
        maps: Maps | None = None,
        grid: tuple[int, int] | None = None,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        """Return (B, N, dec_dim) features of all of the target's patches.

        target_features are (B, V, enc_dim) of the patches in (B, V) visible, or all where None;
        reference_features (B, N, enc_dim), or None for a decoder that sees no reference.
        maps, if given, receives each block's attention from target to reference (B, H, N, N).
        grid: rows and columns of patches, where images are not of the size trained on.
        outputs, if given, receives the target's tokens (B, N, dec_dim) after each block, before
        dec_norm.
        """
        grid = grid or self.config.grid
        target = self.decoder_embed(target_features)
        reference = None
        if reference_features is not None:
            reference = self.decoder_embed(reference_features)
        if visible is not None:
            shape = (target.shape[0], grid[0] * grid[1], target.shape[-1])
            index = visible.unsqueeze(-1).expand_as(target)
            target = self.mask_token.to(target.dtype).expand(shape).scatter(1, index, target)
        rotation = self._rotation("dec", grid)
        if rotation is None:
            positions = self._positions("dec", grid)
            target = target + positions
            reference = None if reference is None else reference + positions
        if self.config.decoder == "cat":
            assert reference is not None
            target, reference = target + self.image_embed[0], reference + self.image_embed[1]
        for block in self.dec_blocks:
            target, reference = block(target, reference, rotation, maps)
            if outputs is not None:
                outputs.append(target)
        return self.dec_norm(target)  # type: ignore[no-any-return]

    def forward(
        self, target: Tensor, reference: Tensor, mask: Tensor, num_visible: int | None = None
    ) -> Tensor:
        """Return (B, N, P) predicted values of all patches, in the loss's normalised units.

        mask is (B, N), True where hidden, the same number in each row; num_visible is that of the
        others. Where it is not given it is counted, and a mask on a GPU waited for. A decoder that
        sees no reference ignores it.
        """
        features = self._complete(target, reference, mask, num_visible)
        return self.prediction_head(features)  # type: ignore[no-any-return]

    def cross_attention(self, target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """Return (B, layers, H, N, N) attention from target to reference patches, decoder only.

        Each row sums to 1, for CatBlocks too, where it is renormalised over the reference. Raises
        CrossviewError for a decoder that sees no reference.
        """
        if not self.config.sees_reference:
            raise CrossviewError("model.decoder = 'self' sees no reference: expected cross or cat")
        maps: Maps = []
        self._complete(target, reference, mask, maps=maps)
        return torch.stack(maps, 1)

    def _complete(
        self,
        target: Tensor,
        reference: Tensor,
        mask: Tensor,
        num_visible: int | None = None,
        maps: Maps | None = None,
    ) -> Tensor:
        grid = self.grid_of(target)
        visible = visible_patches(mask, num_visible).to(target.device, non_blocking=True)
        features = self.encode(target, visible)
        others = None
        if self.config.sees_reference:
            if reference.shape != target.shape:
                found = [f"{image.shape[-2]} x {image.shape[-1]}" for image in (target, reference)]
                raise CrossviewError(
                    f"target and reference are {' and '.join(found)}: expected one size"
                )
            others = self.encode(reference)
        return self.decode(features, visible, others, maps, grid)


@lru_cache(maxsize=8)
def _tables_on(device: torch.device, grid: tuple[int, int], head_dim: int) -> Rotation:
    """Return rotary tables, kept: a GPU would be waited for in every pass until it has them."""
    with torch.inference_mode(False):  # what is made in it, no training could use later
        tables = rotary_tables(grid, head_dim, ROPE_BASE)
        return Rotation(tables.cos.to(device), tables.sin.to(device))


def visible_patches(mask: Tensor, num_visible: int | None = None) -> Tensor:
    """Return (B, V) positions that a (B, N) mask leaves visible, ascending."""
    if num_visible is None:
        num_visible = mask.shape[1] - int(mask[0].sum())
    return mask.int().argsort(dim=1, stable=True)[:, :num_visible]


def initialise(model: CroCo, generator: torch.Generator) -> None:
    """Draw all weights anew: Xavier-uniform matrices, zero biases, normal (0.02) tokens.

    As published, the bias of the patch embedding is uniform, up to 1 / sqrt(P) each way.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                flat = module.weight.view(module.weight.shape[0], -1)
                nn.init.xavier_uniform_(flat, generator=generator)
                assert module.bias is not None
                module.bias.zero_()
        for name in ("mask_token", "image_embed"):
            if hasattr(model, name):
                nn.init.normal_(getattr(model, name), std=0.02, generator=generator)
        patches = model.patch_embed.proj
        assert patches.bias is not None
        bound = patches.weight[0].numel() ** -0.5
        nn.init.uniform_(patches.bias, -bound, bound, generator=generator)
