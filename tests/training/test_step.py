"""A step that is compiled, and one whose host never waits for the device."""

import itertools
import shutil
import time
from contextlib import closing, nullcontext
from functools import partial

import pytest
import torch
from group import Job, train
from micro import MICRO, micro_config
from run_losses import losses
from torch._dynamo.utils import counters
from torch.testing._internal.distributed.fake_pg import FakeStore

from training.augment import AugmentConfig, apply_jitter, draw_jitter, normalise, to_unit_range
from training.distributed import Process
from training.model.croco import CroCo, ModelConfig
from training.order import random_masks
from training.parallel import trained_module
from training.step_timing import StepTimes
from training.trainer import _Run

CPU = torch.device("cpu")

SHORT = {
    "model": {"enc_depth": 1, "dec_depth": 1},
    "optim": {"max_steps": 4},
    "validation": {"every_steps": 0},
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler (Debian: g++)")
def test_a_compiled_run_that_recomputes_has_the_same_losses(dataset, tmp_path):
    train(dataset, Job(tmp_path / "plain", SHORT))
    compiled = {**SHORT, "compile": True, "activation_checkpointing": True}
    train(dataset, Job(tmp_path / "compiled", compiled))
    for kind in ("train", "val"):
        plain, after = losses(tmp_path / "plain", kind), losses(tmp_path / "compiled", kind)
        assert list(after) == list(plain)
        assert list(after.values()) == pytest.approx(list(plain.values()), abs=1e-4)


@pytest.fixture
def pretended_group():
    """A group of two processes, of which this is one and hears nothing of the other."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("kind", "world_size"), [("ddp", 1), ("fsdp", 2)])
def test_what_is_recomputed_is_compiled(kind, world_size, pretended_group, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    counters.clear()
    model, process = CroCo(ModelConfig(**MICRO["model"])), Process(0, world_size, CPU)
    module = trained_module(model, process, kind, compiled=True, recomputed=True)
    image, mask = torch.zeros(2, 3, 32, 32), (torch.arange(16) < 12).expand(2, 16)
    module(image, image, mask, 4).sum().backward()
    assert counters["stats"]["unique_graphs"] > 0


def run_of(dataset, out, **overrides):
    """A run that has not begun, with what its module is given, call by call."""
    run = _Run(micro_config(dataset, **overrides), out, Process(0, 1, CPU), lambda: False)
    given = []
    run.module.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    return run, given


def steps_of(run, number):
    """Take steps; yield the images of each, after it."""
    run.model.train()
    with closing(run._batches()) as incoming:
        for images in itertools.islice(incoming, number):
            run._step(images)
            run.step += 1
            yield images


def test_a_step_shows_the_model_what_its_seed_and_number_say(dataset, tmp_path):
    run, given = run_of(
        dataset,
        tmp_path,
        seed=3,
        augment={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
        mask={"ratio": 0.9, "ratio_start": 0.25, "rise_from": 0.0, "rise_to": 1.0},
    )
    plain = AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0)
    for step, images in enumerate(steps_of(run, 3)):
        *views, mask, num_visible = given[step]
        hidden = (4, 5, 6)[step]  # of 16 patches, 0.25 + step * 0.65 / 8 of them
        assert torch.equal(mask, torch.from_numpy(random_masks(3, step, 4, 16, hidden)))
        assert num_visible == 16 - hidden
        for view, picture, jitter, none in zip(
            views,
            images,
            draw_jitter(run.config.augment, 3, step, 4),
            draw_jitter(plain, 3, step, 4),
        ):
            pixels = to_unit_range(picture, CPU)
            assert torch.equal(view, normalise(apply_jitter(pixels, jitter)))
            assert not torch.equal(view, normalise(apply_jitter(pixels, none)))


def test_the_model_is_given_nothing_that_is_elsewhere(dataset, tmp_path):
    run, _ = run_of(dataset, tmp_path)
    (images,) = steps_of(run, 1)
    given = []

    def module(*arguments):
        given.extend(arguments)
        return torch.empty(4, 16, 8 * 8 * 3, device="meta")

    run.process, run.module, run.precision = (
        Process(0, 1, torch.device("meta")),
        module,
        nullcontext,
    )
    jitters = draw_jitter(run.config.augment, 0, 0, 4)
    mask = torch.from_numpy(random_masks(0, 0, 4, 16, 12))
    assert run._losses(images, mask, jitters, slice(4)).is_meta
    *tensors, num_visible = given
    assert [tensor.is_meta for tensor in tensors] == [True] * 3
    assert num_visible == 4


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_gradients_are_clipped_where_it_is_asked_for(dataset, tmp_path, clip_norm):
    run, _ = run_of(dataset, tmp_path, optim={"clip_norm": clip_norm})
    (_,) = steps_of(run, 1)
    norm = torch.cat([each.grad.flatten() for each in run.model.parameters()]).norm()
    assert (norm <= 0.1001) == (clip_norm is not None)


def test_bfloat16_is_another_precision(dataset, tmp_path):
    found = []
    for precision in ("float32", "bfloat16"):
        run, _ = run_of(dataset, tmp_path / precision, precision=precision)
        kinds = []
        run.model.enc_blocks[0].mlp.fc1.register_forward_hook(
            lambda _module, _given, out, kinds=kinds: kinds.append(out.dtype)
        )
        list(steps_of(run, 1))
        found.append(set(kinds))
    assert found == [{torch.float32}, {torch.bfloat16}]


def test_what_saves_memory_is_done(dataset, tmp_path):
    """Half a batch at a time, and blocks that compute again what they did not keep."""
    calls = {}
    for name, overrides in {
        "plain": {},
        "accumulated": {"optim": {"accumulate": 2}},
        "recomputed": {"activation_checkpointing": True},
    }.items():
        run, given = run_of(dataset, tmp_path / name, **overrides)
        computed = []
        first = run.model.dec_blocks[0].norm1
        first.register_forward_hook(lambda *_, computed=computed: computed.append(1))
        list(steps_of(run, 1))
        calls[name] = (len(given), len(given[0][0]), len(computed))
    assert calls == {"plain": (1, 4, 1), "accumulated": (2, 2, 2), "recomputed": (1, 4, 2)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_no_step_waits_for_the_device(dataset, tmp_path, clip_norm):
    config = micro_config(
        dataset,
        device="cuda",
        precision="bfloat16",
        optim={"clip_norm": clip_norm, "ema": 0.9, "accumulate": 2},
    )
    device = torch.device("cuda", torch.cuda.current_device())
    run = _Run(config, tmp_path, Process(0, 1, device), lambda: False)
    run.model.train()
    incoming = run._batches()
    for _ in range(3):  # what is made once
        run._step(next(incoming))
        run.step += 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            loss, _, _ = run._step(next(incoming))
            run.step += 1
            run.window.add(loss, 0.0, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not any(verdict.bad for verdict in run.verdicts.due(all_of_them=True))


def test_what_a_step_does_several_times_counts_as_often():
    times = StepTimes(CPU)
    for part in ("forward", "backward", "forward", "backward", "optimizer"):
        with times.measure(part):
            time.sleep(0.01)
    seconds = times.a_step(1)
    assert seconds["forward"] >= 0.02
    assert seconds["backward"] >= 0.02
    assert 0.01 <= times.a_step(2)["forward"] < seconds["forward"]
