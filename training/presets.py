"""Named starting points of a pre-training configuration, as plain data.

Each preset lists only what differs from PretrainConfig's defaults, which are the published v1.
"""

from __future__ import annotations

from typing import Any

from generation.errors import CrossviewError

# Small budgets want many small steps and a mask that rises: matching emerges while half of the
# target is visible and survives until almost all is hidden, and most of the run at the full ratio
# teaches to rely on the reference. On generated rooms, 1800 steps of 32: rising over 0.2 to 0.5 of
# the run gave a cross-view gain of 0.116 and found 0.301 of the patches that moved, over 0.5 to 1.0
# 0.088 and 0.270.
_SMALL_BUDGET: dict[str, Any] = {
    "mask": {"ratio_start": 0.5, "rise_from": 0.05, "rise_to": 0.25},
}

# Runs of millions of steps, on GPUs: about once an epoch, as the published ones left checkpoints.
_LONG: dict[str, Any] = {
    "validation": {"every_steps": 10000},
    "checkpoint_every_steps": 10000,
}

# 12 of 125 epochs of warm-up, the cosine of 250, no autocast, but products in TF32.
_V2: dict[str, Any] = {
    **_LONG,
    "optim": {"epochs": 125.0, "warmup": 0.096, "cosine_length": 2.0},
    "precision": "tf32",
}
_BASE_DECODER: dict[str, Any] = {"dec_dim": 768, "dec_depth": 12, "dec_heads": 12}

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on two CPU cores: 64 patches of 6 x 6. The fewer pixels a patch has, the less of it is
    # noise that no reference tells: after equally many steps the gain from the true reference was
    # 0.116 with 64 pixels and patches of 8, 0.127 with 48 and 6. No colour jitter: minutes are too
    # few to learn what it changes.
    "tiny": {
        "model": {
            "image_size": 48,
            "patch_size": 6,
            "enc_dim": 192,
            "enc_depth": 4,
            "enc_heads": 3,
            "dec_dim": 192,
            "dec_depth": 4,
            "dec_heads": 3,
            "pos_embed": "rope100",
        },
        "optim": {
            "max_steps": 1800,
            "batch_size": 32,
            "base_lr": 1.2e-2,
            "warmup": 0.1,
            "cosine_length": 1.0,
        },
        "augment": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
        "validation": {"every_steps": 300},
        "checkpoint_every_steps": 300,
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
    # The published v1, 400 epochs of 1.8 million pairs: GPUs, as all below.
    "croco_v1": {**_LONG, "model": {}},
    # The published v2: RoPE; two sizes of encoder and two of decoder.
    "croco_v2_base": {**_V2, "model": {"pos_embed": "rope100", **_BASE_DECODER}},
    "croco_v2_large": {
        **_V2,
        "optim": {**_V2["optim"], "batch_size": 512},  # 64 on each of 8 GPUs, the others' of 4
        "model": {
            "enc_dim": 1024,
            "enc_depth": 24,
            "enc_heads": 16,
            "pos_embed": "rope100",
            **_BASE_DECODER,
        },
    },
    "croco_v2_base_small_decoder": {**_V2, "model": {"pos_embed": "rope100"}},
    # The baseline that everyone compares with: v1's encoder, data and schedule, a decoder of as
    # many blocks that sees no reference, and MAE's usual mask. A step costs 0.36 of croco_v1's.
    "mae": {**_LONG, "model": {"decoder": "self"}, "mask": {"ratio": 0.75}},
}
PRESETS["base"] = PRESETS["croco_v1"]

PUBLISHED = ("croco_v1", "croco_v2_base", "croco_v2_large", "croco_v2_base_small_decoder")
"""Those of which there are published weights."""


def preset(name: str) -> dict[str, Any]:
    """Return a preset's values. Raises CrossviewError naming those there are."""
    if not isinstance(name, str) or name not in PRESETS:
        raise CrossviewError(f"preset = {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
