"""Probes: each runs in a process of its own, prints what it found, and may crash or hang there."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass

from pipelines.executors.worker import OWN_PATH, import_path

PROBE_SECONDS = 120
"""A probe that has not answered by then hangs; the slowest, importing everything, takes 10 s."""
IMPORTED = "imported:"
"""What each line of import_each begins with; other lines are from the packages themselves."""


@dataclass(frozen=True)
class Answer:
    """What a probe, or another command, said."""

    output: str
    """What it printed, without white space around."""
    failure: str = ""
    """Why it did not finish: its error, the signal that ended it, or that it hung."""


def ask(probe: str, *arguments: str) -> Answer:
    """Run one of this module's probes, by name, in another process."""
    code = f"{OWN_PATH}from {__name__} import {probe}; {probe}(*sys.argv[1:])"
    return run([sys.executable, "-c", code, *arguments], PROBE_SECONDS)


def run(command: list[str], seconds: float) -> Answer:
    """Run a command, for at most so many seconds."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=os.environ | import_path(),
        )
    except OSError as error:
        return Answer("", f"{command[0]}: {error}")
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer within {seconds:g} s")
    output = done.stdout.strip()
    if done.returncode < 0:
        return Answer(output, f"crashed ({signal.Signals(-done.returncode).name})")
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Answer(output, re.sub(r"^(\w+\.)*(\w+: )", r"\2", last))
    return Answer(output)


def import_each(*modules: str) -> None:
    """Print a line for each module, with the error that importing it gave, if any."""
    for module in modules:
        error = ""
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as raised:
            error = f"{type(raised).__name__}: {raised}".splitlines()[0]
        print(f"{IMPORTED}{error}", flush=True)


def register_torchvision() -> None:
    """Import torchvision, whose compiled part fits one build of torch alone."""
    importlib.import_module("torchvision.ops").nms  # noqa: B018


def cuda_devices() -> None:
    """Print torch's version, its CUDA and the names of the devices that it sees."""
    torch = importlib.import_module("torch")
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(device) for device in range(number)]
    print(json.dumps([torch.__version__, torch.version.cuda, names]))


def load_egl() -> None:
    """Load the system's EGL."""
    ctypes.CDLL("libEGL.so.1")


def cast_one_ray() -> None:
    """Cast a ray at a triangle two metres away."""
    import numpy as np

    from generation.raycast import RayCaster
    from generation.scenes.scene import Scene

    scene = Scene(
        scene_id="triangle",
        vertices=np.array([[-1, -1, -2], [1, -1, -2], [0, 1, -2]], np.float32),
        faces=np.array([[0, 1, 2]], np.int32),
        uvs=np.zeros((3, 2), np.float32),
        vertex_colors=np.full((3, 3), 255, np.uint8),
        face_materials=np.zeros(1, np.int32),
    )
    ray = np.zeros((1, 3), np.float32), np.array([[0, 0, -1]], np.float32)
    (distance,) = RayCaster(scene).cast(*ray).distances
    if distance != 2.0:
        raise RuntimeError(f"a ray went {distance} m, expected 2")
    print("a ray meets a triangle")


def name_gl_device() -> None:
    """Print what OpenGL renders on."""
    from generation.renderers.gl import device_name

    print(device_name())


def habitat_version() -> None:
    """Print habitat-sim's version."""
    print(importlib.import_module("habitat_sim").__version__)


def start_ray() -> None:
    """Start a local Ray cluster of one worker and run a task on it."""
    from pipelines.executors.choice import make_executor

    with make_executor("ray", num_workers=1) as executor:
        (outcome,) = executor.run(abs, [-1])
    if outcome.report != 1:
        raise RuntimeError(outcome.error)
    print("a local cluster starts and does a task")
