"""What the README says can be typed as it stands."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from generation.geometry import Camera
from generation.shards.reader import ShardIndex, ShardReader
from pipelines.cli import _parser, main
from training.downstream.tasks import TASKS
from training.model.croco import CroCo, ModelConfig
from training.model_folder import write_model_folder
from training.presets import preset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAIRS = (ROOT / "docs" / "pairs.md").read_text()


def code_blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shell_commands() -> list[str]:
    text = "\n".join(code_blocks("sh")).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def test_the_readme_shows_every_kind_of_command():
    starts = {command.split()[0] for command in shell_commands()}
    assert starts == {"make", "crossview", "sbatch"}


@pytest.mark.parametrize("command", [c for c in shell_commands() if c.startswith("make")])
def test_make_commands_reach_a_target_that_exists(command: str):
    # -n prints what would run; the install is taken as done.
    words = [*shlex.split(command), "-n", "-o", ".venv/.installed"]
    plain = {"PATH": os.environ["PATH"]}  # without the variables of a make that runs the tests
    done = subprocess.run(words, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    crossview = re.search(r"crossview (.*)", done.stdout)
    assert crossview
    _parser().parse_args(shlex.split(crossview[1]))


@pytest.mark.parametrize("command", [c for c in shell_commands() if c.startswith("crossview")])
def test_crossview_commands_have_options_that_exist(command: str):
    _parser().parse_args(shlex.split(command)[1:])


def test_the_readmes_dataset_and_its_python_example_work(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = [c for c in shell_commands() if c.startswith("crossview render-pairs")]
    small = command.replace("'scans/*.glb' procedural:0-9", "procedural:0")
    small = small.replace("10000", "3").replace("executor ray", "executor serial")
    assert "scans" not in small
    assert "10000" not in small
    assert main(shlex.split(small)[1:]) == 0
    example, _ = code_blocks("python")
    cloud = {}
    exec(compile(example, "README.md", "exec"), cloud)
    reader = ShardReader(ShardIndex.open("out/pairs"))
    last = reader.index.num_pairs - 1
    meta = cloud["meta"]
    camera = Camera.from_hfov(60.0, (256, 256), np.array(meta["world_from_camera1"]))
    depth_m = reader.depths(last)[0]
    expected = camera.unproject(depth_m)[depth_m.ravel() > 0]
    np.testing.assert_allclose(cloud["points_world"].T, expected, atol=1e-5)
    assert cloud["colours"].shape == expected.shape

    (example,) = code_blocks("python", PAIRS)
    names = {}
    exec(compile(example, "docs/pairs.md", "exec"), names)
    assert names["large"].color.shape == (512, 512, 3)
    assert names["wide"].color.shape == (256, 512, 3)
    assert names["wide"].depth_m[128, 256] > 0
    low, high = names["points_world"].min(axis=0), names["points_world"].max(axis=0)
    room_low, room_high = names["source"].load().bounds
    assert (room_low - 0.01 < low).all()
    assert (high < room_high + 0.01).all()
    recorded = names["record"]["covisibility"]
    assert names["measured"].covisibility == pytest.approx(recorded, abs=0.01)


def test_the_table_of_tasks_is_that_of_the_code():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    table = re.search(r"\| task \|.*\n((?:\|.*\n)+)", text)
    assert table
    _, *lines = table[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    expected = {
        re.sub(r"taskonomy_.*", "taskonomy_...", name): {*task.datasets} - {"shards"}
        for name, task in TASKS.items()
    }
    assert {row[0].strip("`"): {*re.findall(r"\w+", row[-1])} for row in rows} == expected


def test_the_readmes_model_gives_features(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model_folder(CroCo(ModelConfig(**preset("tiny")["model"])), Path("out/pretrain"))
    _, example = code_blocks("python")
    names = {"images": torch.rand(2, 3, 48, 60)}
    exec(compile(example, "README.md", "exec"), names)
    assert names["features"].shape == (2, 8 * 10, 192)
