"""Named starting points of a pre-training configuration, as plain data.

Each preset lists only what differs from PretrainConfig's defaults, which are the published v1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.plain import merge
from training.augment import AugmentConfig
from training.config import PretrainConfig
from training.data import DataConfig
from training.model.croco import ModelConfig
from training.optim import MaskConfig, OptimConfig
from training.validation import ValidationConfig

# Small budgets want many small steps and a mask that rises: matching emerges while half of the
# target is visible and survives until almost all is hidden. On generated rooms, 1800 steps of 32,
# rising over 0.2 to 0.5 of the run (without jitter) gave a cross-view gain of 0.116 and found 0.301
# of the patches that moved; over 0.5 to 1.0 (with a jitter of 0.1) 0.088 and 0.270.
_SMALL_BUDGET: dict[str, Any] = {
    "mask": {"ratio_start": 0.5, "rise_from": 0.2, "rise_to": 0.5},
}

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on two CPU cores: 64 patches of 8 x 8. On 9,600 pairs of generated rooms, one core:
    # 172 pairs/s and, after 57,600 pairs in 6 minutes, a validation loss of 0.740; with 192
    # channels and 6 + 4 blocks 75 pairs/s and, after 28,800 pairs in 8 minutes, 0.755.
    "tiny": {
        "model": {
            "image_size": 64,
            "patch_size": 8,
            "enc_dim": 128,
            "enc_depth": 4,
            "enc_heads": 4,
            "dec_dim": 128,
            "dec_depth": 4,
            "dec_heads": 4,
            "pos_embed": "rope100",
        },
        "optim": {
            "max_steps": 3000,
            "batch_size": 32,
            "base_lr": 1.6e-2,
            "warmup": 0.1,
            "cosine_length": 1.0,
        },
        "augment": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1},
        "validation": {"every_steps": 500},
        "checkpoint_every_steps": 250,
        "log_every_steps": 20,
        **_SMALL_BUDGET,
    },
    # Hours on a few CPU cores, minutes on a GPU: 64 patches of 16 x 16.
    "small": {
        "model": {
            "image_size": 128,
            "patch_size": 16,
            "enc_dim": 384,
            "enc_depth": 8,
            "enc_heads": 6,
            "dec_dim": 256,
            "dec_depth": 6,
            "dec_heads": 8,
            "pos_embed": "rope100",
        },
        "optim": {
            "max_steps": 20000,
            "batch_size": 64,
            "base_lr": 2.0e-3,
            "warmup": 0.05,
            "cosine_length": 1.0,
        },
        "validation": {"every_steps": 2000},
        **_SMALL_BUDGET,
    },
    # The published v1, 400 epochs of 1.8 million pairs: GPUs.
    "base": {"data": {"num_workers": 8}},
    # The published v2 with the same tensors: RoPE, 12 of 125 epochs of warm-up, full precision.
    "base_v2": {
        "data": {"num_workers": 8},
        "model": {"pos_embed": "rope100"},
        "optim": {"epochs": 125.0, "warmup": 0.096, "cosine_length": 2.0},
        "precision": "float32",
    },
}
PRESETS["croco_v1"] = PRESETS["base"]

_PARTS = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "mask": MaskConfig,
    "augment": AugmentConfig,
    "validation": ValidationConfig,
}


def preset(name: str) -> dict[str, Any]:
    """Return a preset's values. Raises CrossviewError naming those there are."""
    if name not in PRESETS:
        raise CrossviewError(f"preset = {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_config(name: str, folder: Path, /, **overrides: Any) -> PretrainConfig:
    """Return a preset's configuration for a folder of shards; overrides are nested as PRESETS."""
    values = merge(preset(name), {"data": {"path": Path(folder)}})
    values = merge(values, overrides)
    parts = {key: _PARTS[key](**value) for key, value in values.items() if key in _PARTS}
    return PretrainConfig(**{**values, **parts})
