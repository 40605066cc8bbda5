"""What crossview pretrain says of input that cannot be trained on: status 2, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MICRO
from synthetic import write_dataset

from generation.plain import merge
from pipelines.cli import main
from training import checkpoint

SHORT = {"optim": {"max_steps": 2}, "validation": {"every_steps": 0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def pretrain(data, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """Run the command with these words on the short micro run; return its status and errors."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"preset": "tiny", **merge(MICRO, SHORT)}))

    def run(*words: str | Path, data: Path = data) -> tuple[int, str]:
        fixed = ["pretrain", "--config", path, "--data", data, "--out", tmp_path / "out"]
        try:
            status = main([str(word) for word in [*fixed, *words]])
        except SystemExit as end:  # of argparse
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD = {
    "an unknown preset": (["--preset", "huge"], "preset = 'huge': expected one of tiny, small"),
    "an unknown key": (["--set", "optim.bach_size=4"], "optim.bach_size: unknown key"),
    "a mistyped value": (["--set", "optim.batch_size=four"], "optim.batch_size"),
    "a mixture without weights": (
        ["--set", "data.mixture=out/b"],
        "data.mixture: expected a list, each a mapping of path, weight, weight_end, got",
    ),
    "data below the crop": (
        ["--set", "model.image_size=40"],
        "36 x 36 pixels, but the model takes crops of 40",
    ),
    "data smaller than a batch": (["--set", "optim.batch_size=37"], "hold only 36 pairs"),
    "no process": (["--launcher", "torchrun", "--nproc", "0"], "--nproc = 0: expected at"),
    "no machine": (
        ["--launcher", "torchrun", "--nnodes", "0"],
        "--nnodes = 0: expected at",
    ),
    "fewer than no restarts": (
        ["--max-restarts", "-1"],
        "--max-restarts = -1: expected at",
    ),
    "processes of no launcher": (
        ["--nproc", "4"],
        "--nproc 4: expected --launcher torchrun or ray",
    ),
    "machines of no launcher": (["--nnodes", "2"], "--nnodes 2: expected --launcher torchrun with"),
    "restarts of no launcher": (["--max-restarts", "3"], "expected --launcher torchrun or ray"),
    "an address of no launcher": (["--rendezvous", "a:1"], "--rendezvous a:1: expected --launcher"),
    "machines of Ray": (
        ["--launcher", "ray", "--nnodes", "2"],
        "--nnodes 2: expected --launcher torchrun with it, got ray",
    ),
    "a cluster of torchrun": (
        ["--launcher", "torchrun", "--ray-address", "auto"],
        "--ray-address auto: expected --launcher ray with it, got torchrun",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    pretrain, tmp_path, words, message
):
    status, said = pretrain(*words)
    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["out/b", "c"], ["out/b", "--data", "c"]], ids=str)
def test_several_datasets_are_refused_with_words_for_all_of_them(pretrain, tmp_path, words):
    """Also those that `--data` is given once more for."""
    status, said = pretrain("--data", *words, data=Path("out/a"))
    assert status == 2
    assert (
        "got out/a, out/b, c; to train on all of them, give --data out/a --set "
        "'data.mixture=[{path: out/b, weight: 1.0}, {path: c, weight: 1.0}]'"
    ) in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_said(pretrain, tmp_path):
    status, said = pretrain("--set", "device=cuda")
    assert status == 2
    assert "this machine has no CUDA device" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def done(pretrain, tmp_path) -> Path:
    """The folder of a run that is done."""
    assert pretrain()[0] == 0
    return tmp_path / "out"


def test_a_checkpoint_of_another_shape_is_refused_by_its_tensors(pretrain, done):
    (path,) = checkpoint.stored(done)
    state = checkpoint.load(path)
    state["model"]["prediction_head.bias"] = torch.zeros(7)
    del state["model"]["mask_token"]
    torch.save(state, path)
    before = contents(done)
    status, said = pretrain()
    assert status == 2
    assert "prediction_head.bias" in said
    assert "mask_token" in said
    assert contents(done) == before


def test_another_model_is_not_trained_on_from_a_checkpoint(pretrain, done):
    before = contents(done)
    status, said = pretrain("--set", "model.enc_depth=1")
    assert status == 2
    assert "model.enc_depth: 2 before, 1 now" in said
    assert contents(done) == before


def test_another_model_s_weights_are_not_begun_with(pretrain, done, tmp_path):
    other = ("--init", done, "--out", tmp_path / "other")
    status, said = pretrain(*other, "--set", "model.enc_depth=1")
    assert status == 2
    assert f"init = {done}: of another model" in said
    assert "model.enc_depth = 2, configured: 1" in said
    for words, where in (
        (["--init", "s3://a/b.pth"], "argument --init"),
        (["--set", "init=s3://a/b.pth"], "init = 's3://a/b.pth'"),
    ):
        status, said = pretrain("--out", tmp_path / "other", *words)
        assert status == 2
        assert f"{where}: expected a folder or file of this machine" in said
    assert not (tmp_path / "other").exists()
    assert pretrain(*other)[0] == 0


def test_an_index_that_changed_since_is_refused(pretrain, done, data, tmp_path):
    before = contents(done)
    status, said = pretrain(data=write_dataset(tmp_path / "again", pairs=11))
    assert status == 2
    assert "SHA-256 of the index of data" in said
    assert contents(done) == before


def test_shards_that_changed_since_their_index_are_named(pretrain, data, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(data, changed)
    shard = min(changed.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1024])
    status, said = pretrain(data=changed)
    assert status == 2
    assert f"{shard.name}: " in said
    assert "but the index says" in said
    assert not (tmp_path / "out").exists()
