"""The smallest run that has every part: a preset shrunk to milliseconds a step."""

from generation.plain import merge
from pipelines.pretraining.configuration import pretrain_config

MICRO = {
    "model": {
        "image_size": 32,
        "patch_size": 8,
        "enc_dim": 32,
        "enc_depth": 2,
        "enc_heads": 2,
        "dec_dim": 32,
        "dec_depth": 2,
        "dec_heads": 2,
    },
    "optim": {"max_steps": 8, "batch_size": 4},
    "validation": {"num_pairs": 12, "every_steps": 4},
    "log_every_steps": 1,
    "checkpoint_every_steps": 3,
    "device": "cpu",
    "precision": "float32",
}


def micro_config(folder, /, **overrides):
    """Return the micro configuration on a dataset; overrides are nested."""
    return preset_config("tiny", folder, **merge(MICRO, overrides))


def preset_config(name, folder, /, **overrides):
    """Return a preset's configuration for a dataset, through the door that users take."""
    values = {"preset": name, "data": {"path": str(folder)}}
    return pretrain_config(merge(values, overrides), source="test")
