"""Learning rate and parameter groups, in closed form."""

import math

import pytest

from generation.errors import CrossviewError
from training.model.croco import CroCo, ModelConfig
from training.optim import MaskConfig, OptimConfig, make_optimizer


def test_published_rate_warms_up_over_40_epochs_and_stops_at_half_the_peak():
    optim = OptimConfig()
    num_steps = optim.num_steps(steps_per_epoch=10)
    assert num_steps == 4000
    assert optim.learning_rate(0, num_steps) == 0
    assert optim.learning_rate(200, num_steps) == pytest.approx(0.75e-4)
    assert optim.learning_rate(400, num_steps) == pytest.approx(1.5e-4)
    for step in (1000, 2500, 4000):
        cosine = 0.5 * (1 + math.cos(math.pi * (step / 10 - 40) / (800 - 40)))
        assert optim.learning_rate(step, num_steps) == pytest.approx(1.5e-4 * cosine)
    last = optim.learning_rate(num_steps, num_steps) / 1.5e-4
    assert last == pytest.approx(0.5, abs=0.05)


def test_peak_rate_scales_with_the_batch():
    optim = OptimConfig(base_lr=1e-3, batch_size=64, warmup=0.0, cosine_length=1.0, max_steps=7)
    assert optim.num_steps(1000) == 7
    assert optim.learning_rate(0, 7) == pytest.approx(2.5e-4)
    assert optim.learning_rate(7, 7) == pytest.approx(0)


def test_biases_and_norms_are_not_decayed():
    model = CroCo(
        ModelConfig(
            image_size=16, patch_size=8, enc_dim=16, enc_depth=1, enc_heads=2,
            dec_dim=16, dec_depth=1, dec_heads=2,
        )
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, OptimConfig())
    decayed, others = ({names[id(p)] for p in each["params"]} for each in optimizer.param_groups)
    assert [each["weight_decay"] for each in optimizer.param_groups] == [0.05, 0.0]
    assert {each["betas"] for each in optimizer.param_groups} == {(0.9, 0.95)}
    assert all(name.endswith("bias") or "norm" in name for name in others)
    assert all(name.endswith("weight") or name == "mask_token" for name in decayed)
    assert len(decayed) + len(others) == len(names)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (OptimConfig, {"base_lr": 0.0}, "optim.base_lr = 0.0: expected above 0"),
        (OptimConfig, {"warmup": 1.0}, "optim.warmup = 1.0: expected 0 or more, below 1"),
        (OptimConfig, {"max_steps": 0}, "optim.max_steps = 0: expected at least 1"),
        (MaskConfig, {"ratio": 1.0}, "mask.ratio = 1.0: expected above 0, below 1"),
        (MaskConfig, {"rise_from": 0.9, "rise_to": 0.1}, r"expected 0 or more, ascending"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_range(config, fields, message):
    with pytest.raises(CrossviewError, match=message):
        config(**fields)
