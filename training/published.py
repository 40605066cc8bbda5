"""The format of CroCo's published checkpoints: tensors in 'model', and how to build the model.

'croco_kwargs' are the arguments of the published CroCoNet. What the published training code writes
has the namespace of its arguments in their place, 'args', whose model is a call of CroCoNet as
text; the published v1 has neither.
Source: the README and demo of naver/croco; tensor names and shapes as its four checkpoints have.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generation.errors import CrossviewError
from training.model.croco import CroCo, ModelConfig
from training.model.weights import differences, model_of, shapes_of
from training.presets import PRESETS, PUBLISHED
from training.torch_file import write_torch_file

_FIELDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "enc_embed_dim": "enc_dim",
    "enc_depth": "enc_depth",
    "enc_num_heads": "enc_heads",
    "dec_embed_dim": "dec_dim",
    "dec_depth": "dec_depth",
    "dec_num_heads": "dec_heads",
    "mlp_ratio": "mlp_ratio",
}
"""CroCoNet's argument -> ModelConfig's field."""
_POS_EMBED = {"cosine": "cosine", "RoPE100": "rope100"}
_WITHOUT_TENSORS = {"mask_ratio"}
"""Arguments that decide nothing of what is loaded."""


def is_published(contents: Any) -> bool:
    """Return whether a file's contents are in the published format."""
    if not isinstance(contents, dict) or "format" in contents:
        return False
    weights = contents.get("model")
    return (
        isinstance(weights, dict)
        and bool(weights)
        and all(isinstance(tensor, Tensor) for tensor in weights.values())
    )


def read_published(contents: dict[str, Any], where: Path | str) -> CroCo:
    """Return the model, for evaluation, of a file's contents in the published format.

    Where it does not say its arguments, it is the published model whose tensors these are. Raises
    CrossviewError where there is none, or naming the argument or tensors that the model has
    otherwise.
    """
    # Saved from within DistributedDataParallel, each name begins so.
    weights = {name.removeprefix("module."): tensor for name, tensor in contents["model"].items()}
    arguments = contents.get("croco_kwargs")
    call = getattr(contents.get("args"), "model", None)
    if arguments is not None:
        config = config_of(arguments, f"{where}: croco_kwargs")
    elif isinstance(call, str):
        config = config_of(_arguments_of(call, where), f"{where}: args.model")
    else:
        config = _config_by_tensors(weights, where)
    return model_of(config, weights, where)


def config_of(arguments: Any, where: str) -> ModelConfig:
    """Return our configuration of CroCoNet's arguments. Raises CrossviewError naming others."""
    if not isinstance(arguments, dict):
        found = type(arguments).__name__
        raise CrossviewError(f"{where}: expected a dictionary, found {found}")
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _FIELDS:
            fields[_FIELDS[name]] = value
        elif name == "pos_embed" and str(value) in _POS_EMBED:
            fields["pos_embed"] = _POS_EMBED[value]
        elif name not in _WITHOUT_TENSORS and (name, value) != ("norm_im2_in_dec", True):
            known = ", ".join([*_FIELDS, "pos_embed (cosine or RoPE100)", "norm_im2_in_dec = True"])
            raise CrossviewError(f"{where}.{name} = {value!r}: expected {known}")
    try:
        return ModelConfig(**fields)
    except (CrossviewError, TypeError) as error:
        raise CrossviewError(f"{where}: {error}") from error


def _arguments_of(call: str, where: Path | str) -> dict[str, Any]:
    """Return the arguments of "CroCoNet(enc_depth=24, ...)", of which nothing is run."""
    # Those that ast raises for text that is no expression, or no plain value.
    with suppress(SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        match ast.parse(call, mode="eval").body:
            case ast.Call(func=ast.Name(id="CroCoNet"), args=[], keywords=keywords):
                return {str(each.arg): ast.literal_eval(each.value) for each in keywords}
    raise CrossviewError(
        f"{where}: args.model = {call[:200]!r}: expected CroCoNet(NAME=VALUE, ...), values plain"
    )


def _config_by_tensors(weights: dict[str, Tensor], where: Path | str) -> ModelConfig:
    found = shapes_of(weights)
    problems: dict[str, list[str]] = {}
    for name in PUBLISHED:
        config = ModelConfig(**PRESETS[name]["model"])
        with torch.device("meta"):
            expected = shapes_of(CroCo(config).state_dict())
        problems[name] = differences(expected, found)
        if not problems[name]:
            return config
    nearest = min(problems, key=lambda name: len(problems[name]))
    raise CrossviewError(
        f"{where}: without croco_kwargs, expected the tensors of {', '.join(PUBLISHED)}; "
        f"{len(problems[nearest])} are not those of {nearest}, the nearest: "
        f"{', '.join(problems[nearest][:5])}"
    )


def write_published(model: CroCo, path: Path) -> None:
    """Write a model in the published format, for the published code to load.

    Raises CrossviewError for a decoder that the published code has not.
    """
    config = model.config
    if config.decoder != "cross":
        raise CrossviewError(
            f"model.decoder = {config.decoder!r}: the published format has cross alone; export "
            "--to safetensors takes every model"
        )
    arguments = {theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()}
    arguments["pos_embed"] = next(k for k, v in _POS_EMBED.items() if v == config.pos_embed)
    write_torch_file({"model": model.state_dict(), "croco_kwargs": arguments}, path)
