"""What is written down of a step whose loss or gradient was not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

from generation.errors import CrossviewError
from generation.files import write_text_whole
from training.run_folder import writing

NAME = "bad_step.json"


def write_bad_step(out: Path, step: int, rate: float, losses: dict[str, float]) -> None:
    """Write OUT/bad_step.json: the step, and the pairs of its batch, those to blame first.

    step: the first is 1, as in metrics.jsonl. losses: of each pair, by its shard and sample id.
    Raises CrossviewError where it cannot be written.
    """
    by_blame = sorted(losses.items(), key=lambda item: math.isfinite(item[1]))
    record = {
        "step": step,
        "learning_rate": rate,
        "weights": f"as after step {step - 1}",
        "losses": {where: _plain(loss) for where, loss in by_blame},
    }
    with writing(out):
        write_text_whole(out / NAME, json.dumps(record, indent=1) + "\n")


def _plain(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)  # JSON has no word for nan


def bad_step_error(out: Path, step: int, base_lr: float) -> CrossviewError:
    """Return the error that stops a run at a bad step."""
    return diverged(
        f"the loss or a gradient is not finite at step {step}; the step changed no weight, and "
        f"{out / NAME} names its pairs",
        base_lr,
    )


def diverged(what: str, base_lr: float) -> CrossviewError:
    """Return the error that stops a run whose numbers are not finite."""
    return CrossviewError(
        f"{what}; start again, in another folder, with a lower optim.base_lr (now {base_lr}) or "
        "with optim.clip_norm = 1.0"
    )


def refuse_to_repeat(out: Path, base_lr: float) -> None:
    """Raise the error of a run that was stopped at a bad step, if it was: it would come again."""
    if (out / NAME).exists():
        raise bad_step_error(out, json.loads((out / NAME).read_text())["step"], base_lr)


def forget_bad_step(out: Path) -> None:
    """Remove what an earlier run wrote down."""
    (out / NAME).unlink(missing_ok=True)
