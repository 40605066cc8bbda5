"""Whole runs of a micro model: what they leave, and that nothing but the data decides it."""

import ast
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from group import stopping_after
from micro import MICRO, micro_config, preset_config
from run_losses import losses
from synthetic import write_dataset

import training
from generation.errors import CrossviewError
from generation.folder_lock import locked
from generation.plain import merge, to_plain
from pipelines.config import parse_overrides
from training import checkpoint
from training.augment import draw_jitter
from training.checkpoint import load_model
from training.config import differences, settings_before
from training.device import device_name
from training.distributed import Process
from training.metrics_log import read_lines
from training.model.weights import weights_digest
from training.order import swapped_views
from training.pictures import complete
from training.presets import PRESETS, preset
from training.trainer import _Run, pretrain

ALONE = Process(0, 1, torch.device("cpu"))
REPOSITORY = Path(training.__file__).parents[1]
RUN_MICRO = Path(__file__).with_name("run_micro.py")
VALIDATION_FIELDS = {
    "val_loss",
    "val_loss_shuffled",
    "val_loss_none",
    "cross_view_gain",
    "geometry_all",
    "geometry_moved",
    "geometry_all_random",
    "geometry_all_same_position",
    "geometry_moved_random",
    "geometry_moved_same_position",
    "geometry_all_patches",
    "geometry_moved_patches",
}


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, pretrain(micro_config(dataset), out)


def test_a_run_leaves_its_configuration_metrics_and_last_two_checkpoints(run, dataset):
    out, result = run
    described = json.loads((out / "run.json").read_text())
    assert described["config"]["data"]["path"] == str(dataset)
    assert len(described["digests"]["data"]) == 64
    assert described["versions"]["torch"]
    assert described["device"] == device_name(torch.device("cpu"))
    assert [path.name for path in checkpoint.stored(out)] == [
        "step_00000008.pt",
        "step_00000006.pt",
    ]
    assert result.checkpoint == out / "checkpoints" / "step_00000008.pt"
    assert sorted(losses(out)) == list(range(1, 9))
    assert sorted(losses(out, "val")) == [4, 8]
    assert list((out / "tensorboard").iterdir())
    record = read_lines(out / "metrics.jsonl")[0]
    assert {"epoch", "lr", "mask_ratio", "pairs_per_s", "data_wait_share"} <= record.keys()


def test_scenes_that_are_validated_on_and_trained_on_are_told(dataset, tmp_path, caplog):
    out = tmp_path / "run"
    config = micro_config(dataset, data={"val_path": str(dataset)}, optim={"max_steps": 1})
    pretrain(config, out)
    assert "4 of 4 scenes to validate on are trained on too: scene0, scene1" in caplog.text
    card = (out / "README.md").read_text()
    assert "of which 4 are trained on too" in card
    assert "held out" not in card


def test_validation_reports_every_standard_field(run):
    _, result = run
    assert result.metrics.keys() >= VALIDATION_FIELDS
    gain = 1 - result.metrics["val_loss"] / result.metrics["val_loss_shuffled"]
    assert result.metrics["cross_view_gain"] == pytest.approx(gain)


def test_a_loaded_model_completes_images(run):
    out, result = run
    for path in (out, result.checkpoint):
        model = load_model(path)
        assert not model.training
        target, reference = torch.randn(2, 1, 3, 32, 32)
        mask = torch.ones(1, 16, dtype=torch.bool)
        mask[0, :2] = False
        picture = complete(model, target, reference, mask)
        assert picture.shape == (1, 3, 32, 32)
        assert picture.min() >= 0
        assert picture.max() <= 1


def test_a_finished_run_is_not_trained_again(run, dataset):
    out, result = run
    before = (out / "metrics.jsonl").read_bytes()
    again = pretrain(micro_config(dataset), out)
    assert again == result
    assert (out / "metrics.jsonl").read_bytes() == before


def test_workers_do_not_change_the_losses(run, dataset, tmp_path):
    pretrain(micro_config(dataset, data={"num_workers": 2}), tmp_path)
    assert losses(tmp_path) == losses(run[0])


def test_seeds_change_the_losses(run, dataset, tmp_path):
    pretrain(micro_config(dataset, seed=1), tmp_path)
    assert losses(tmp_path) != losses(run[0])


@pytest.mark.parametrize("decoder", ["cross", "cat"])
def test_both_decoders_learn_to_copy_a_plane(tmp_path, decoder):
    data = write_dataset(tmp_path / "data", scenes=2, pairs=16)
    config = micro_config(
        data,
        model={"decoder": decoder},
        optim={"max_steps": 60, "batch_size": 16},
        validation={"every_steps": 0},
        log_every_steps=20,
        checkpoint_every_steps=1000,
    )
    pretrain(config, tmp_path / "out")
    train = losses(tmp_path / "out")
    assert train[60] < 0.9 * train[20]


def test_bfloat16_and_clipping_train(dataset, tmp_path):
    config = micro_config(dataset, precision="bfloat16", optim={"clip_norm": 1.0})
    assert pretrain(config, tmp_path).metrics["val_loss"] < 2


def start(data, out, overrides):
    command = [sys.executable, str(RUN_MICRO), str(data), str(out), json.dumps(overrides)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_exactly_the_same_losses(dataset, tmp_path):
    overrides = {
        "optim": {"max_steps": 120},
        "validation": {"every_steps": 40},
        "log_every_steps": 2,
        "checkpoint_every_steps": 5,
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(dataset, killed, overrides)
    deadline = time.monotonic() + 180
    while len(losses(killed)) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = checkpoint.stored(killed)[0]
    assert 0 < checkpoint.load(reached)["step"] < 120

    torch.set_num_threads(1)
    pretrain(micro_config(dataset, **overrides), undisturbed)
    pretrain(micro_config(dataset, **overrides), killed)
    assert losses(killed) == losses(undisturbed)
    assert losses(killed, "val") == losses(undisturbed, "val")
    steps = [r["step"] for r in read_lines(killed / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(2, 121, 2))


def assignments(values, prefix=""):
    """Nested values as --set takes them."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from assignments(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"


@pytest.mark.slow
def test_the_command_trains_in_two_processes_as_in_one(run, dataset, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        # torchrun, by its module: only this interpreter is sure to be there
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "pipelines.cli", "pretrain", "--preset", "tiny",
        "--data", str(dataset), "--out", str(tmp_path / "two"), "--set", *assignments(MICRO),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(checkpoint.stored(tmp_path / "two")[0])["step"] == 8
    assert load_model(tmp_path / "two").config == load_model(run[0]).config
    for kind in ("train", "val"):
        one, two = losses(run[0], kind), losses(tmp_path / "two", kind)
        assert one.keys() == two.keys()
        assert all(two[step] == pytest.approx(one[step], abs=1e-4) for step in one)


def copy_run(run, tmp_path):
    import shutil

    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_taken(
    run, dataset, tmp_path, caplog
):
    out = copy_run(run, tmp_path)
    newest = checkpoint.stored(out)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        pretrain(micro_config(dataset), out)
    assert "step_00000008.pt: a damaged checkpoint" in caplog.text
    assert losses(out) == losses(run[0])


def test_a_finished_run_keeps_the_record_of_the_machine_that_trained_it(run, dataset, tmp_path):
    out = copy_run(run, tmp_path)
    (out / "run.json").write_text("{}")
    result = pretrain(micro_config(dataset), out)
    assert result.metrics["step"] == result.num_steps
    assert (out / "run.json").read_text() == "{}"


DAMAGED = {"half": b'{\n "config": {', "empty": b"", "NULs": bytes(100), "no object": b"[]"}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_warned_of_and_written_anew(run, dataset, tmp_path, caplog, damaged):
    """With steps left and without."""
    out = copy_run(run, tmp_path)
    checkpoint.stored(out)[0].unlink()
    for _ in range(2):
        (out / "run.json").write_bytes(damaged)
        caplog.clear()
        pretrain(micro_config(dataset), out)
        assert f"{out / 'run.json'}: damaged" in caplog.text
        assert json.loads((out / "run.json").read_text())["num_steps"] == 8
    (out / "run.json").unlink()
    pretrain(micro_config(dataset), out)
    assert (out / "run.json").exists()
    assert losses(out) == losses(run[0])


def test_two_runs_of_one_folder_are_refused(dataset, tmp_path):
    with locked(tmp_path), pytest.raises(CrossviewError, match="another run is writing"):
        pretrain(micro_config(dataset), tmp_path)


def test_a_lock_that_cannot_be_written_is_said(dataset, tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(CrossviewError, match="cannot write the run here: Is a directory"):
        pretrain(micro_config(dataset), tmp_path)


def test_a_run_that_another_one_overtook_while_it_started_is_refused(dataset, tmp_path):
    config = micro_config(dataset)
    overtaken = _Run(config, tmp_path, ALONE, lambda: False)
    pretrain(config, tmp_path)
    before = losses(tmp_path)
    with pytest.raises(CrossviewError, match="another run has written here meanwhile"):
        overtaken.train()
    assert losses(tmp_path) == before


def test_only_damaged_checkpoints_are_an_error(run, dataset, tmp_path):
    out = copy_run(run, tmp_path)
    for path in checkpoint.stored(out):
        path.write_bytes(b"")
    with pytest.raises(CrossviewError, match="no checkpoint can be read"):
        pretrain(micro_config(dataset), out)


def test_a_run_configured_otherwise_is_not_continued(run, dataset, tmp_path):
    out = copy_run(run, tmp_path)
    before = (out / "run.json").read_bytes()
    other = {"optim": {"base_lr": 1.0e-3}, "model": {"enc_depth": 1}}
    with pytest.raises(CrossviewError) as caught:
        pretrain(micro_config(dataset, **other), out)
    assert "model.enc_depth: 2 before, 1 now" in str(caught.value)
    assert "optim.base_lr: " in str(caught.value)
    words = str(caught.value).partition("\nto go on with it, add --set ")[2].split()
    assert [word.partition("=")[0] for word in words] == ["model.enc_depth", "optim.base_lr"]
    again = micro_config(dataset, **merge(other, parse_overrides(words)))
    assert again == micro_config(dataset)
    assert (out / "run.json").read_bytes() == before
    rendered_again = write_dataset(tmp_path / "data", pairs=11)
    with pytest.raises(CrossviewError, match="SHA-256 of the index of data"):
        pretrain(micro_config(rendered_again), out)


@pytest.mark.parametrize("longer", [{"max_steps": 40}, {"max_steps": None, "epochs": 9.0}])
def test_more_steps_of_a_run_that_is_done_begin_with_its_weights(run, dataset, tmp_path, longer):
    out, config = copy_run(run, tmp_path), micro_config(dataset, optim=longer)
    with pytest.raises(CrossviewError, match=r"optim\.max_steps: 8 before") as caught:
        pretrain(config, out)
    assert str(caught.value).endswith(
        f"\nit is done; to train on from its weights, add --init {out} and take another folder as "
        "--out"
    )
    begun = tmp_path / "begun"
    pretrain(micro_config(dataset), begun, stopping_after(1))
    with pytest.raises(CrossviewError, match=r"to go on with it, add --set .*max_steps=8"):
        pretrain(config, begun)


@pytest.mark.parametrize("validated_elsewhere", [False, True])
def test_a_run_that_held_out_other_scenes_is_not_continued(dataset, tmp_path, validated_elsewhere):
    data = {"val_path": str(dataset)} if validated_elsewhere else {}
    out, config = tmp_path / "begun", micro_config(dataset, data=data)
    pretrain(config, out, stopping_after(1))
    path = out / "run.json"
    recorded = json.loads(path.read_text())
    held_out = recorded["val_scenes"]
    path.write_text(json.dumps(recorded | {"val_scenes": ["other", *held_out[1:]]}))
    with pytest.raises(CrossviewError, match="held other scenes out") as caught:
        pretrain(config, out)
    assert "\n  val_scenes: only before other\n" in str(caught.value)
    assert f"\n  val_scenes: only now {held_out[0]}" in str(caught.value)
    del recorded["val_scenes"], recorded["train_scenes"]
    path.write_text(json.dumps(recorded))
    pretrain(config, out, stopping_after(1))
    path.unlink()
    pretrain(config, out, stopping_after(1))


def test_a_run_that_is_done_stays_so_whatever_is_held_out_now(run, dataset, tmp_path):
    out = copy_run(run, tmp_path)
    path = out / "run.json"
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps(recorded | {"val_scenes": ["other"]}))
    assert pretrain(micro_config(dataset), out).checkpoint == checkpoint.stored(out)[0]


def test_a_run_begins_with_the_weights_it_is_given_and_goes_on_with_its_own(
    run, dataset, tmp_path, caplog
):
    given, before = {"init": str(run[0]), "seed": 1}, load_model(run[0]).state_dict()
    begun = _Run(micro_config(dataset, **given), tmp_path / "no", ALONE, lambda: False)
    assert begun.step == 0
    for name, tensor in begun.model.state_dict().items():
        assert torch.equal(tensor, before[name])

    out = tmp_path / "out"
    pretrain(micro_config(dataset, **given), out, stopping_after(5))
    assert sorted(losses(out)) == [1, 2, 3, 4, 5]
    assert losses(out)[1] < 0.95 * losses(run[0])[1]
    described = json.loads((out / "run.json").read_text())
    assert described["init_sha256"] == weights_digest(load_model(run[0]))
    assert described["init_sha256"] in (out / "README.md").read_text()
    moved = shutil.copy(run[1].checkpoint, tmp_path / "moved.pt")
    pretrain(micro_config(dataset, **{**given, "init": str(moved)}), out, stopping_after(5))
    pretrain(micro_config(dataset, **{**given, "init": str(tmp_path / "gone")}), out)
    pretrain(micro_config(dataset, **given), tmp_path / "whole")
    assert losses(out) == losses(tmp_path / "whole")


def test_a_run_that_began_with_other_weights_is_not_continued(run, dataset, tmp_path):
    out = copy_run(run, tmp_path)
    with pytest.raises(CrossviewError, match="began with random weights; leave init out to go on"):
        pretrain(micro_config(dataset, init=str(run[0])), out)


def test_a_field_that_an_older_version_had_not_counts_as_its_default(dataset):
    config = micro_config(dataset, data={"random_crop": False})
    older = to_plain(config)
    del older["parallel"], older["optim"]["ema"], older["data"]["random_crop"]
    assert differences(older, config) == ["data.random_crop: true before, false now"]
    del older["data"]["resize"]  # which changed what older versions did
    assert "data.resize: null before, 1.2 now" in differences(older, config)


def test_recorded_values_are_said_as_they_are_set(dataset):
    data = {"mixture": [{"path": "now", "weight": 2.0}]}
    config = micro_config(dataset, optim={"base_lr": 1.0}, precision="tf32", data=data)
    older = to_plain(config)
    older["optim"] |= {"base_lr": 1e-05, "ema": 0.5, "betas": [1e-05, 0.9]}
    older |= {"precision": "auto", "gone": 1, "init": None}
    older["augment"]["unrelated"] = True
    older["data"]["mixture"] = [{"path": "before", "weight": 1e-05, "weight_end": None}]
    older["checkpoint_every_steps"] = 1000  # decides no weight
    settings = settings_before(older, config)
    assert settings == [
        'data.mixture=[{path: "now", weight: 1.0e-05, weight_end: null}]',
        "optim.base_lr=1.0e-05", "optim.betas=[1.0e-05, 0.9]", "optim.ema=0.5",
        "augment.unrelated=true", "precision=auto",
    ]  # fmt: skip
    values = parse_overrides(settings)
    assert values["data"]["mixture"] == [{"path": "now", "weight": 1e-05, "weight_end": None}]
    assert values["optim"]["betas"] == [1e-05, 0.9]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim": {"batch_size": 37}}, "optim.batch_size = 37, .* hold only 36 pairs"),
        ({"model": {"image_size": 40}}, "36 x 36 pixels, but the model takes crops of 40"),
        ({"data": {"val_scenes": 9}}, "data.val_scenes = 9: expected below the 4"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_anything_is_written(
    dataset, tmp_path, overrides, message
):
    with pytest.raises(CrossviewError, match=message):
        pretrain(micro_config(dataset, **overrides), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run(dataset, tmp_path):
    with pytest.raises(CrossviewError, match=r"lower optim.base_lr"):
        pretrain(micro_config(dataset, optim={"base_lr": 1.0e30}), tmp_path)


def test_what_does_not_fit_into_a_gpu_is_said_with_what_helps(dataset, tmp_path, monkeypatch):
    def runs_out(self, losses):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(_Run, "_update", runs_out)
    with pytest.raises(CrossviewError, match=r"^4 pairs a step on 1 processes .*optim\.accumulate"):
        pretrain(micro_config(dataset), tmp_path)


def test_weights_that_an_update_broke_are_not_saved_over_good_ones(dataset, tmp_path, monkeypatch):
    update = _Run._update

    def breaks_them_at_step_6(self, losses):
        update(self, losses)
        if self.step == 5:
            next(self.model.parameters()).data[0] = torch.nan

    monkeypatch.setattr(_Run, "_update", breaks_them_at_step_6)
    config = micro_config(dataset, log_every_steps=100, validation={"every_steps": 0})
    with pytest.raises(CrossviewError, match=r"weights is nan at step 6; .* lower optim.base_lr"):
        pretrain(config, tmp_path)
    assert [path.name for path in checkpoint.stored(tmp_path)] == ["step_00000003.pt"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda out: out.write_text(""), r"out: cannot write the run here: File exists;"),
        (lambda out: (out / "run.json").mkdir(parents=True), "run.json"),
        (lambda out: (out / "metrics.jsonl").mkdir(parents=True), "metrics.jsonl"),
        (lambda out: (out.mkdir(), (out / "tensorboard").write_text("")), "tensorboard"),
        (lambda out: (out.mkdir(), (out / "checkpoints").write_text("")), "checkpoints"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(dataset, tmp_path, spoil, named):
    out = tmp_path / "out"
    spoil(out)
    with pytest.raises(CrossviewError, match=named) as caught:
        pretrain(micro_config(dataset), out)
    assert str(caught.value).startswith(f"{out}: cannot write the run here: ")


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(run, tmp_path, monkeypatch):
    out = copy_run(run, tmp_path)
    before = checkpoint.stored(out)
    monkeypatch.setattr("generation.files.secrets.token_hex", lambda size: "x")
    (out / "checkpoints" / ".step_00000009.pt.x.partial").symlink_to("/dev/full")
    with pytest.raises(CrossviewError, match=r"run: cannot write the run here: No space left"):
        checkpoint.save(out, 9, {"model": {"weight": torch.zeros(300_000)}}, keep=2)
    assert checkpoint.stored(out) == before


def test_shards_without_depth_train_without_a_geometry_score(tmp_path, caplog):
    data = write_dataset(tmp_path / "data", scenes=2, with_depth=False)
    with caplog.at_level(logging.WARNING):
        result = pretrain(micro_config(data), tmp_path / "out")
    assert "no geometry score" in caplog.text
    assert "val_loss" in result.metrics
    assert not [name for name in result.metrics if name.startswith("geometry")]


def test_a_model_is_found_in_the_folder_of_checkpoints_too(run):
    assert load_model(run[0] / "checkpoints").config == load_model(run[0]).config


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(CrossviewError, match="found no checkpoints"):
        load_model(tmp_path)
    with pytest.raises(CrossviewError, match="found no such file"):
        load_model(tmp_path / "model.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CrossviewError, match="expected a checkpoint of format"):
        load_model(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["large", [1], {"tiny": 1}, 3, None])
def test_an_unknown_preset_is_refused_with_those_there_are(name):
    message = re.escape(f"preset = {name!r}: expected one of tiny, small")
    with pytest.raises(CrossviewError, match=message):
        preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_configuration(name, dataset):
    preset_config(name, dataset)


def test_training_imports_neither_ray_nor_yaml_nor_pipelines():
    imported = set()
    for path in Path(training.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    assert not {name.partition(".")[0] for name in imported} & {"ray", "yaml", "pipelines"}
    of_generation = {name for name in imported if name.startswith("generation")}
    assert {name.split(".")[1] for name in of_generation} <= {
        "bounds",
        "errors",
        "files",
        "folder_lock",
        "geometry",
        "locations",
        "machine",
        "plain",
        "retries",
        "shards",
        "view",
        "visibility",
    }


def test_an_unrelated_reference_is_that_of_another_pair(dataset, tmp_path):
    values = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}

    def losses(images: torch.Tensor, unrelated: bool) -> torch.Tensor:
        config = micro_config(dataset, augment={**values, "unrelated": unrelated})
        run = _Run(config, tmp_path, ALONE, lambda: False)
        mask = torch.zeros(4, config.model.num_patches, dtype=torch.bool)
        mask[:, ::2] = True
        jitters = draw_jitter(config.augment, 0, 0, 4)
        return run._losses(images, mask, jitters, slice(0, 4)).detach()

    images = torch.randint(256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    others = torch.stack([images[0], images[1].roll(1, 0)])
    torch.testing.assert_close(losses(images, True), losses(others, False))
    assert not torch.allclose(losses(images, True), losses(images, False))


def test_a_single_pair_has_no_unrelated_one(dataset, tmp_path):
    config = micro_config(dataset, augment={"unrelated": True}, optim={"batch_size": 1})
    with pytest.raises(CrossviewError, match=r"augment\.unrelated"):
        pretrain(config, tmp_path)


def test_a_model_of_one_view_learns_from_both_views_of_a_pair(dataset, tmp_path):
    plain = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    config = micro_config(dataset, augment=plain, model={"decoder": "self"})
    run = _Run(config, tmp_path, ALONE, lambda: False)
    mask = torch.zeros(4, config.model.num_patches, dtype=torch.bool)
    mask[:, ::2] = True
    jitters = draw_jitter(config.augment, 0, 0, 4)
    images = torch.randint(256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    shown = set()
    for run.step in range(8):
        swapped = torch.from_numpy(swapped_views(config.seed, run.step, 4))
        seen = torch.where(swapped.view(-1, 1, 1, 1), images[1], images[0])
        losses = run._losses(images, mask, jitters, slice(0, 4))
        torch.testing.assert_close(
            losses, run._losses(torch.stack([seen, seen]), mask, jitters, slice(0, 4))
        )
        shown |= set(swapped.tolist())
    assert shown == {False, True}
