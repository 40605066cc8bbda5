"""What is shown of a model: completions, where patches looked, a run's console, folder and card."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import micro_config
from PIL import Image

from training.device import peak_memory_gib
from training.metrics_log import read_lines
from training.model.positions import grid_places
from training.pictures import colours_of_places, masked, painted
from training.provenance import command_line, git_commit
from training.run_card import write_run_card
from training.trainer import pretrain

STATUS = Path("/proc/self/status")


def test_hidden_patches_are_grey_and_the_others_as_they_were():
    images = torch.rand(2, 3, 16, 16)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    shown = masked(images, mask, 8)
    hidden = mask.view(2, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(images)
    assert torch.equal(shown[~hidden], images[~hidden])
    assert len(shown[hidden].unique()) == 1


def test_no_two_places_of_the_largest_grid_have_one_colour():
    colours = (colours_of_places(grid_places((14, 14)), 14) * 255).round()
    assert len(colours.unique(dim=0)) == 14 * 14
    unknown = colours_of_places(torch.tensor([[torch.nan, torch.nan]]), 14)
    assert unknown.unique().numel() == 1


def test_a_painted_patch_has_its_colour_and_its_image_s_brightness():
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1]]).repeat(2, 1)
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:, :] = 1
    shown = painted(images, colours, 8)
    assert (shown[:, 0, :, :8] > shown[:, 2, :, :8]).all()
    assert (shown[:, 2, :, 8:] > shown[:, 0, :, 8:]).all()
    assert (shown.sum(1)[:, 8:] > shown.sum(1)[:, :8]).all()


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("shown")
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("training.trainer")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    pretrain(micro_config(dataset), out)
    logger.setLevel(level)
    logger.removeHandler(handler)
    return out, records


def test_tensorboard_shows_the_same_held_out_pairs_at_each_validation(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["completions", "cross_attention"]
    sheets = {name: events.Images(name) for name in events.Tags()["images"]}
    for name, columns in (("completions", 4), ("cross_attention", 3)):
        assert [image.step for image in sheets[name]] == [4, 8]
        assert {(i.width, i.height) for i in sheets[name]} == {(columns * 100, 8 * 100)}
    first, second = (decoded(image) for image in sheets["completions"])
    for column, same in ((0, True), (1, True), (2, False), (3, True)):  # the completion changes
        pixels = slice(column * 100, column * 100 + 96)
        assert np.array_equal(first[:, pixels], second[:, pixels]) == same
    masked_target, truth = first[:96, :96], first[:96, 300:396]
    visible = (masked_target == truth).all(2)
    assert 0 < visible.reshape(4, 24, 4, 24).all((1, 3)).sum() < 16


def decoded(image):
    return np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))


def test_console_lines_and_records_tell_memory_and_time_left(run):
    out, lines = run
    steps = [line for line in lines if "pairs/s" in line]
    assert len(steps) == 8
    pattern = r"step 8/8  loss \S+  lr \S+  .* data wait \d+ %  memory (\S+) GiB  0.0 min left"
    found = re.fullmatch(pattern, steps[-1])
    assert found, steps[-1]
    last = [line for line in read_lines(out / "metrics.jsonl") if line["kind"] == "train"][-1]
    assert float(found[1]) == pytest.approx(last["memory_gib"], abs=0.06)


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process its peak")
def test_memory_is_that_of_the_process():
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert peak_memory_gib(torch.device("cpu")) == pytest.approx(int(kib) / 2**20, rel=0.1)


def test_the_card_tells_what_was_trained_and_every_file_that_is_there(run, dataset):
    out, _ = run
    card = (out / "README.md").read_text()
    described = json.loads((out / "run.json").read_text())
    assert described["digests"]["data"] in card
    assert f"`{dataset}`" in card
    assert "36 pairs of 3 scenes" in card
    assert "12 pairs of 1 scene, held out" in card
    listed = {name.rstrip("/") for name in re.findall(r"^\| `([^`]+)`", card, re.MULTILINE)}
    assert {path.name for path in out.iterdir()} <= listed | {"README.md", ".lock"}
    assert all(ord(character) < 128 for character in card)


def test_a_card_that_is_someone_else_s_stays(run):
    out, _ = run
    described = json.loads((out / "run.json").read_text())
    before = (out / "README.md").read_text()
    (out / "README.md").write_text("Notes of my own.\n")
    write_run_card(out, described)
    assert (out / "README.md").read_text() == "Notes of my own.\n"
    (out / "README.md").write_text(before)


def test_a_card_shows_the_command_that_goes_on(run, tmp_path):
    described = json.loads((run[0] / "run.json").read_text())
    command = "crossview pretrain --data 'my pairs' --out out"
    write_run_card(tmp_path, described | {"command": command, "working_directory": "/data"})
    card = (tmp_path / "README.md").read_text()
    assert "In `/data`, the command" in card
    assert f"```sh\n{command}\n```" in card


def test_the_command_line_can_be_typed_again():
    arguments = ["pretrain", "--data", "my pairs"]
    for program in ("/usr/bin/crossview", "/somewhere/pipelines/cli.py"):
        assert command_line([program, *arguments]) == "crossview pretrain --data 'my pairs'"
    assert command_line([sys.argv[0], "-q"]) is None


def test_the_git_commit_is_told_and_whether_the_code_was_changed_since(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    assert git_commit(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2\n")
    assert git_commit(tmp_path) == f"{commit}-dirty"
