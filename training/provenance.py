"""What a run writes down before it works: everything that its results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from generation.plain import to_plain
from training.config import PretrainConfig
from training.data import Split
from training.distributed import Process
from training.model.croco import CroCo

_PACKAGES = ("crossview", "numpy", "simplejpeg", "timm", "torch")


def describe_run(
    config: PretrainConfig,
    split: Split,
    model: CroCo,
    num_steps: int,
    process: Process,
    precision: str,
) -> dict[str, Any]:
    """Return what run.json says: everything that a run's results depend on."""
    return {
        "config": to_plain(config),
        "digests": split.digests,
        "train_scenes": list(split.train.scenes),
        "train_pairs": split.train.num_pairs,
        "val_scenes": list(split.val.scenes),
        "val_pairs": split.val.num_pairs,
        "num_steps": num_steps,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "world_size": process.world_size,
        "device": str(process.device),
        "precision": precision,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    }
