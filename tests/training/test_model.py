"""The model computes what the published one computes, and keeps its own promises."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from host import FromHost, pretended_gpu

from generation.errors import CrossviewError
from training.losses import completion_losses, patchify
from training.model.attention import attend
from training.model.croco import CroCo, ModelConfig, _tables_on, initialise, visible_patches
from training.model.positions import (
    interpolated,
    rotary_tables,
    rotate,
    sine_cosine_positions,
)
from training.model.weights import load_weights

REFERENCE = Path(__file__).parents[3] / "shared" / "croco_reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"no outputs of the published model at {REFERENCE}"
)

MICRO = {
    "image_size": 32,
    "patch_size": 8,
    "enc_dim": 32,
    "enc_depth": 2,
    "enc_heads": 2,
    "dec_dim": 16,
    "dec_depth": 3,
    "dec_heads": 4,
}


def make_model(**fields):
    model = CroCo(ModelConfig(**{**MICRO, **fields}))
    initialise(model, torch.Generator().manual_seed(0))
    return model


def test_only_the_patch_embedding_begins_with_biases():
    model = make_model(decoder="cat")
    biases = {n: p for n, p in model.named_parameters() if n.endswith("bias")}
    bias = biases.pop("patch_embed.proj.bias")
    assert not any(other.any() for other in biases.values())
    bound = (3 * MICRO["patch_size"] ** 2) ** -0.5
    assert 0.8 * bound < bias.abs().max() <= bound
    assert abs(bias.mean()) < 0.5 * bound


def random_inputs(seed=0, batch=2, num_masked=12):
    generator = torch.Generator().manual_seed(seed)
    target, reference = torch.randn(2, batch, 3, 32, 32, generator=generator)
    mask = torch.rand(batch, 16, generator=generator).argsort(1).argsort(1) < num_masked
    return target, reference, mask


def published(name):
    config = json.loads((REFERENCE / f"{name}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(REFERENCE / f"{name}.npz").items()}
    weights = {
        key.removeprefix("state_dict/"): value
        for key, value in arrays.items()
        if key.startswith("state_dict/")
    }
    model = CroCo(
        ModelConfig(
            image_size=config["img_size"],
            patch_size=config["patch_size"],
            pos_embed=config["pos_embed"].lower(),
            **{
                f"{part}_{ours}": config[f"{part}_{theirs}"]
                for part in ("enc", "dec")
                for ours, theirs in (("dim", "embed_dim"), ("depth",) * 2, ("heads", "num_heads"))
            },
        )
    )
    load_weights(model, weights, name)
    return model.eval(), weights, arrays


@needs_reference
@pytest.mark.parametrize("name", ["cosine", "rope100"])
def test_every_published_array_is_reproduced(name):
    model, _, arrays = published(name)
    target, reference, mask = (arrays[k] for k in ("target_image", "reference_image", "mask"))
    patch_size = model.config.patch_size
    with torch.no_grad():
        prediction = model(target, reference, mask)
        features = model.encode(target), model.encode(reference)
        unmasked = model.decode(features[0], None, features[1])
    raw = (prediction - arrays["patch_targets"]).square().mean(-1)[mask].mean()
    computed = {
        "prediction": prediction,
        "patch_targets": patchify(target, patch_size),
        "loss_normalised": completion_losses(prediction, target, mask, patch_size).mean(),
        "loss_raw": raw,
        "encoder_features_target": features[0],
        "encoder_features_reference": features[1],
        "decoder_features_unmasked": unmasked,
    }
    for key, value in computed.items():
        torch.testing.assert_close(value, arrays[key], atol=1e-5, rtol=1e-5, msg=key)


@needs_reference
def test_fixed_positions_are_the_published_ones():
    model, weights, _ = published("cosine")
    for name, dim in (("enc_pos_embed", 48), ("dec_pos_embed", 32)):
        torch.testing.assert_close(sine_cosine_positions(model.config.grid, dim), weights[name])


def test_rotary_attention_depends_on_relative_positions_only():
    tables = rotary_tables((4, 4), 16, 100.0)
    query, key = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    scores = rotate(query.expand(16, 16), tables) @ rotate(key.expand(16, 16), tables).T
    # from (row 0, column 0) to (1, 2), and from (2, 1) to (3, 3)
    torch.testing.assert_close(scores[0, 6], scores[9, 15])
    assert not torch.isclose(scores[0, 6], scores[0, 9])


def test_rotating_costs_less_than_the_attention_around_it():
    tables = rotary_tables((14, 14), 64, 100.0)
    qkv = torch.randn(8, 196, 3, 12, 64).permute(2, 0, 3, 1, 4).requires_grad_()

    def best_s(compute):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            compute().sum().backward()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    rotating = best_s(lambda: rotate(qkv[:2], tables))
    assert rotating < best_s(lambda: attend(*qkv.unbind(0), None))


def test_attention_by_products_is_torchs_fused_attention():
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    ours = attend(query, key, value, None)
    torch.testing.assert_close(ours, fused.transpose(1, 2).flatten(2))


def test_visible_patches_are_those_not_masked_in_ascending_order():
    _, _, mask = random_inputs()
    expected = torch.stack([torch.nonzero(~row).flatten() for row in mask])
    assert torch.equal(visible_patches(mask), expected)


@pytest.mark.parametrize("pos_embed", ["cosine", "rope100"])
@pytest.mark.parametrize("decoder", ["cross", "cat", "self"])
def test_a_prediction_never_sees_the_masked_patches(pos_embed, decoder):
    model = make_model(pos_embed=pos_embed, decoder=decoder)
    target, reference, mask = random_inputs()
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        prediction = model(target, reference, mask)
        repainted = model(torch.where(hidden, 9.0, target), reference, mask)
        elsewhere = model(target, reference.roll(5, -1), mask)
    assert torch.equal(prediction, repainted)
    assert torch.allclose(prediction, elsewhere, atol=1e-3) == (decoder == "self")


@pytest.mark.parametrize("decoder", ["cross", "cat"])
def test_cross_attention_rows_are_distributions_over_the_reference(decoder):
    model = make_model(decoder=decoder)
    with torch.no_grad():
        maps = model.cross_attention(*random_inputs())
    assert maps.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 4, 16))


def test_interpolated_positions_are_those_of_the_same_places():
    trained, grid = (14, 14), (28, 21)
    positions = interpolated(sine_cosine_positions(trained, 64), trained, grid).view(28, 21, 64)
    row = (torch.arange(28) + 0.5) * 14 / 28 - 0.5  # in patches of the grid trained on
    column = (torch.arange(21) + 0.5) * 14 / 21 - 0.5
    angles = torch.stack([column.expand(28, 21), row.unsqueeze(1).expand(28, 21)], -1).unsqueeze(
        -1
    ) * 10000.0 ** (-torch.arange(16) / 16)
    expected = torch.cat([angles.sin(), angles.cos()], -1).flatten(2)
    inner = (slice(3, -3), slice(3, -3))  # at the border bicubic has no neighbours to go by
    torch.testing.assert_close(positions[inner], expected[inner], atol=0.04, rtol=0)
    same = sine_cosine_positions(trained, 64)
    torch.testing.assert_close(interpolated(same, trained, trained), same)


@pytest.mark.parametrize("decoder", ["cross", "cat", "self"])
@pytest.mark.parametrize("pos_embed", ["cosine", "rope100"])
def test_one_model_takes_images_of_any_size(pos_embed, decoder):
    model = make_model(pos_embed=pos_embed, decoder=decoder)
    target, reference = torch.randn(2, 2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(40) % 5 > 0).expand(2, 40)
    with torch.no_grad():
        prediction = model(target, reference, mask)
        features = model.encode(target)
        assert prediction.shape == (2, 40, 8 * 8 * 3)
        assert features.shape == (2, 40, 32)
    if decoder != "self":
        assert model.cross_attention(target, reference, mask).shape == (2, 3, 4, 40, 40)


@pytest.mark.parametrize("decoder", ["cross", "cat"])
def test_with_rotary_positions_another_size_is_what_a_model_of_that_size_computes(decoder):
    fields = {"pos_embed": "rope100", "decoder": decoder}
    small, large = make_model(**fields), make_model(**fields, image_size=48)
    load_weights(large, small.state_dict(), "test")
    target, reference = torch.randn(2, 2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(36) % 6 > 0).expand(2, 36)
    with torch.no_grad():
        assert torch.equal(small(target, reference, mask), large(target, reference, mask))


def test_rotary_positions_of_another_size_come_from_the_host_once():
    with pretended_gpu() as gpu:
        with gpu:
            model, images = make_model(pos_embed="rope100"), torch.empty(2, 3, 24, 56)
        model.encode(images)
        with FromHost() as host:
            model.encode(images)
    _tables_on.cache_clear()
    assert host.found == []


def test_a_model_that_predicted_images_of_another_size_trains_on_such():
    model, images = make_model(pos_embed="rope100"), torch.zeros(2, 3, 24, 56)
    with torch.inference_mode():
        model.encode(images)
    model.encode(images).sum().backward()


def test_images_that_are_no_multiple_of_the_patch_or_not_of_one_size_are_refused():
    model = make_model()
    mask = torch.ones(1, 16, dtype=torch.bool)
    with pytest.raises(CrossviewError, match="images of 32 x 36 pixels: expected multiples of"):
        model.encode(torch.zeros(1, 3, 32, 36))
    with pytest.raises(CrossviewError, match="target and reference are 32 x 32 and 32 x 40"):
        model(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 40), mask)


def test_a_decoder_that_sees_no_reference_ignores_it():
    model = make_model(decoder="self")
    target, reference, mask = random_inputs()
    with torch.no_grad():
        prediction = model(target, reference, mask)
        assert torch.equal(model(target, reference + 1, mask), prediction)
        assert not torch.allclose(model(target + 1, reference, mask), prediction, atol=1e-3)
    with pytest.raises(CrossviewError, match=r"model.decoder = 'self' sees no reference"):
        model.cross_attention(target, reference, mask)


def test_initial_weights_depend_on_the_generator_only():
    torch.manual_seed(1)
    first = make_model().state_dict()
    torch.manual_seed(2)
    second = make_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 30}, "model.image_size = 30: expected a positive multiple"),
        ({"enc_dim": 20}, "model.enc_dim = 20: expected a positive multiple of 4 x"),
        ({"dec_depth": 0}, "model.dec_depth = 0: expected at least 1"),
        ({"pos_embed": "rope"}, "model.pos_embed = 'rope': expected cosine or rope100"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_range(fields, message):
    with pytest.raises(CrossviewError, match=message):
        ModelConfig(**{**MICRO, **fields})


def test_weights_of_another_model_are_refused_by_tensor_name():
    with pytest.raises(CrossviewError, match="mask_token has shape"):
        load_weights(make_model(), make_model(dec_dim=32).state_dict(), "file")
    with pytest.raises(CrossviewError, match=r"dec_blocks.2.norm1.weight is missing"):
        load_weights(make_model(), make_model(dec_depth=2).state_dict(), "file")
