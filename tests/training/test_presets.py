"""Presets are what they are called: the published models and schedules, and their baseline."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import micro_config, preset_config

from training.model.croco import CroCo
from training.optim import OptimConfig
from training.presets import PRESETS, PUBLISHED
from training.trainer import pretrain

REFERENCE = Path(__file__).parents[3] / "shared" / "croco_reference"
FILES = {
    "croco_v1": "CroCo.pth",
    "croco_v2_base_small_decoder": "CroCo_V2_ViTBase_SmallDecoder.pth",
    "croco_v2_base": "CroCo_V2_ViTBase_BaseDecoder.pth",
    "croco_v2_large": "CroCo_V2_ViTLarge_BaseDecoder.pth",
}


def model_of_preset(name, dataset):
    with torch.device("meta"):
        return CroCo(preset_config(name, dataset).model)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no published shapes at {REFERENCE}")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_has_the_published_tensors(name, dataset):
    official = json.loads((REFERENCE / "official_tensor_shapes.json").read_text())
    entry = next(value for key, value in official.items() if key.startswith(FILES[name]))
    model = model_of_preset(name, dataset)
    assert shapes(model) == entry["tensors"]
    assert round(num_parameters(model) / 1e6, 3) == entry["parameters_million"]


def test_v1_has_the_published_schedule(dataset):
    config = preset_config("croco_v1", dataset)
    assert config == preset_config("base", dataset)
    optim = config.optim
    assert optim == OptimConfig()  # of which test_optim.py says how the rate goes
    assert (config.mask.ratio, config.mask.ratio_start) == (0.9, None)
    assert (optim.batch_size, optim.epochs, optim.weight_decay) == (256, 400.0, 0.05)
    assert (optim.betas, optim.clip_norm, optim.ema) == ((0.9, 0.95), None, None)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "v2" in name])
def test_v2_has_the_published_schedule(name, dataset):
    config = preset_config(name, dataset)
    optim = config.optim
    steps = optim.num_steps(100)
    assert steps == 12500
    peak = 3.0e-4 if name == "croco_v2_large" else 1.5e-4  # in proportion to the batch
    assert optim.batch_size == (512 if name == "croco_v2_large" else 256)
    assert optim.learning_rate(1200, steps) == pytest.approx(peak)  # 12 epochs of warm-up
    assert optim.cosine_length == 2.0
    assert config.precision == "tf32"


def test_mae_is_v1_without_the_reference(dataset):
    mae, v1 = preset_config("mae", dataset), preset_config("croco_v1", dataset)
    assert mae.optim == v1.optim
    assert mae.mask == replace(v1.mask, ratio=0.75)
    theirs, ours = (shapes(model_of_preset(name, dataset)) for name in ("croco_v1", "mae"))
    of_the_reference = ("cross_attn", "norm_y", "norm3")
    assert ours == {n: s for n, s in theirs.items() if not any(p in n for p in of_the_reference)}


def test_a_model_that_sees_no_reference_trains_and_validates_without_one(dataset, tmp_path):
    result = pretrain(micro_config(dataset, model={"decoder": "self"}), tmp_path)
    assert result.metrics.keys() == {"step", "val_step", "val_loss", "val_pairs"}


@pytest.mark.parametrize("name", [*PUBLISHED, "mae"])
def test_long_runs_validate_and_leave_checkpoints_about_once_an_epoch(name, dataset):
    config = preset_config(name, dataset)
    epoch = 1_800_000 / config.optim.batch_size
    for steps in (config.validation.every_steps, config.checkpoint_every_steps):
        assert 1 <= steps / epoch < 3


def test_presets_are_listed_from_small_to_large(dataset):
    """And after them, variants and another name."""
    first = list(PRESETS)[:5]
    assert first[:3] == ["tiny", "small", "croco_v1"]
    assert first == sorted(first, key=lambda name: num_parameters(model_of_preset(name, dataset)))
