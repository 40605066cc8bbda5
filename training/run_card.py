"""A run's README.md: what was trained on what, what lies beside it, what to do with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from generation.files import write_text_whole

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
MARK = (
    "<!-- Written by crossview, and anew by every start; without this line it stays as it is. -->"
)
_FILES = (
    ("run.json", "the whole configuration, versions, git commit, command, digests of the data"),
    ("metrics.jsonl", "a record a line: `train` every few steps, `val` at each validation"),
    ("tensorboard/", "the same as curves, and held-out pairs: completions, where patches looked"),
    ("checkpoints/", "the newest steps, and `best.pt`, of the lowest validation loss"),
    ("bad_step.json", "only after a loss or gradient that is not finite: the step and its samples"),
)


def write_run_card(out: Path, run: dict[str, Any]) -> None:
    """Write README.md into a run's folder, of what describe_run says; one that is not ours stays.

    Raises OSError where it cannot be written.
    """
    path = out / CARD_NAME
    if path.exists() and MARK not in path.read_text(errors="replace"):
        logger.info("%s is not crossview's and stays as it is", path)
    else:
        write_text_whole(path, card_text(run))


def card_text(run: dict[str, Any]) -> str:
    """Return the card's text: see write_run_card."""
    parts = [
        MARK,
        "# Pre-training of CroCo",
        _table("", "", _facts(run)),
        "## What is here",
        _table("file", "what it holds", [(f"`{name}`", what) for name, what in _FILES]),
        "## Going on",
        _going_on(run),
        "## Looking at it, taking it elsewhere",
        "In this folder:",
        _commands(run["config"]["model"]["decoder"] != "self"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    config, model = run["config"], run["config"]["model"]
    size, patch = model["image_size"], model["patch_size"]
    paths = [config["data"]["path"], *(part["path"] for part in config["data"]["mixture"])]
    processes = run["world_size"]
    return [
        (
            "model",
            f"{run['num_parameters'] / 1e6:,.1f} M parameters; encoder {model['enc_depth']} x "
            f"{model['enc_dim']}, decoder {model['dec_depth']} x {model['dec_dim']} "
            f"({model['decoder']}), positions {model['pos_embed']}",
        ),
        ("images", f"{size} x {size} pixels in patches of {patch} x {patch}"),
        ("trained on", f"{_pairs(run, 'train')} of {', '.join(f'`{path}`' for path in paths)}"),
        ("validated on", validated_on(run)),
        *((f"SHA-256 of the index of {name}", digest) for name, digest in run["digests"].items()),
        *(
            [("began with", f"`{config['init']}`, weights of SHA-256 {run['init_sha256']}")]
            if config["init"]
            else []
        ),
        ("length", f"{run['num_steps']:,} steps of {config['optim']['batch_size']:,} pairs"),
        (
            "computed",
            f"in {run['precision']} on {run['device']}, {processes} "
            + ("process" if processes == 1 else "processes"),
        ),
        ("git commit", run["git_commit"] or "unknown: not run from a git repository"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
    ]


def _pairs(run: dict[str, Any], part: str) -> str:
    scenes = len(run[f"{part}_scenes"])
    return f"{run[f'{part}_pairs']:,} pairs of {scenes:,} scene" + ("s" if scenes != 1 else "")


def validated_on(run: dict[str, Any]) -> str:
    """Return how many pairs and scenes run.json says that are, and whether they are held out."""
    shared = set(run["train_scenes"]) & set(run["val_scenes"])
    held_out = f"of which {len(shared):,} are trained on too" if shared else "held out"
    return f"{_pairs(run, 'val')}, {held_out}"


def _going_on(run: dict[str, Any]) -> str:
    if run["command"] is None:
        return "The command that started it goes on from the newest checkpoint that is whole."
    return (
        f"In `{run['working_directory']}`, the command that started it goes on from the newest "
        f"checkpoint that is whole:\n\n```sh\n{run['command']}\n```"
    )


def _commands(sees_reference: bool) -> str:
    lines = [
        "tensorboard --logdir .",
        "crossview complete --weights . --target a.jpg --reference b.jpg --out completion",
    ]
    if sees_reference:
        lines.append("crossview match --weights . a.jpg b.jpg --out match.png")
    lines += [
        "crossview export --weights . --to timm --out encoder.safetensors",
        "crossview export --weights . --to safetensors --out model",
    ]
    python = 'from training.model.croco import CroCo\n\nmodel = CroCo.from_pretrained(".")'
    return "```sh\n" + "\n".join(lines) + f"\n```\n\n```python\n{python}\n```"


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])
