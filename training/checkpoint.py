"""Checkpoints: everything a run needs to go on, in files that appear whole or not at all.

No state of a random generator is kept, because every random number is a function of the step.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generation.errors import CrossviewError
from generation.shards.files import remove_partial_files, whole_file
from training.model.croco import CroCo, ModelConfig
from training.run_folder import writing

logger = logging.getLogger(__name__)

FORMAT = "crossview-pretrain-1"
FOLDER = "checkpoints"
KEEP = 2

_DAMAGED = (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def save(out: Path, step: int, state: dict[str, Any]) -> Path:
    """Write OUT/checkpoints/step_NNNNNNNN.pt and remove all but the newest KEEP.

    Raises CrossviewError where it cannot be written.
    """
    folder = out / FOLDER
    path = folder / f"step_{step:08d}.pt"
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
        # Given a path, torch.save says RuntimeError where a disk is full; given a stream, OSError.
        with whole_file(path) as temporary, open(temporary, "wb") as stream:
            torch.save({"format": FORMAT, "step": step, **state}, stream)
        for old in stored(out)[KEEP:]:
            old.unlink()
        remove_partial_files(folder)
    return path


def stored(out: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    names = (out / FOLDER).glob("step_*.pt") if (out / FOLDER).is_dir() else ()
    return sorted((p for p in names if re.fullmatch(r"step_\d+\.pt", p.name)), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU. Raises CrossviewError where there is none of ours, whole."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CrossviewError(f"{path}: expected a checkpoint, found no such file") from None
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CrossviewError(f"{path}: a damaged checkpoint ({reason})") from error
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise CrossviewError(f"{path}: expected a checkpoint of format {FORMAT}, found {found}")
    return dict(state)


def load_newest(out: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint of a run that is whole; None where the run has not left one.

    Raises CrossviewError where there are checkpoints and all are damaged.
    """
    errors = []
    for path in stored(out):
        try:
            return load(path)
        except CrossviewError as error:
            logger.warning("%s; taking the one before", error)
            errors.append(str(error))
    if errors:
        raise CrossviewError(
            f"{out / FOLDER}: no checkpoint can be read ({'; '.join(errors)}); remove the folder "
            "to train from the start"
        )
    return None


def load_weights(model: CroCo, weights: dict[str, Tensor], where: Path | str) -> None:
    """Load weights by name. Raises CrossviewError naming tensors that the model has otherwise."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in the model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CrossviewError(f"{where}: of another model: {', '.join(problems[:5])}{more}")
    model.load_state_dict(weights)


def load_model(path: Path) -> CroCo:
    """Load a pre-trained model, for evaluation, from a checkpoint or from a run's folder.

    Raises CrossviewError where there is none, or it is damaged or not ours.
    """
    path = Path(path)
    state = load_newest(path) if path.is_dir() else load(path)
    if state is None:
        raise CrossviewError(f"{path}: expected a run's folder, found no {FOLDER}/step_*.pt in it")
    model = CroCo(ModelConfig(**state["config"]["model"]))
    load_weights(model, state["model"], path)
    return model.eval()
