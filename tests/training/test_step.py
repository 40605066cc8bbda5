"""A step that is compiled, and one whose host never waits for the device."""

import shutil

import pytest
import torch
from group import Job, train
from micro import micro_config
from test_trainer import losses

from training.distributed import Process
from training.trainer import _Run

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
