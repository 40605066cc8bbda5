"""Whether a run may start: what its folder holds, and what its processes agree on."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError, first_few
from generation.files import VISIBLE_SECONDS, write_text_whole
from generation.folder_lock import locked
from generation.plain import diff_plain, to_plain
from training import checkpoint
from training.config import FREE_ON_EACH_MACHINE, PretrainConfig, differences, settings_before
from training.data import Split
from training.distributed import Process
from training.model.croco import CroCo
from training.model.weights import weights_digest
from training.provenance import described_run
from training.run_folder import writing


def begin_with(model: CroCo, path: Path | None, earlier: Mapping[str, Any] | None) -> str | None:
    """Give a model the weights that path holds, if any; return their SHA-256.

    Of an earlier run it is the recorded one, which path's must be where it is still there. Raises
    CrossviewError where it is not, and where path holds no model or one of another configuration.
    """
    recorded: str | None = earlier.get("init_sha256") if earlier else None
    if path is None or (earlier and not path.exists()):
        return recorded
    first = checkpoint.load_model(path)
    configured = to_plain(model.config)
    lines = [
        f"model.{name} = {value}, configured: {configured[name]}"
        for name, value in to_plain(first.config).items()
        if value != configured[name]
    ]
    if lines:
        raise CrossviewError(
            f"init = {path}: of another model than the one to train; give its preset, or set what "
            "differs:\n  " + "\n  ".join(lines)
        )
    digest = weights_digest(first)
    if earlier and digest != recorded:
        raise CrossviewError(
            f"init = {path}: weights of SHA-256 {digest}, but the run that is there began with "
            f"{recorded or 'random weights'}; leave init out to go on with it, or take another "
            "folder"
        )
    model.load_state_dict(first.state_dict())
    return digest


def earlier_run(
    config: PretrainConfig, split: Split, num_steps: int, out: Path
) -> dict[str, Any] | None:
    """Return the newest checkpoint that a run of num_steps left in out; None where there is none.

    Raises CrossviewError where that run was another one or, with steps left, on another split, or
    none of its checkpoints can be read.
    """
    state = checkpoint.load_newest(out)
    if state is None:
        return None
    lines = differences(state["config"], config)
    other_data = diff_plain(state["digests"], split.digests, "SHA-256 of the index of ")
    if lines or other_data:
        settings = [] if other_data else settings_before(state["config"], config)
        hint = f"\nto go on with it, add --set {shlex.join(settings)}" if settings else ""
        is_done = state["step"] == (described_run(out) or {}).get("num_steps")
        lengths = ("optim.max_steps:", "optim.epochs:")
        if is_done and any(line.startswith(lengths) for line in lines):
            hint = (
                f"\nit is done; to train on from its weights, add --init {shlex.quote(str(out))} "
                "and take another folder as --out"
            )
        raise CrossviewError(
            f"{out} holds a run that was configured otherwise; take another folder or the same "
            "configuration:\n  " + "\n  ".join(lines + other_data) + hint
        )
    if state["step"] < num_steps:
        _require_same_split(split, out)
    return state


def _require_same_split(split: Split, out: Path) -> None:
    """Raise CrossviewError unless the scenes are split as run.json says, where it can be read.

    They are by rules of the code (training.data.held_out_scenes), which no digest knows.
    """
    run = described_run(out) or {}
    now = {"train_scenes": split.train.scenes, "val_scenes": split.val.scenes}
    lines = [
        f"{name}: {what} {first_few(sorted(scenes))}"
        for name in now
        if name in run
        for what, scenes in (
            ("only before", {*run[name]} - {*now[name]}),
            ("only now", {*now[name]} - {*run[name]}),
        )
        if scenes
    ]
    if lines:
        raise CrossviewError(
            f"{out} holds a run of a version that held other scenes out for validation; take "
            "another folder, or remove it (with data.val_path, the scenes that are validated on "
            "stay the same), or go on with that version "
            f"({run.get('git_commit') or 'see run.json'}):\n  " + "\n  ".join(lines)
        )


def require_agreement(
    process: Process,
    step: int,
    config: PretrainConfig,
    digests: Mapping[str, str],
    init_sha256: str | None,
) -> None:
    """Raise CrossviewError, in all processes, unless all have the same step, settings and data."""
    settings = [*differences({}, config, FREE_ON_EACH_MACHINE), init_sha256]
    mine = [step, _number_of(settings), _number_of(digests)]
    table = process.gather(torch.tensor(mine, device=process.device))
    steps, *numbers = table.view(-1, len(mine)).T.tolist()
    for what, values in zip(("configurations", "data"), numbers, strict=True):
        others = [rank for rank, value in enumerate(values) if value != values[0]]
        if others:
            raise CrossviewError(
                f"the processes have different {what}: not as rank 0 are {others}; give all "
                "machines the same command and the same data"
            )
    if len(set(steps)) > 1:
        found = ", ".join(f"rank {rank}: {step}" for rank, step in enumerate(steps))
        raise CrossviewError(
            f"the processes would go on from different steps ({found}); give all machines the same "
            "folder"
        )


def require_common_folder(process: Process, out: Path) -> None:
    """Raise CrossviewError, in all processes, unless all see the files that the first writes."""
    if process.world_size == 1:
        return
    mine = torch.tensor([secrets.randbits(62)], device=process.device)
    token = process.gather(mine)[0].item()
    path = out / ".seen_by_all"
    if process.is_first:
        with writing(out):
            write_text_whole(path, f"{token}")
    process.wait_for_all()
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not (seen := _text_of(path) == f"{token}") and time.monotonic() < deadline:
        time.sleep(0.5)
    all_seen = process.gather(torch.tensor([seen], device=process.device))
    if process.is_first:
        path.unlink()
    if blind := [rank for rank, sees in enumerate(all_seen.tolist()) if not sees]:
        raise CrossviewError(
            f"{out}: what rank 0 writes there is not seen by ranks {blind}; give all machines a "
            "folder that they share"
        )


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _number_of(plain: Any) -> int:
    """Return 63 bits by which processes can compare what should be the same in all of them."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def held(out: Path, found: list[Path]) -> Iterator[None]:
    """Hold a run's folder, in which checkpoints were found when this run read the newest.

    Raises CrossviewError where another process holds it, or has written there meanwhile.
    """
    with ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(out))
        if checkpoint.stored(out) != found:
            raise CrossviewError(
                f"{out}: another run has written here meanwhile; give the command again to go on "
                "from there"
            )
        yield
