"""A model that matches by appearance, in closed form: where it looks is known beforehand."""

import torch
from torch import nn

from training.model.croco import CroCo, ModelConfig, initialise

IMAGE_SIZE, PATCH_SIZE = 64, 8
SIDE = IMAGE_SIZE // PATCH_SIZE
_DIM = 64


def appearance_model(decoder="cross"):
    """Return a model whose patches look where the other image has the very same pixels.

    All blocks pass their tokens on unchanged; a patch's token is a random projection of its pixels,
    much larger than its position, and queries are keys ten times over, less what is of positions: a
    hidden patch looks everywhere alike. Other decoders than cross have no such weights: theirs are
    random.
    """
    config = ModelConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        enc_dim=_DIM,
        enc_depth=1,
        enc_heads=1,
        dec_dim=_DIM,
        dec_depth=2,
        dec_heads=1,
        decoder=decoder,
    )
    model = CroCo(config).eval()
    initialise(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.patch_embed.proj.weight.mul_(1000)
        nn.init.eye_(model.decoder_embed.weight)
        model.mask_token.zero_()
        # What layer normalisation makes of positions is a sum of them and of a constant.
        places = torch.cat([model.dec_pos_embed.view(-1, _DIM), torch.ones(1, _DIM)])
        span = torch.linalg.svd(places, full_matrices=False).Vh[: 2 * SIDE]
        appearance = torch.eye(_DIM) - span.T @ span
        passing = [*model.enc_blocks, *(model.dec_blocks if decoder != "cat" else ())]
        for block in passing:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
        for block in model.dec_blocks if decoder == "cross" else ():
            block.cross_attn.proj.weight.zero_()
            block.cross_attn.projq.weight.copy_(10 * appearance)
            nn.init.zeros_(block.cross_attn.projq.bias)
            nn.init.eye_(block.cross_attn.projk.weight)
    return model


def noise(generator, size):
    """Return a (size, size, 3) picture whose patches all differ."""
    return generator.integers(0, 256, (size, size, 3), "uint8")
