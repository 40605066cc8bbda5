"""Checkpoints: everything a run needs to go on, in files that appear whole or not at all.

No state of a random generator is kept, because every random number is a function of the step.
"""

from __future__ import annotations

import logging
import math
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from generation.errors import CrossviewError
from generation.files import remove_partial_files
from training.model.croco import CroCo, ModelConfig
from training.model.weights import model_of
from training.model_folder import is_model_folder, read_model_folder
from training.published import is_published, read_published
from training.run_folder import writing
from training.torch_file import UnusableFile, read_torch_file, write_torch_file

logger = logging.getLogger(__name__)

FORMAT = "crossview-pretrain-2"
FOLDER = "checkpoints"
BEST_NAME = "best.pt"
_ONLY_TO_GO_ON = ("optimizer", "window", "ema")


class Writer:
    """Writes a run's checkpoints, one at a time, while the run goes on.

    At the end of a with block the last one is there, and the best, or CrossviewError says why not.
    One that cannot be written before is warned of, and those before it stay.
    """

    def __init__(self, out: Path, keep: int) -> None:
        """Make the folder, without what a killed run was writing.

        Raises CrossviewError where that cannot be done.
        """
        self._out, self._keep = out, keep
        with writing(out):
            (out / FOLDER).mkdir(parents=True, exist_ok=True)
            remove_partial_files(out / FOLDER)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None
        self._best: dict[str, Any] | None = None
        """What is to be best.pt, until it is there."""

    def save(self, step: int, state: dict[str, Any], *, best: bool = False) -> None:
        """Wait for the checkpoint before, copy the state to the CPU, and begin to write it."""
        with suppress(CrossviewError):  # warned of when it happened
            self.wait()
        self._last = self._thread.submit(self._write, step, _copied(state), best)

    def wait(self) -> None:
        """Return when the last checkpoint is there. Raises CrossviewError where it is not."""
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def _write(self, step: int, state: dict[str, Any], best: bool) -> None:
        if best:
            self._best = {"step": step, **_to_show(state)}
        # The best first: a run that is killed in between repeats the step, and validates again.
        failed = self._try_to_save_best() if self._best else None
        try:
            save(self._out, step, state, keep=self._keep)
        except CrossviewError as error:
            logger.warning("no checkpoint of step %d, those before it stay: %s", step, error)
            failed = error
        if failed:
            raise failed

    def _try_to_save_best(self) -> CrossviewError | None:
        assert self._best is not None
        try:
            save_best(self._out, self._best)
        except CrossviewError as error:
            step = self._best["step"]
            logger.warning("no %s of step %d, the one before it stays: %s", BEST_NAME, step, error)
            return error
        self._best = None
        return None


def save(out: Path, step: int, state: dict[str, Any], *, keep: int) -> None:
    """Write OUT/checkpoints/step_NNNNNNNN.pt and remove all but the newest `keep`.

    Raises CrossviewError where it cannot be written.
    """
    folder = out / FOLDER
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step:08d}.pt"
        write_torch_file({"format": FORMAT, "step": step, **state}, path)
        # Later ones are damaged: the run would have gone on from them.
        newest = [one for one in stored(out) if one <= path][:keep]
        for other in set(stored(out)) - set(newest):
            other.unlink()


def save_best(out: Path, state: dict[str, Any]) -> None:
    """Write OUT/checkpoints/best.pt. Raises CrossviewError where it cannot be written."""
    with writing(out):
        write_torch_file({"format": FORMAT, **state}, out / FOLDER / BEST_NAME)


def _to_show(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with the weights that were validated, without what only going on needs."""
    shown = {name: value for name, value in state.items() if name not in _ONLY_TO_GO_ON}
    return {**shown, "model": _judged_weights(state)}


def _judged_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that were validated: the moving average's where there is one."""
    weights: dict[str, Tensor] = state.get("ema", state["model"])
    return weights


def _copied(state: Any) -> Any:
    """Return nested state with a copy of every tensor on the CPU, which training cannot change."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return state


def stored(out: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    names = (out / FOLDER).glob("step_*.pt") if (out / FOLDER).is_dir() else ()
    return sorted((p for p in names if re.fullmatch(r"step_\d+\.pt", p.name)), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU. Raises CrossviewError where there is none of ours, whole."""
    return _ours(read_torch_file(path), path)


def _ours(contents: Any, path: Path) -> dict[str, Any]:
    found = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
    if found != FORMAT:
        raise UnusableFile(f"{path}: expected a checkpoint of format {FORMAT}, found {found}")
    return dict(contents)


def best_val_loss(out: Path) -> float:
    """Return the validation loss of a run's best.pt, infinity where there is none that is whole."""
    path = out / FOLDER / BEST_NAME
    if not path.exists():
        return math.inf
    try:
        return float(load(path)["metrics"]["val_loss"])
    except UnusableFile as error:
        logger.warning("%s; the next validation makes another", error)
        return math.inf


def load_newest(out: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint of a run that is whole; None where the run has not left one.

    Raises CrossviewError where there are checkpoints and all are damaged, or one cannot be read,
    which says nothing of what is in it.
    """
    errors = []
    for path in stored(out):
        try:
            return load(path)
        except UnusableFile as error:
            logger.warning("%s; taking the one before", error)
            errors.append(str(error))
    if errors:
        raise CrossviewError(
            f"{out / FOLDER}: no checkpoint can be read ({'; '.join(errors)}); remove the folder "
            "to train from the start"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model, and what is known of its training."""

    model: CroCo
    """For evaluation, on the CPU."""
    kind: Literal["run", "published", "folder"]
    """What it was loaded from: a run's checkpoint, the published format, a model's folder."""
    run: dict[str, Any]
    """Of a run's checkpoint: config, digests, step and metrics; else empty."""


def load_pretrained(path: Path | str) -> Pretrained:
    """Load a model from whatever holds one.

    path: a run's folder (its newest checkpoint), one of its checkpoints, a checkpoint in the
    published format, or a folder of model.safetensors and config.json or that file in it. Raises
    CrossviewError where it is none of them, is damaged, names its tensors otherwise, or is a URL.
    """
    if "://" in str(path):
        raise CrossviewError(
            f"{path}: weights are read from a disk of this machine; copy them there"
        )
    path = Path(path)
    if not path.exists():
        raise CrossviewError(
            f"{path}: expected a run's folder, a checkpoint or a model's folder, found no such file"
        )
    if path.name == FOLDER and stored(path.parent):
        path = path.parent
    if is_model_folder(path) and not stored(path):
        return Pretrained(model=read_model_folder(path), kind="folder", run={})
    if path.is_dir():
        state = load_newest(path)
        if state is None:
            raise CrossviewError(
                f"{path}: expected a run's folder or a model's, found no {FOLDER}/step_*.pt and "
                "no model.safetensors in it"
            )
    else:
        contents = read_torch_file(path)
        if is_published(contents):
            return Pretrained(model=read_published(contents, path), kind="published", run={})
        state = _ours(contents, path)
    try:
        config = ModelConfig(**state["config"]["model"])
    except (CrossviewError, TypeError) as error:
        raise CrossviewError(f"{path}: of another version of crossview ({error})") from error
    model = model_of(config, _judged_weights(state), path)
    run = {name: state[name] for name in ("config", "digests", "step", "metrics")}
    return Pretrained(model=model, kind="run", run=run)


def load_model(path: Path | str) -> CroCo:
    """Load a model, for evaluation, from whatever holds one: see load_pretrained."""
    return load_pretrained(path).model
