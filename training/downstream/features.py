"""What heads stand on: tokens of a pre-trained model's blocks.

Shapes: B batch, N patches row by row, C channels. Images are (B, 3, H, W) in 0..1; H and W are any
multiples of the patch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from generation.errors import CrossviewError
from training.augment import normalise
from training.downstream.recipe import Recipe
from training.model.croco import CroCo, initialise


def layers(count: int, wanted: int) -> list[int]:
    """Return the numbers of equally spaced blocks among count, the last one included.

    4 of 12 are 2, 5, 8, 11; where there are fewer blocks than wanted, the first one repeats.
    """
    return [max(0, (i + 1) * count // wanted - 1) for i in range(wanted)]


def device_of(network: nn.Module) -> torch.device:
    """Return where a network's weights are."""
    return next(network.parameters()).device


class _Features(nn.Module):
    """A model whose tokens are taken; the channels of each of them."""

    def __init__(self, model: CroCo, dims: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.dims = tuple(dims)
        """C of each tensor of tokens that is returned."""
        self.patch_size = model.config.patch_size
        """In pixels."""

    def train(self, mode: bool = True) -> _Features:
        """Choose training or evaluation; a frozen model stays in evaluation."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))


class EncoderFeatures(_Features):
    """Tokens of one image: what the encoder's blocks of these numbers return.

    The last block's tokens are those after the encoder's norm.
    """

    def __init__(self, model: CroCo, hooks: Sequence[int]) -> None:
        super().__init__(model, [model.config.enc_dim] * len(hooks))
        self.hooks = tuple(hooks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to (B, N, enc_dim) of each hook."""
        outputs: list[Tensor] = []
        last = self.model.encode(normalise(images), outputs=outputs)
        outputs[-1] = last
        return [outputs[hook] for hook in self.hooks]


class PairFeatures(_Features):
    """Tokens of an image that looks at another: the encoder's, and those of three decoder blocks.

    The encoder's are its last ones, after its norm; the decoder's last ones too. Nothing is masked.
    """

    def __init__(self, model: CroCo) -> None:
        """Take a model whose decoder looks at a second image."""
        config = model.config
        super().__init__(model, [config.enc_dim, *[config.dec_dim] * 3])
        self.hooks = tuple(layers(config.dec_depth, 3))

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Map two (B, 3, H, W) images to four (B, N, C) of the first, looking at the second."""
        features, others = self._encode(first, second).chunk(2)
        return self._decode(features, others, self.model.grid_of(first))

    def both(self, first: Tensor, second: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return what forward does, and the same of the second, looking at the first."""
        features = self._encode(first, second)
        others = torch.cat(features.chunk(2)[::-1])
        tokens = self._decode(features, others, self.model.grid_of(first))
        of_first, of_second = zip(*(each.chunk(2) for each in tokens))
        return list(of_first), list(of_second)

    def _encode(self, first: Tensor, second: Tensor) -> Tensor:
        """Return (2 B, N, enc_dim), first and second image one after the other."""
        return self.model.encode(normalise(torch.cat([first, second])))

    def _decode(self, features: Tensor, others: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        outputs: list[Tensor] = []
        last = self.model.decode(features, None, others, grid=grid, outputs=outputs)
        outputs[-1] = last
        return [features, *(outputs[hook] for hook in self.hooks)]


def encoder_features(model: CroCo, recipe: Recipe, hooks: Sequence[int]) -> EncoderFeatures:
    """Return what the heads of a task of one image stand on."""
    set_drop_path(model, recipe.drop_path)
    return EncoderFeatures(model, hooks)


def pair_features(model: CroCo, recipe: Recipe) -> PairFeatures:
    """Return what the heads of a task of two views stand on.

    Raises CrossviewError for a frozen model without cross-attention: what is new would not learn.
    """
    if recipe.frozen and not model.config.sees_reference:
        raise CrossviewError(
            "frozen = True: expected false for a model that sees no second image (model.decoder = "
            "'self'), whose cross-attention is new and must be trained"
        )
    set_drop_path(model, recipe.drop_path)
    return PairFeatures(as_pair_model(model))


def as_pair_model(model: CroCo) -> CroCo:
    """Return a model whose decoder looks at a second image: the model itself, or one made of it.

    A model pre-trained without the second image (MAE) gives all that it has: the encoder, and of
    the decoder everything but cross-attention and the two norms before it, which are drawn anew
    from torch's default generator, as for pre-training. No model without a second view can give
    more.
    """
    if model.config.sees_reference:
        return model
    pair = CroCo(replace(model.config, decoder="cross"))
    initialise(pair, torch.default_generator)
    pair.enc_blocks = deepcopy(model.enc_blocks)  # with its drop path, which is no tensor
    learnt = {_name_in_pair(name): tensor for name, tensor in model.state_dict().items()}
    pair.load_state_dict(pair.state_dict() | learnt)
    return pair.to(device_of(model)).train(model.training)


def _name_in_pair(name: str) -> str:
    """Return a CrossBlock's name for a SelfBlock's tensor: the norm before the MLP is its third."""
    return name.replace(".norm2.", ".norm3.") if name.startswith("dec_blocks.") else name


def set_drop_path(model: CroCo, rate: float) -> None:
    """Skip the encoder's blocks in training by chance, from 0 for the first to rate for the last.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016.
    """
    for block, chance in zip(model.enc_blocks, torch.linspace(0, rate, len(model.enc_blocks))):
        for branch in ("drop_path1", "drop_path2"):
            setattr(block, branch, DropPath(float(chance)) if chance else nn.Identity())
