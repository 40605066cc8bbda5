"""Weights into a model, by tensor name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from generation.errors import CrossviewError, first_few
from training.model.croco import CroCo, ModelConfig


def model_of(config: ModelConfig, weights: Mapping[str, Tensor], where: Path | str) -> CroCo:
    """Return the model of these weights, for evaluation, on the CPU. Raises as load_weights."""
    with torch.device("meta"):  # no time goes into drawing weights that are then replaced
        model = CroCo(config)
    model.to_empty(device="cpu")
    model.add_positions()
    load_weights(model, weights, where)
    return model.eval()


def load_weights(model: CroCo, weights: Mapping[str, Tensor], where: Path | str) -> None:
    """Load weights by name. Raises CrossviewError naming tensors that the model has otherwise."""
    problems = differences(shapes_of(model.state_dict()), shapes_of(weights))
    if problems:
        raise CrossviewError(f"{where}: of another model: {first_few(problems)}")
    model.load_state_dict(weights)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Say, one line a tensor, where the found names and shapes are not the expected ones."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    unknown = [f"{name} is not in the model" for name in found if name not in expected]
    return [
        *missing,
        *unknown,
        *(
            f"{name} has shape {found[name]}, not {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]


def weights_digest(model: CroCo) -> str:
    """Return the SHA-256 of a model's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
