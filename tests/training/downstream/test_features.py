"""Features are the blocks' own tokens, skipped as often as they are told to be."""

import pytest
import torch
from small_network import make_model, random_images
from timm.layers.drop import DropPath
from torch import nn

from training.augment import normalise
from training.downstream.features import (
    EncoderFeatures,
    PairFeatures,
    as_pair_model,
    layers,
    set_drop_path,
)


def kept_outputs(blocks):
    """Return a list that receives what each block returns, by torch's own hooks."""
    kept = []
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: kept.append(output))
    return kept


def test_hooks_are_equally_spaced_and_end_with_the_last_block():
    assert layers(12, 4) == [2, 5, 8, 11]
    assert layers(24, 4) == [5, 11, 17, 23]
    assert layers(4, 4) == [0, 1, 2, 3]
    assert layers(12, 3) == [3, 7, 11]
    assert layers(8, 3) == [1, 4, 7]
    assert layers(2, 4) == [0, 0, 0, 1]
    assert layers(5, 1) == [4]


@pytest.mark.parametrize("pos_embed", ["cosine", "rope100"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_encoder_features_are_what_the_hooked_blocks_return(pos_embed, size):
    model = make_model(pos_embed=pos_embed)
    (images,) = random_images(1, *size)
    features = EncoderFeatures(model, [1, 2, 3])
    kept = kept_outputs(model.enc_blocks)
    with torch.no_grad():
        tokens = features(images)
        assert [each.shape for each in tokens] == [(2, size[0] * size[1] // 64, 32)] * 3
        assert torch.equal(tokens[0], kept[1])
        assert torch.equal(tokens[1], kept[2])
        assert torch.equal(tokens[2], model.enc_norm(kept[3]))
        assert torch.equal(tokens[2], model.encode(normalise(images)))
    assert features.dims == (32, 32, 32)


@pytest.mark.parametrize("decoder", ["cross", "cat"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_pair_features_are_the_encoders_and_what_the_decoders_blocks_return(decoder, size):
    model = make_model(decoder=decoder)
    first, second = random_images(2, *size)
    features = PairFeatures(model)
    kept = kept_outputs(model.dec_blocks)
    with torch.no_grad():
        tokens = features(first, second)
        of_first, of_second = (model.encode(normalise(image)) for image in (first, second))
        grid = size[0] // 8, size[1] // 8
        last = model.decode(of_first, None, of_second, grid=grid)
    expected = [of_first, kept[0][0], kept[1][0], last]
    for found, right in zip(tokens, expected, strict=True):
        torch.testing.assert_close(found, right)
    assert tuple(each.shape[2] for each in tokens) == features.dims == (32, 16, 16, 16)


def test_features_of_both_images_are_those_of_each_looking_at_the_other():
    first, second = random_images(2)
    features = PairFeatures(make_model())
    with torch.no_grad():
        both = features.both(first, second)
        for found, right in zip(both, (features(first, second), features(second, first))):
            for mine, theirs in zip(found, right, strict=True):
                torch.testing.assert_close(mine, theirs)
        assert not torch.allclose(features(first, second)[1], features(first, first)[1], atol=1e-3)


def test_a_model_that_looks_at_the_reference_is_its_own_pair_model():
    for decoder in ("cross", "cat"):
        model = make_model(decoder=decoder)
        assert as_pair_model(model) is model


def test_a_pair_model_of_mae_has_all_of_its_tensors_and_draws_the_rest():
    model = make_model(decoder="self")
    set_drop_path(model, 0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = as_pair_model(model)
        again = as_pair_model(model)
    taken = dict.fromkeys(pair.state_dict(), False)
    for name, tensor in model.state_dict().items():
        block = name.startswith("dec_blocks") and "norm2" in name
        counterpart = name.replace("norm2", "norm3") if block else name
        assert torch.equal(pair.state_dict()[counterpart], tensor), name
        taken[counterpart] = True
    drawn = {name.split(".", 2)[2] for name, found in taken.items() if not found}
    parts = [f"cross_attn.{part}" for part in ("projq", "projk", "projv", "proj")]
    assert drawn == {
        f"{part}.{kind}" for part in [*parts, "norm2", "norm_y"] for kind in ("weight", "bias")
    }
    drawn_anew = "dec_blocks.0.cross_attn.projq.weight"
    assert not torch.equal(pair.state_dict()[drawn_anew], again.state_dict()[drawn_anew])
    assert pair.enc_blocks[3].drop_path1.drop_prob == pytest.approx(0.3)
    mine = {tensor.data_ptr() for tensor in pair.parameters()}
    assert mine.isdisjoint(tensor.data_ptr() for tensor in model.parameters())


def test_without_cross_attention_the_pair_model_of_mae_computes_what_mae_does():
    model = make_model(decoder="self")
    pair = as_pair_model(model)
    for block in pair.dec_blocks:
        nn.init.zeros_(block.cross_attn.proj.weight)
        nn.init.zeros_(block.cross_attn.proj.bias)
    target, reference = random_images(2)
    mask = (torch.arange(16) % 3 > 0).expand(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(pair(target, reference, mask), model(target, reference, mask))


def test_drop_path_rises_from_the_first_block_to_the_last_and_acts_in_training_only():
    model = make_model()
    (images,) = random_images(1)
    features = EncoderFeatures(model, [3])
    whole = features(images)[0]
    set_drop_path(model, 0.3)
    found = [
        (type(block.drop_path1), type(block.drop_path2), getattr(block.drop_path2, "drop_prob", 0))
        for block in model.enc_blocks
    ]
    assert found[0] == (nn.Identity, nn.Identity, 0)
    assert all(entry[:2] == (DropPath, DropPath) for entry in found[1:])
    assert [entry[2] for entry in found] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert torch.equal(features.eval()(images)[0], whole)
    features.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [features(images)[0] for _ in range(8)]
    assert not all(torch.allclose(draw, whole) for draw in draws)
    set_drop_path(model, 0.0)
    assert torch.equal(features(images)[0], whole)


def test_a_skipped_block_leaves_its_input_and_a_kept_one_makes_up_for_it():
    block = make_model().enc_blocks[3]
    tokens = torch.randn(64, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        block.drop_path1, block.drop_path2 = DropPath(0.5), nn.Identity()
        nn.init.zeros_(block.mlp.fc2.weight)  # the attention is all that is left
        change = block.attn(block.norm1(tokens), None)
        found = block.train()(tokens, None) - tokens
    skipped = (found == 0).all(-1).all(-1)
    assert 10 < skipped.sum() < 54
    torch.testing.assert_close(found[~skipped], 2 * change[~skipped])
