"""Configurations as plain values: what JSON and YAML hold, to record, compare and override."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upath import UPath

Plain = dict[str, Any]


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Plain:
    """Return base with override's values; mappings are merged key by key, all else is replaced."""
    merged = dict(base)
    for name, value in override.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def to_plain(config: Any) -> Any:
    """Return a config as JSON would hold it: dataclasses as dicts, paths as text, tuples as lists.

    build() makes an equal config of it.
    """
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {name: to_plain(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, (Path, UPath)) else config


def diff_plain(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name the dotted keys whose values differ between two plain configs, with both values."""
    lines: list[str] = []
    for name in {**old, **new}:
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += diff_plain(before, now, f"{prefix}{name}.")
        elif before != now or (name in old) != (name in new):
            shown = [json.dumps(of[name]) if name in of else "absent" for of in (old, new)]
            lines.append(f"{prefix}{name}: {shown[0]} before, {shown[1]} now")
    return lines
