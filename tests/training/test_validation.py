"""Validation beside a slow one, pair by pair."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from micro import micro_config
from torch import Tensor

from training import validation
from training.augment import normalise, to_unit_range
from training.correspondence import geometry_counts
from training.data import open_split
from training.distributed import Process
from training.losses import completion_losses
from training.model.croco import CroCo, initialise
from training.validation import load_validation_pairs, validate

CPU = torch.device("cpu")
HIDDEN = 12


@pytest.fixture
def model() -> CroCo:
    """Three decoder layers, so that the last half of them is not all, and no one alone."""
    config = micro_config("unused", model={"dec_depth": 3}).model
    model = CroCo(config)
    initialise(model, torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture
def pairs(dataset, model):
    config = micro_config(dataset).data
    return load_validation_pairs(open_split(config).val, model.config, 12, HIDDEN, config)


@torch.no_grad()
def one_by_one(model: CroCo, pairs) -> dict[str, float]:
    sums = {"val_loss": 0.0, "val_loss_shuffled": 0.0, "val_loss_none": 0.0}
    counts = torch.zeros(2, 4, dtype=torch.float64)
    for number in range(len(pairs)):
        target, true, other = (
            normalise(to_unit_range(pairs.images[view, [which]], CPU))
            for view, which in ((0, number), (1, number), (1, int(pairs.shuffled[number])))
        )
        mask = pairs.masks[[number]]
        for name, reference in zip(sums, (true, other, torch.zeros_like(true))):
            prediction = model(target, reference, mask)
            sums[name] += float(completion_losses(prediction, target, mask, 8))
        _, *last_two = model.cross_attention(target, true, mask)[0]
        attention = torch.cat(last_two).mean(0, keepdim=True)
        counts += geometry_counts(attention, pairs.truth[[number]], mask)
    metrics = {name: value / len(pairs) for name, value in sums.items()}
    metrics["cross_view_gain"] = 1 - metrics["val_loss"] / metrics["val_loss_shuffled"]
    for kind, (number, found, *_) in zip(("all", "moved"), counts.tolist()):
        metrics |= {f"geometry_{kind}_patches": number, f"geometry_{kind}": found / number}
    return metrics


@dataclass(frozen=True)
class Part(Process):
    """One of several processes, whose sums are its own part."""

    def sum(self, values: Tensor) -> Tensor:
        return values


@pytest.mark.parametrize("batch", [64, 5])
def test_every_number_is_that_of_the_pairs_one_by_one(model, pairs, batch, monkeypatch):
    monkeypatch.setattr(validation, "_BATCH", batch)
    expected = one_by_one(model, pairs)
    assert len({round(expected[name], 4) for name in expected if "loss" in name}) == 3
    found = validate(model, pairs, Process(0, 1, CPU), nullcontext)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_processes_share_the_pairs(model, pairs, monkeypatch):
    monkeypatch.setattr(validation, "_BATCH", 5)
    expected = one_by_one(model, pairs)
    parts = [validate(model, pairs, Part(rank, 2, CPU), nullcontext) for rank in range(2)]
    for name in ("val_loss", "val_loss_none", "geometry_all_patches"):
        assert sum(part[name] for part in parts) == pytest.approx(expected[name], rel=1e-5)
        assert all(part[name] > 0 for part in parts)
