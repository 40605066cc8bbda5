"""Runs on a device of its own: it refuses what lies on the host, and has the CPU's numbers."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from micro import micro_config
from pretended_device import pretended_device
from run_losses import losses

from training import distributed, trainer
from training.trainer import pretrain


def test_tensors_of_the_host_are_refused_but_for_single_numbers_and_indices():
    here = torch.arange(3.0)
    with pretended_device() as device:
        there = here.to(device)
        assert there.device == device
        assert (there + torch.tensor(1.0))[torch.tensor([2, 0])].tolist() == [3, 1]
        with pytest.raises(RuntimeError, match=r"add: a tensor of the host, of shape \(3,\)"):
            there + here
        with pytest.raises(RuntimeError, match="index: a tensor of the host"):
            here[there.long()]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("model", [{"pos_embed": "rope100"}, {"decoder": "cat"}])
def test_a_run_goes_as_on_the_cpu(dataset, tmp_path, model, monkeypatch):
    bent = {"homography": 0.5, "rotation_deg": 10.0}
    config = micro_config(dataset, model=model, optim={"accumulate": 2}, augment=bent)
    pretrain(config, tmp_path / "here")
    with pretended_device() as device:

        @contextmanager
        def joined(_):
            with distributed.join("cpu") as process:
                yield replace(process, device=device)

        monkeypatch.setattr(trainer, "join", joined)
        pretrain(config, tmp_path / "there")
    for kind, count in (("train", 8), ("val", 2)):
        assert len(losses(tmp_path / "there", kind)) == count
        assert losses(tmp_path / "there", kind) == losses(tmp_path / "here", kind)
