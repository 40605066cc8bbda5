"""A model's folder as Hugging Face keeps them: model.safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from generation.errors import CrossviewError
from generation.files import whole_file, write_text_whole
from generation.plain import to_plain
from training.model.croco import CroCo, ModelConfig
from training.model.weights import model_of

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"


def is_model_folder(path: Path) -> bool:
    """Return whether this is a model's folder, or the tensors in it."""
    return path.suffix == ".safetensors" or (path / WEIGHTS_NAME).exists()


def write_model_folder(model: CroCo, folder: Path) -> None:
    """Write config.json and model.safetensors, last, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "library_name": "crossview",
        "architectures": ["CroCo"],
        "model": to_plain(model.config),
        "image_mean": IMAGENET_DEFAULT_MEAN,
        "image_std": IMAGENET_DEFAULT_STD,
    }
    write_text_whole(folder / CONFIG_NAME, json.dumps(config, indent=1) + "\n")
    write_safetensors(model.state_dict(), folder / WEIGHTS_NAME)


def write_safetensors(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, whole."""
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        stream.write(save(contiguous, metadata={"format": "pt"}))


def read_model_folder(path: Path) -> CroCo:
    """Load the model, for evaluation, of a folder or of the safetensors file in it.

    Raises CrossviewError where a file is missing, damaged or another model's, or an encoder's.
    """
    folder, weights_path = (path, path / WEIGHTS_NAME) if path.is_dir() else (path.parent, path)
    weights = _read_tensors(weights_path)
    if any(name.startswith("blocks.") for name in weights):  # timm's name of enc_blocks
        raise CrossviewError(
            f"{weights_path}: an encoder alone, as export --to timm writes: expected weights of a "
            "whole model"
        )
    return model_of(_read_config(folder / CONFIG_NAME), weights, weights_path)


def _read_config(path: Path) -> ModelConfig:
    try:
        fields: Any = json.loads(path.read_text())["model"]
        return ModelConfig(**fields)
    except FileNotFoundError:
        raise CrossviewError(
            f"{path}: expected the model's configuration beside its tensors, found no such file"
        ) from None
    except CrossviewError as error:
        raise CrossviewError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CrossviewError(f"{path}: not a model's configuration ({error!r})") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CrossviewError(f"{path}: expected a model's tensors, found no such file") from None
    except SafetensorError as error:
        raise CrossviewError(f"{path}: damaged tensors ({error})") from error
