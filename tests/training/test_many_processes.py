"""Two processes train as one does, whichever way they share the model and whatever happens."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from group import Job, poisoned_at, share_file, stopping_after, train, train_together
from micro import micro_config
from run_losses import losses
from synthetic import write_dataset

from generation.errors import CrossviewError
from generation.plain import merge
from training import checkpoint
from training.data import open_split
from training.device import allow_tf32, resolved_precision
from training.distributed import Process, join
from training.metrics_log import read_lines
from training.order import Batches
from training.pair_reader import PairReader
from training.trainer import _Run, pretrain
from training.verdicts import LAG

POISONED_STEP = 6
ALONE = Process(0, 1, torch.device("cpu"))
FSDP = {"parallel": "fsdp"}
CLIP = {"optim": {"clip_norm": 0.1}}
EMA = {"optim": {"ema": 0.9}}
TOGETHER = {
    "ddp": {},
    "fsdp": FSDP,
    "ddp, accumulated": {"optim": {"accumulate": 2}},
    "fsdp, accumulated, recomputed": {
        "optim": {"accumulate": 2},
        "activation_checkpointing": True,
        **FSDP,
    },
    "ddp, clipped": CLIP,
    "fsdp, clipped": {**CLIP, **FSDP},
    "ddp, averaged": EMA,
    "fsdp, averaged": {**EMA, **FSDP},
}


@pytest.fixture(scope="module")
def together(dataset, tmp_path_factory) -> Path:
    """The runs of two processes, by their names."""
    folder = tmp_path_factory.mktemp("together")
    jobs = [Job(folder / name, overrides) for name, overrides in TOGETHER.items()]
    for kind in ("ddp", "fsdp"):
        shared = {"parallel": kind}
        jobs.append(Job(folder / f"{kind}, stopped", shared, stop_after=5))
        jobs.append(Job(folder / f"{kind}, poisoned", shared, poison=POISONED_STEP))
        train(dataset, Job(folder / f"one, then {kind}", EMA, stop_after=5))
        jobs.append(Job(folder / f"one, then {kind}", {**EMA, **shared}))
    train_together(dataset, 2, jobs, folder)
    return folder


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """Train a run in this process, once."""
    folder, done = tmp_path_factory.mktemp("alone"), {}

    def run(overrides: dict) -> Path:
        key = json.dumps(overrides)
        if key not in done:
            done[key] = folder / str(len(done))
            train(dataset, Job(done[key], overrides))
        return done[key]

    return run


def weights(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.stored(out)[0])[name]


def assert_same(one: Path, other: Path) -> None:
    """To the noise of adding in another order."""
    for kind in ("train", "val"):
        before, after = losses(one, kind), losses(other, kind)
        assert list(before) == list(after)
        assert list(after.values()) == pytest.approx(list(before.values()), abs=2e-6)
    before, after = (checkpoint.load(checkpoint.stored(out)[0]) for out in (one, other))
    assert before.keys() == after.keys()
    for name in ("model", *({"ema"} & before.keys())):
        assert before[name].keys() == after[name].keys()
        for tensor in before[name]:
            torch.testing.assert_close(after[name][tensor], before[name][tensor], atol=1e-4, rtol=0)
    moments = [state["optimizer"]["state"] for state in (before, after)]
    assert moments[0].keys() == moments[1].keys()
    for number, values in moments[0].items():
        for name, value in values.items():
            torch.testing.assert_close(moments[1][number][name], value, atol=1e-4, rtol=0)


def common(overrides: dict) -> dict:
    """What decides the result."""
    optim = {k: v for k, v in overrides.get("optim", {}).items() if k != "accumulate"}
    return {"optim": optim} if optim else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_as_one(together, alone, name):
    assert_same(alone(common(TOGETHER[name])), together / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_fsdp_cuts_the_model_in_two_and_ddp_does_not(together, name):
    expected = 0.5 if "fsdp" in name else 1.0
    for rank in range(2):
        share = float(share_file(together / name, rank).read_text())
        assert share == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim": {"accumulate": 3}},
        {"optim": {"accumulate": 9}},
        {"activation_checkpointing": True},
    ],
    ids=str,
)
def test_what_saves_memory_changes_no_result(dataset, alone, tmp_path, overrides):
    train(dataset, Job(tmp_path, overrides))
    assert_same(alone({}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_stopped_run_goes_on_with_another_number_of_processes(
    together, alone, dataset, tmp_path, kind
):
    stopped = together / f"{kind}, stopped"
    assert checkpoint.stored(stopped)[0].name == "step_00000005.pt"
    assert list(losses(stopped)) == [1, 2, 3, 4, 5]
    train(dataset, Job(stopped))
    assert_same(alone({}), stopped)
    assert_same(alone(EMA), together / f"one, then {kind}")


def test_the_average_is_the_closed_form_and_what_is_validated(dataset, alone, tmp_path):
    run = _Run(micro_config(dataset, **EMA), tmp_path, ALONE, lambda: False)
    expected = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    update = run._update

    def follow(each: torch.Tensor) -> None:
        update(each)
        decay = min(0.9, (1 + run.step) / (10 + run.step))
        for name, parameter in run.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()

    run._update = follow
    run.train()
    averages = weights(tmp_path, "ema")
    for name, average in expected.items():
        torch.testing.assert_close(averages[name], average)
    assert losses(tmp_path) == losses(alone({}))  # training knows nothing of it
    assert losses(tmp_path, "val") != losses(alone({}), "val")


def poisoned_pair(data: Path, row: int, **overrides) -> str:
    """The place of a row of the poisoned batch."""
    config = micro_config(data, **overrides)
    split = open_split(config.data)
    run = _Run(config, data.parent / "unused", ALONE, lambda: False)
    step = POISONED_STEP - 1
    samples = Batches(run.schedule, run.num_steps).samples(step)
    return PairReader(split.train, 32).where(int(samples[row]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_poisoned_pair_stops_all_processes_and_is_named(together, dataset, kind):
    out = together / f"{kind}, poisoned"
    errors = [(out / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert f"not finite at step {POISONED_STEP};" in errors[0]
    record = json.loads((out / "bad_step.json").read_text())
    assert record["step"] == POISONED_STEP
    (worst, loss), *others = record["losses"].items()
    assert (worst, loss) == (poisoned_pair(dataset, 2), "inf")
    assert len(others) == 3
    assert all(isinstance(loss, float) for _, loss in others)
    assert list(losses(out)) == list(range(1, POISONED_STEP))
    assert [path.name for path in checkpoint.stored(out)] == [
        "step_00000004.pt", "step_00000003.pt",
    ]  # fmt: skip


@pytest.mark.parametrize("lag", [0, 2])
def test_a_bad_step_changes_no_weight_however_late_it_is_read(dataset, tmp_path, monkeypatch, lag):
    before = {"validation": {"every_steps": 0}, "checkpoint_every_steps": 100}
    good = tmp_path / "good"
    quiet = {**before, "log_every_steps": 100}
    pretrain(micro_config(dataset, **quiet), good, stopping_after(POISONED_STEP - 1))

    monkeypatch.setitem(LAG, "cpu", lag)
    run = _Run(micro_config(dataset, **quiet), tmp_path / "bad", ALONE, lambda: False)
    with (
        poisoned_at(POISONED_STEP),
        pytest.raises(CrossviewError, match=f"not finite at step {POISONED_STEP};"),
    ):
        run.train()
    assert run.step == POISONED_STEP + lag
    after = run.model.state_dict()
    for name, tensor in weights(good).items():
        assert torch.equal(after[name], tensor), name
    moments = weights(good, "optimizer")["state"]
    for number, values in run.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, moments[number][name])


def test_a_gradient_that_is_not_finite_stops_the_run_though_its_loss_is(dataset, tmp_path):
    run = _Run(micro_config(dataset), tmp_path, ALONE, lambda: False)
    weight = run.model.prediction_head.weight
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(CrossviewError, match=r"not finite at step 1; .*bad_step.json"):
        run.train()
    record = json.loads((tmp_path / "bad_step.json").read_text())
    assert all(np.isfinite(loss) for loss in record["losses"].values())
    assert not checkpoint.stored(tmp_path)


def test_a_bad_step_is_not_repeated_by_processes_started_again(dataset, tmp_path):
    with poisoned_at(2), pytest.raises(CrossviewError) as first:
        pretrain(micro_config(dataset), tmp_path)
    again = Process(0, 1, torch.device("cpu"), restarts=1)
    with pytest.raises(CrossviewError) as second:
        _Run(micro_config(dataset), tmp_path, again, lambda: False)
    assert str(first.value) == str(second.value)
    pretrain(micro_config(dataset), tmp_path)  # a user may try again
    assert not (tmp_path / "bad_step.json").exists()


def test_a_stop_is_heeded_at_the_same_step_however_late_it_is_read(
    dataset, alone, tmp_path, monkeypatch
):
    monkeypatch.setitem(LAG, "cpu", 2)
    run = _Run(micro_config(dataset, log_every_steps=4), tmp_path, ALONE, stopping_after(1))
    result = run.train()
    assert (result.metrics["step"], result.num_steps) == (3, 8)
    train(dataset, Job(tmp_path, {"log_every_steps": 4}))
    steps = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert steps == [4, 4, 8, 8]
    assert torch.equal(
        weights(tmp_path)["prediction_head.weight"], weights(alone({}))["prediction_head.weight"]
    )


THREE = {
    "ddp": {},
    "ddp, accumulated": {"optim": {"accumulate": 2}},
    "fsdp, a pair at a time": {"optim": {"accumulate": 8}, **FSDP},
    "fsdp, recomputed": {"activation_checkpointing": True, **FSDP},
}
EIGHT = {"optim": {"batch_size": 8}}


@pytest.fixture(scope="module")
def three_together(dataset, tmp_path_factory) -> Path:
    """The runs of three processes on batches of eight, by their names."""
    folder = tmp_path_factory.mktemp("three")
    jobs = [Job(folder / name, merge(EIGHT, overrides)) for name, overrides in THREE.items()]
    jobs.append(Job(folder / "poisoned", EIGHT, poison=POISONED_STEP))
    jobs.append(Job(folder / "divided", EIGHT, divided=True))
    train(dataset, Job(folder / "divided", EIGHT, stop_after=4))
    other = write_dataset(folder / "dataset", scenes=5)
    jobs.append(Job(folder / "other seed", EIGHT, of_last={"seed": 1}))
    jobs.append(Job(folder / "other data", EIGHT, of_last={"data": {"path": str(other)}}))
    jobs.append(Job(folder / "other rhythm", EIGHT, of_last={"checkpoint_every_steps": 7}))
    jobs.append(Job(folder / "apart", EIGHT, apart=True))
    train_together(dataset, 3, jobs, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", THREE)
def test_three_processes_train_on_a_batch_of_eight_as_one(three_together, alone, name):
    assert_same(alone(EIGHT), three_together / name)


@pytest.mark.slow
def test_a_poisoned_pair_of_an_uneven_part_is_named(three_together, dataset):
    record = json.loads((three_together / "poisoned" / "bad_step.json").read_text())
    (worst, loss), *others = record["losses"].items()
    assert (worst, loss) == (poisoned_pair(dataset, 5, **EIGHT), "inf")
    assert len(others) == 7


@pytest.mark.slow
def test_processes_that_found_different_checkpoints_are_refused(three_together):
    out = three_together / "divided"
    errors = {(out / f"error-{rank}.txt").read_text() for rank in range(3)}
    assert len(errors) == 1
    assert "would go on from different steps (rank 0: 4, rank 1: 4, rank 2: 3)" in errors.pop()
    assert list(losses(out)) == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["seed", "data", "rhythm"])
def test_processes_that_differ_in_what_they_train_are_refused(three_together, what):
    errors = {path.read_text() for path in (three_together / f"other {what}").glob("error-*.txt")}
    (error,) = errors
    kind = "data" if what == "data" else "configurations"
    assert f"the processes have different {kind}: not as rank 0 are [2]; give all mach" in error
    assert not (three_together / f"other {what}" / "checkpoints").exists()


@pytest.mark.slow
def test_processes_without_a_common_folder_are_refused_before_the_first_step(three_together):
    folders = [three_together / name for name in ("apart", "apart, elsewhere")]
    errors = {path.read_text() for out in folders for path in out.glob("error-*.txt")}
    assert errors == {
        f"{out}: what rank 0 writes there is not seen by ranks [2]; give all machines a folder "
        "that they share"
        for out in folders
    }
    assert not any((out / "metrics.jsonl").exists() for out in folders)


def test_more_processes_than_pairs_of_a_batch_are_refused(dataset, tmp_path):
    five = Process(0, 5, torch.device("cpu"))
    with pytest.raises(CrossviewError, match=r"batch_size = 4: .* a pair for each of the 5 proc"):
        _Run(micro_config(dataset), tmp_path, five, lambda: False)


def tf32_is_allowed():
    backends = torch.backends
    assert backends.cuda.matmul.allow_tf32 == backends.cudnn.allow_tf32
    return backends.cudnn.allow_tf32


def test_float32_is_not_tf32():
    torch.backends.cudnn.allow_tf32 = True
    with join("cpu"):
        assert not tf32_is_allowed()


def test_tf32_is_allowed_to_the_runs_that_ask_for_it(dataset, tmp_path, monkeypatch):
    def run(precision):
        config = micro_config(dataset, precision=precision)
        return _Run(config, tmp_path, ALONE, lambda: False)

    allow_tf32(True)
    assert run("tf32").precision_name == "float32"  # which is all that a CPU has
    assert not tf32_is_allowed()
    monkeypatch.setattr("training.trainer.resolved_precision", lambda precision, device: precision)
    run("tf32")
    assert tf32_is_allowed()
    run("float32")
    assert not tf32_is_allowed()


@pytest.mark.parametrize("supported", [True, False])
def test_tf32_is_float32_where_nothing_multiplies_it(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: supported)
    found = resolved_precision("tf32", torch.device("cuda"))
    assert found == ("tf32" if supported else "float32")
    assert resolved_precision("tf32", torch.device("cpu")) == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_said(dataset, tmp_path):
    with pytest.raises(CrossviewError, match="this machine has no CUDA device"):
        pretrain(micro_config(dataset, device="cuda"), tmp_path)
