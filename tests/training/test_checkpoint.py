"""A run's checkpoints: written while it goes on, kept, found damaged, and loaded again."""

import errno
import logging
import random
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_config

from generation.errors import CrossviewError
from generation.plain import to_plain
from training import checkpoint
from training.checkpoint import BEST_NAME, Writer, load, load_model, load_newest, save, stored
from training.metrics_log import read_lines
from training.model.croco import CroCo, ModelConfig, initialise
from training.trainer import pretrain

TINY = {
    "image_size": 16,
    "patch_size": 8,
    "enc_dim": 8,
    "enc_depth": 1,
    "enc_heads": 2,
    "dec_dim": 8,
    "dec_depth": 1,
    "dec_heads": 2,
}


def make_state(step=0):
    model = CroCo(ModelConfig(**TINY))
    initialise(model, torch.Generator().manual_seed(step))
    return {
        "config": {"model": to_plain(model.config)},
        "digests": {},
        "model": model.state_dict(),
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}},
        "metrics": {"val_loss": 1.0},
        "window": {"loss_sum": 0.0, "steps": 0},
    }


def names(out):
    return [path.name for path in stored(out)]


def test_the_newest_stay_and_the_best_beside_them(tmp_path):
    with Writer(tmp_path, keep=3) as writer:
        for step in range(1, 7):
            writer.save(step, make_state(step), best=step == 2)
    assert names(tmp_path) == [f"step_0000000{step}.pt" for step in (6, 5, 4)]
    best = load(tmp_path / "checkpoints" / BEST_NAME)
    assert best["step"] == 2
    assert "optimizer" not in best
    assert load_newest(tmp_path)["step"] == 6
    model = CroCo.from_pretrained(tmp_path / "checkpoints" / BEST_NAME)
    expected = make_state(2)["model"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_average_of_the_weights_is_what_is_loaded_where_there_is_one(tmp_path):
    averaged = make_state(1)["model"]
    with Writer(tmp_path, keep=1) as writer:
        writer.save(1, {**make_state(0), "ema": averaged}, best=True)
    for path in (tmp_path, tmp_path / "checkpoints" / BEST_NAME):
        weights = load_model(path).state_dict()
        assert all(torch.equal(weights[name], averaged[name]) for name in averaged)


def test_weights_behind_a_url_are_refused_by_its_name():
    with pytest.raises(CrossviewError, match=r"^s3://bucket/run: weights are read from a disk of"):
        load_model("s3://bucket/run")


def test_what_is_written_is_the_state_as_it_was_when_saved(tmp_path, monkeypatch):
    may_write = threading.Event()

    def slow_save(*arguments, **keywords):
        assert may_write.wait(10)
        save(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    state = make_state()
    expected = state["model"]["mask_token"].clone()
    with Writer(tmp_path, keep=2) as writer:
        writer.save(1, state)
        assert names(tmp_path) == []  # not yet written, and the run goes on
        state["model"]["mask_token"].add_(1)
        state["optimizer"]["state"][0]["step"].add_(1)
        may_write.set()
    loaded = load(stored(tmp_path)[0])
    assert torch.equal(loaded["model"]["mask_token"], expected)
    assert loaded["optimizer"]["state"][0]["step"] == 0


def test_an_error_of_the_run_does_not_cut_the_checkpoint_being_written(tmp_path):
    def fail():
        with Writer(tmp_path, keep=2) as writer:
            writer.save(1, make_state())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert load(stored(tmp_path)[0])["step"] == 1


def break_disk(out, monkeypatch, *steps):
    """Make the files of these steps lie on a disk that is full."""
    monkeypatch.setattr("generation.files.secrets.token_hex", lambda size: "x")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    for step in steps:
        (out / "checkpoints" / f".step_{step:08d}.pt.x.partial").symlink_to("/dev/full")


def test_a_full_disk_is_warned_of_and_the_run_and_the_older_checkpoint_stay(
    tmp_path, monkeypatch, caplog
):
    with caplog.at_level(logging.WARNING), Writer(tmp_path, keep=1) as writer:
        writer.save(1, make_state(1))
        writer.wait()
        break_disk(tmp_path, monkeypatch, 2)
        writer.save(2, make_state(2))
        with pytest.raises(CrossviewError, match="No space left"):
            writer.wait()
        assert names(tmp_path) == ["step_00000001.pt"]
        writer.save(3, make_state(3))
    assert "no checkpoint of step 2, those before it stay: " in caplog.text
    assert names(tmp_path) == ["step_00000003.pt"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_disk_that_fills_up_in_mid_file_is_said(tmp_path, share):
    state = make_state() | {"optimizer": {"moments": torch.zeros(100, 1000)}}
    save(tmp_path, 1, state, keep=1)
    before = stored(tmp_path)[0].read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), old[1]))
    try:
        with pytest.raises(CrossviewError, match="cannot write the run here: File too large"):
            save(tmp_path, 2, state, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == ["step_00000001.pt"]
    assert stored(tmp_path)[0].read_bytes() == before
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def write_all():
        with Writer(tmp_path, keep=1) as writer:
            writer.save(1, make_state(1))
            writer.wait()
            break_disk(tmp_path, monkeypatch, 2)
            writer.save(2, make_state(2))

    with pytest.raises(CrossviewError, match="cannot write the run here: No space left"):
        write_all()
    assert names(tmp_path) == ["step_00000001.pt"]


def test_what_a_killed_run_was_writing_is_removed_before_anything_is_written(tmp_path):
    partial = tmp_path / "checkpoints" / ".step_00000001.pt.0123abcd.partial"
    partial.parent.mkdir()
    partial.touch()
    with Writer(tmp_path, keep=1):
        assert not partial.exists()


def test_a_best_that_cannot_be_written_costs_no_other_and_is_tried_again(
    tmp_path, monkeypatch, caplog
):
    full = tmp_path / "checkpoints" / f".{BEST_NAME}.x.partial"
    with caplog.at_level(logging.WARNING), Writer(tmp_path, keep=1) as writer:
        writer.save(1, make_state(1), best=True)
        writer.wait()
        monkeypatch.setattr("generation.files.secrets.token_hex", lambda size: "x")
        for step in (2, 3):
            full.symlink_to("/dev/full")
            writer.save(step, make_state(step), best=step == 2)
            with pytest.raises(CrossviewError, match="No space left"):
                writer.wait()
            assert load(tmp_path / "checkpoints" / BEST_NAME)["step"] == 1
            assert names(tmp_path) == [f"step_0000000{step}.pt"]
        writer.save(4, make_state(4))
    assert "no checkpoint of step" not in caplog.text
    assert caplog.text.count("no best.pt of step 2, the one before it stays") == 2
    assert load(tmp_path / "checkpoints" / BEST_NAME)["step"] == 2


def test_the_best_is_there_before_the_checkpoint_of_its_step(tmp_path, monkeypatch):
    """Were a run killed in between the other way round, nothing would ever write the best."""
    found = []
    write = checkpoint.save

    def look_and_write(out: Path, step: int, *given: Any, **named: Any) -> None:
        found.append(load(out / "checkpoints" / BEST_NAME)["step"])
        write(out, step, *given, **named)

    monkeypatch.setattr(checkpoint, "save", look_and_write)
    with Writer(tmp_path, keep=1) as writer:
        writer.save(3, make_state(3), best=True)
    assert found == [3]


def test_the_best_of_a_run_that_was_killed_before_its_checkpoint_stays_the_best(dataset, tmp_path):
    config = micro_config(dataset, validation={"every_steps": 2}, keep_checkpoints=8)
    pretrain(config, tmp_path)
    path = tmp_path / "checkpoints" / BEST_NAME
    best = load(path)
    for newer in stored(tmp_path)[:2]:
        newer.unlink()
    pretrain(config, tmp_path)
    again = load(path)
    assert (again["step"], again["metrics"]) == (best["step"], best["metrics"])


def test_a_run_goes_on_past_a_checkpoint_that_cannot_be_written(
    dataset, tmp_path, monkeypatch, caplog
):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    config = micro_config(dataset, validation={"every_steps": 0})
    pretrain(config, whole)
    asked = 0

    def break_disk_after_step_1() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            break_disk(disturbed, monkeypatch, 3)
        return False

    with caplog.at_level(logging.WARNING):
        result = pretrain(config, disturbed, break_disk_after_step_1)
    assert "no checkpoint of step 3, those before it stay: " in caplog.text
    assert result.checkpoint.name == "step_00000008.pt"
    expected = [line["loss"] for line in read_lines(whole / "metrics.jsonl") if "loss" in line]
    losses = [line["loss"] for line in read_lines(disturbed / "metrics.jsonl") if "loss" in line]
    assert losses == expected


def test_a_run_leaves_its_best_checkpoint(dataset, tmp_path):
    pretrain(micro_config(dataset, validation={"every_steps": 2}), tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    by_step = {line["step"]: line["val_loss"] for line in lines if line["kind"] == "val"}
    best = load(tmp_path / "checkpoints" / BEST_NAME)
    assert best["step"] == min(by_step, key=by_step.get)
    assert best["metrics"]["val_loss"] == min(by_step.values())


def test_a_folder_that_cannot_be_made_is_said_before_training(dataset, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CrossviewError, match="cannot write the run here: File exists"):
        pretrain(micro_config(dataset), tmp_path)
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_any_flipped_bit_is_found_or_harmless(tmp_path):
    state = make_state()
    save(tmp_path, 1, state, keep=1)
    path = stored(tmp_path)[0]
    good = path.read_bytes()
    found = 0
    for position in random.Random(0).sample(range(8 * len(good)), 300):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            loaded = load(path)["model"]
        except CrossviewError as error:
            assert str(path) in str(error)  # noqa: PT017
            found += 1
        else:  # in the padding between two records
            assert all(torch.equal(loaded[name], state["model"][name]) for name in loaded)
    assert found > 100


def test_a_flipped_bit_of_a_weight_is_said_and_the_checkpoint_before_taken(tmp_path, caplog):
    for step in (1, 2):
        save(tmp_path, step, make_state(step), keep=2)
    newest = stored(tmp_path)[0]
    weights = make_state(2)["model"]["prediction_head.weight"].numpy().tobytes()
    contents = bytearray(newest.read_bytes())
    contents[contents.index(weights) + 5] ^= 1
    newest.write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        assert load_newest(tmp_path)["step"] == 1
    assert "step_00000002.pt: a damaged checkpoint (wrong checksum" in caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
        (MemoryError(), "cannot be read: there is not enough memory"),
        (RuntimeError("can't allocate memory"), "cannot be read: there is not enough memory"),
    ],
)
def test_a_failing_disk_or_memory_says_nothing_of_the_checkpoint(
    tmp_path, monkeypatch, error, said
):
    """Taking the one before would train steps again, and delete a good checkpoint."""
    for step in (1, 2):
        save(tmp_path, step, make_state(step), keep=2)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CrossviewError, match=f"step_00000002.pt: {said}"):
        load_newest(tmp_path)


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path):
    state = make_state()
    state["config"]["model"]["registers"] = 4
    save(tmp_path, 1, state, keep=1)
    with pytest.raises(CrossviewError, match=r"another version of crossview .*'registers'"):
        load_model(tmp_path)


def test_a_damaged_newest_gives_way_to_those_of_the_run_that_goes_on(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, make_state(step), keep=3)
    stored(tmp_path)[0].write_bytes(b"")
    save(tmp_path, 2, make_state(2), keep=1)
    assert names(tmp_path) == ["step_00000002.pt"]
    assert load_newest(tmp_path)["step"] == 2


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_torn_checkpoint_is_found(tmp_path, share):
    save(tmp_path, 1, make_state(), keep=1)
    path = stored(tmp_path)[0]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CrossviewError, match="a damaged checkpoint"):
        load(path)


def test_the_files_of_another_shape_are_refused_by_tensor(tmp_path):
    state = make_state()
    state["config"]["model"]["dec_depth"] = 2
    save(tmp_path, 1, state, keep=1)
    with pytest.raises(CrossviewError, match=r"another model: dec_blocks.1.norm1.weight is miss"):
        load_model(tmp_path)
