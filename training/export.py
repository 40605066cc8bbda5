"""The encoder as timm's vision transformers have it: the same features, token by token.

v1's encoder is timm's VisionTransformer. v2's is timm's Eva with rotary attention, which pairs
neighbouring channels where CroCo pairs those a quarter of the head apart, and scales each branch by
gamma: queries and keys are reordered, which no product of them shows, and gamma is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from generation.errors import CrossviewError
from training.model.croco import CroCo, ModelConfig
from training.model_folder import write_safetensors

_SIZES = {
    "image_size": "img_size",
    "patch_size": "patch_size",
    "enc_dim": "embed_dim",
    "enc_depth": "depth",
    "enc_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
}
"""ModelConfig's field -> timm's argument."""


def timm_arguments(config: ModelConfig) -> dict[str, Any]:
    """Return what to give timm.create_model, model_name among it, for a model's encoder.

    Its forward_features are (B, N, enc_dim) features of all patches, as CroCo.encode gives them,
    and its output their mean.
    """
    default = ModelConfig()
    sizes = {
        theirs: getattr(config, ours)
        for ours, theirs in _SIZES.items()
        if getattr(config, ours) != getattr(default, ours)
    }
    own: dict[str, Any] = {"model_name": "vit_base_patch16_224", "fc_norm": False}
    if config.pos_embed == "rope100":
        own = {"model_name": "vit_base_patch16_rope_224", "rope_grid_indexing": "ij"}
    # What timm.data.resolve_model_data_config then says of the images that it takes.
    images = {
        "input_size": (3, config.image_size, config.image_size),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    return {
        **own,
        "class_token": False,
        "global_pool": "avg",
        "num_classes": 0,
        "pretrained_cfg_overlay": images,
        **sizes,
    }


def timm_weights(model: CroCo) -> dict[str, Tensor]:
    """Return the encoder's tensors by timm's names, for the model that timm_arguments makes."""
    config = model.config
    rotary = config.pos_embed == "rope100"
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "patch_embed":
            weights[name] = tensor
        elif name == "enc_pos_embed":
            weights["pos_embed"] = tensor.unsqueeze(0)
        elif part == "enc_norm":
            weights[f"norm.{rest}"] = tensor
        elif part == "enc_blocks":
            reorder = rotary and ".attn.qkv." in name
            weights[f"blocks.{rest}"] = _neighbours(tensor, config.enc_heads) if reorder else tensor
    if rotary:
        for block in range(config.enc_depth):
            weights[f"blocks.{block}.gamma_1"] = torch.ones(config.enc_dim)
            weights[f"blocks.{block}.gamma_2"] = torch.ones(config.enc_dim)
    return weights


def _neighbours(qkv: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of q and k so that channels which rotate together are neighbours."""
    query_key_value = qkv.unflatten(0, (3, num_heads, -1))
    # Of a head: (row or column, first or second of its pair, frequency).
    halves = query_key_value[:2].unflatten(2, (2, 2, -1))
    reordered = halves.transpose(3, 4).flatten(2, 4)
    return torch.cat([reordered, query_key_value[2:]]).flatten(0, 2)


def write_timm(model: CroCo, path: Path) -> None:
    """Write the encoder for timm.create_model(checkpoint_path=...), as safetensors.

    Raises CrossviewError where the name does not say so, by which timm knows them.
    """
    if path.suffix != ".safetensors":
        raise CrossviewError(f"{path}: expected a name that ends in .safetensors")
    write_safetensors(timm_weights(model), path)
