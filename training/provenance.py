"""What a run writes down before it works: everything that its results depend on."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generation.plain import to_plain
from training.config import PretrainConfig
from training.data import Split
from training.device import device_name
from training.distributed import Process
from training.model.croco import CroCo

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"
_PACKAGES = ("crossview", "numpy", "simplejpeg", "timm", "torch")
_PROGRAMS = ("crossview", "cli")  # as a console script, and as python -m pipelines.cli


def describe_run(
    config: PretrainConfig,
    split: Split,
    init_sha256: str | None,
    model: CroCo,
    num_steps: int,
    process: Process,
    precision: str,
) -> dict[str, Any]:
    """Return what run.json says: everything that a run's results depend on."""
    return {
        "command": command_line(sys.argv),
        "working_directory": str(Path.cwd()),
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
        "config": to_plain(config),
        "digests": split.digests,
        "init_sha256": init_sha256,
        "train_scenes": list(split.train.scenes),
        "train_pairs": split.train.num_pairs,
        "val_scenes": list(split.val.scenes),
        "val_pairs": split.val.num_pairs,
        "num_steps": num_steps,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "world_size": process.world_size,
        "device": device_name(process.device),
        "precision": precision,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    }


def described_run(folder: Path) -> dict[str, Any] | None:
    """Return what a run's run.json says; None where there is none, or, warned of, a damaged one."""
    path = folder / RUN_NAME
    try:
        run = json.loads(path.read_bytes())
        problem: object = "no JSON object"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        run, problem = None, error
    if isinstance(run, dict):
        return run
    logger.warning("%s: damaged (%s); what it said of the run is lost", path, problem)
    return None


def command_line(arguments: list[str]) -> str | None:
    """Return the crossview command of a process's arguments; None of another program's.

    A worker of Ray, for one, does not know who asked for it.
    """
    program, *options = arguments
    return shlex.join(["crossview", *options]) if Path(program).stem in _PROGRAMS else None


def git_commit(folder: Path) -> str | None:
    """Return the commit that the code in a folder is of, with -dirty where it was changed since.

    None where it is no git repository's root, as where crossview was installed from a wheel.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or a repository that it distrusts
        return None
    return done.stdout.strip()
