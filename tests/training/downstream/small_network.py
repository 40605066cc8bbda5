"""An encoder of four blocks under a linear head, and images for it."""

from dataclasses import replace

import torch
from torch import nn

from training.downstream.features import EncoderFeatures, layers
from training.downstream.heads import PatchHead
from training.model.croco import CroCo, ModelConfig, initialise

CONFIG = ModelConfig(
    image_size=32,
    patch_size=8,
    enc_dim=32,
    enc_depth=4,
    enc_heads=2,
    dec_dim=16,
    dec_depth=3,
    dec_heads=2,
)


def make_model(**fields):
    model = CroCo(replace(CONFIG, **fields))
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():  # norms that are all 1 could be taken for one another
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def random_images(number, height=32, width=32):
    return torch.rand(number, 2, 3, height, width, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """An encoder with a linear head."""

    def __init__(self, model):
        super().__init__()
        self.features = EncoderFeatures(model, layers(4, 1))
        self.head = PatchHead(32, 1, 8)

    def forward(self, images):
        return self.head(self.features(images), images.shape[-2:])
