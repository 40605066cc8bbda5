"""The configuration of a pre-training run, whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from generation.bounds import require, require_choices
from generation.locations import is_remote
from generation.plain import Plain, diff_plain, merge, to_plain
from training.augment import AugmentConfig
from training.data import DataConfig
from training.model.croco import ModelConfig
from training.optim import MaskConfig, OptimConfig
from training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pre-training run. The defaults are the published CroCo v1; presets.py has others."""

    data: DataConfig
    """Where the pairs come from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What decides the model's tensors."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How long to train, and how."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """How much of the target is hidden."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How pictures are changed: colours, homographies, rotations."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """When and on how much to validate."""
    init: Path | None = None
    """What holds the weights to begin with, of a model of the same configuration; optimizer and
    schedule begin anew. None: random ones."""
    seed: int = 0
    """Decides weights, and of every step pairs, crops, changes of the pictures and masks."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Of matrix products (autocast) and, with rotary positions, of the sums from block to block;
    sine-cosine ones are float32 and make these so. Weights, optimizer and losses stay float32.
    tf32: float32 whose factors GPUs round to TF32; on GPUs that do not, and CPUs, float32. auto:
    bfloat16 on CUDA and on CPUs that multiply it, where the tiny preset then trains 2.4 times as
    fast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a device."""
    compile: bool = False
    """Compile the model with torch.compile; needs a C++ compiler (CPU) or Triton (CUDA)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the model: ddp keeps all of it in each, which is faster while it
    fits; fsdp cuts weights, gradients and optimizer state among them."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: about a
    third more work, and a fraction of the memory."""
    log_every_steps: int = 50
    """Steps between records of metrics.jsonl and lines on the console."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints; the last step always leaves one, and every validation that is the
    best so far."""
    keep_checkpoints: int = 2
    """How many checkpoints stay: the newest, and best.pt beside them."""

    def __post_init__(self) -> None:
        on_disk = self.init is None or not is_remote(self.init)
        require(on_disk, "init", str(self.init), "a folder or file of this machine")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        fits = self.data.random_crop or not self.augment.bends
        allowed = "true with homographies and rotations, which crop too"
        require(fits, "data.random_crop", self.data.random_crop, allowed)
        for name in ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require_choices(self)


# What need not be the same in all processes of a run.
FREE_ON_EACH_MACHINE = (
    "data.path",  # the digest of its index must still agree
    "data.val_path",
    "init",  # the digest of its weights must still agree
    "data.num_workers",
    "data.max_damaged",
    "data.cache_dir",
    "data.cache_gb",
)
# What may change when a run is resumed: where and how fast it runs, not the weights that come out.
# With one more, recipes that are done train anew: they are known by the fields that are not free.
FREE_ON_RESUME = (
    *FREE_ON_EACH_MACHINE,
    "device",
    "compile",
    "parallel",
    "activation_checkpointing",
    "optim.accumulate",
    "checkpoint_every_steps",
    "keep_checkpoints",
)


def differences(
    before: Plain, now: PretrainConfig, free: tuple[str, ...] = FREE_ON_RESUME
) -> list[str]:
    """Say, one line a dotted field, where a recorded config differs in fields that are not free.

    A field that the version which recorded it had not yet counts as what that version did: as its
    default, but views were not scaled before there was data.resize.
    """
    lines = diff_plain(*_comparable(before, now))
    return [line for line in lines if line.split(":")[0] not in free]


def settings_before(before: Plain, now: PretrainConfig) -> list[str]:
    """Return what --set takes to have a recorded config's values again where they differ.

    Of the same datasets: those of a mixture lie where they lie now. Fields that there are no more
    are left out.
    """
    recorded, _ = _comparable(before, now)
    settings = []
    for line in differences(before, now):
        name = line.split(":")[0]
        value: Any = recorded
        for key in name.split("."):
            value = value.get(key)
        if name == "data.mixture":
            parts = zip(value, now.data.mixture, strict=True)
            value = [{**part, "path": str(source.path)} for part, source in parts]
        if not line.endswith(", absent now"):
            settings.append(f"{name}={value if isinstance(value, str) else _yaml_of(value)}")
    return settings


def _yaml_of(value: Any) -> str:
    """Return a plain value as YAML in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml_of(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_of, value))}]"
    text = json.dumps(value)
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e")  # YAML takes 1e-05 for text
    return text


def _comparable(before: Plain, now: PretrainConfig) -> tuple[Plain, Plain]:
    defaults = to_plain(PretrainConfig(data=DataConfig(path=now.data.path)))
    if before:
        defaults["data"]["resize"] = None
    plain = (merge(defaults, before), to_plain(now))
    for each in plain:  # of a mixture too, datasets may move: their digests must still agree
        each["data"]["mixture"] = [{**part, "path": ""} for part in each["data"]["mixture"]]
    return plain
