"""Pre-training configurations from what people write: nested values that may name a preset."""

from __future__ import annotations

from typing import Any

from generation.plain import merge
from pipelines.config import build
from training.config import PretrainConfig
from training.presets import preset


def pretrain_config(values: dict[str, Any], *, source: str) -> PretrainConfig:
    """Return the configuration that values give; `preset` among them names the values below them.

    source: what errors name. Raises ConfigError, or CrossviewError naming the presets there are.
    """
    values = dict(values)
    name = values.pop("preset", None)
    base = {} if name is None else preset(name)
    return build(PretrainConfig, merge(base, values), source=source, besides=("preset",))
