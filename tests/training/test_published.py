"""Published checkpoints, and whatever else holds a model, load; and ours load as published."""

import argparse
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from generation.errors import CrossviewError
from training.checkpoint import load_model, load_pretrained, save
from training.model.croco import CroCo, ModelConfig, initialise
from training.presets import PUBLISHED, preset
from training.published import write_published

REFERENCE = Path(__file__).parents[3] / "shared" / "croco_reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"no outputs of the published model at {REFERENCE}"
)
OFFICIAL = {
    "croco_v1": "CroCo.pth (v1: ViT-B encoder, small decoder, cosine)",
    "croco_v2_base_small_decoder": "CroCo_V2_ViTBase_SmallDecoder.pth",
    "croco_v2_base": "CroCo_V2_ViTBase_BaseDecoder.pth",
    "croco_v2_large": "CroCo_V2_ViTLarge_BaseDecoder.pth",
}


def official(name):
    return json.loads((REFERENCE / "official_tensor_shapes.json").read_text())[OFFICIAL[name]]


def reference(name):
    """Return a published tiny model's arguments, tensors, and the other arrays."""
    arguments = json.loads((REFERENCE / f"{name}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(REFERENCE / f"{name}.npz").items()}
    weights = {k[11:]: arrays.pop(k) for k in list(arrays) if k.startswith("state_dict/")}
    return arguments, weights, arrays


def assert_computes_the_published(model, arrays):
    with torch.no_grad():
        inputs = (arrays[name] for name in ("target_image", "reference_image", "mask"))
        prediction = model(*inputs)
    torch.testing.assert_close(prediction, arrays["prediction"], atol=1e-5, rtol=1e-5)


@needs_reference
@pytest.mark.parametrize("name", ["cosine", "rope100"])
def test_a_published_checkpoint_computes_what_the_published_code_does(tmp_path, name):
    arguments, weights, arrays = reference(name)
    namespace = argparse.Namespace(model="CroCoNet()", lr=None, epochs=400)
    contents = {"model": weights, "croco_kwargs": arguments, "args": namespace, "epoch": 399}
    torch.save(contents, tmp_path / "CroCo.pth")
    assert_computes_the_published(CroCo.from_pretrained(tmp_path / "CroCo.pth"), arrays)


@needs_reference
@pytest.mark.parametrize("name", ["cosine", "rope100"])
def test_ours_is_written_as_the_published_code_reads_it(tmp_path, name):
    arguments, weights, arrays = reference(name)
    torch.save({"model": weights, "croco_kwargs": arguments}, tmp_path / "theirs.pth")
    write_published(load_model(tmp_path / "theirs.pth"), tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert ours["croco_kwargs"].items() >= arguments.items()
    assert ours["model"].keys() == weights.keys()
    assert all(torch.equal(ours["model"][key], weights[key]) for key in weights)
    assert_computes_the_published(load_model(tmp_path / "ours.pth"), arrays)


def write_of_official_shapes(name, path, **others):
    """Write a file of a published checkpoint's form and shapes, in few bytes."""
    tensors = {
        key: torch.zeros(1).expand(shape) for key, shape in official(name)["tensors"].items()
    }
    torch.save({"model": tensors, "args": argparse.Namespace(output_dir="out"), **others}, path)


@needs_reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_loads_into_the_matching_preset(tmp_path, name):
    expected = ModelConfig(**preset(name)["model"])
    write_of_official_shapes(name, tmp_path / "by_tensors.pth")
    arguments = official(name)["config"]
    write_of_official_shapes(name, tmp_path / "by_arguments.pth", croco_kwargs=arguments)
    for file in ("by_tensors.pth", "by_arguments.pth"):
        found = load_pretrained(tmp_path / file)
        assert found.kind == "published"
        assert found.model.config == expected


@pytest.mark.parametrize(
    ("call", "changes"),
    [
        ("CroCoNet()", {}),
        (  # the shapes of croco_v2_base, which has 12 heads in the decoder and sees 224 pixels
            "CroCoNet(img_size=448, pos_embed='RoPE100', dec_embed_dim=768, dec_depth=12)",
            {"image_size": 448, "pos_embed": "rope100", "dec_dim": 768, "dec_depth": 12},
        ),
        (  # a cosine ViT-L, of which there is none published
            "CroCoNet(enc_embed_dim=1024, enc_num_heads=16, enc_depth=24)",
            {"enc_dim": 1024, "enc_heads": 16, "enc_depth": 24},
        ),
    ],
)
def test_what_the_published_code_trained_is_built_from_its_command_line(tmp_path, call, changes):
    config = ModelConfig(**changes)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CroCo(config).state_dict().items()}
    weights = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    namespace = argparse.Namespace(model=call, output_dir="out", lr=None, epochs=400)
    torch.save({"model": weights, "args": namespace, "epoch": 399}, tmp_path / "checkpoint.pth")
    assert load_model(tmp_path / "checkpoint.pth").config == config


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("AsymmetricCroCo3DStereo(enc_depth=24)", "expected CroCoNet"),
        ("CroCoNet(", "expected CroCoNet"),
        ("CroCoNet(224)", "expected CroCoNet"),
        ("CroCoNet(enc_depth=__import__('os').getpid())", "expected CroCoNet"),
        ("CroCoNet(**{'enc_depth': 24})", "None = .*: expected img_size, "),
        ("CroCoNet(pos_embed='RoPE10')", "pos_embed = 'RoPE10': expected "),
    ],
)
def test_other_models_on_the_command_line_are_refused(tmp_path, call, reason):
    contents = {"model": {"mask_token": torch.zeros(1)}, "args": argparse.Namespace(model=call)}
    torch.save(contents, tmp_path / "model.pth")
    with pytest.raises(CrossviewError, match=rf"model.pth: args\.model.*{reason}"):
        load_model(tmp_path / "model.pth")


@needs_reference
def test_names_of_a_wrapped_model_are_ours_and_files_of_an_old_torch_are_read(tmp_path):
    arguments, weights, arrays = reference("cosine")
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    contents = {"model": wrapped, "croco_kwargs": arguments}
    torch.save(contents, tmp_path / "wrapped.pth")
    torch.save(contents, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("wrapped.pth", "old.pth"):
        assert_computes_the_published(load_model(tmp_path / name), arrays)


@needs_reference
def test_another_shape_is_refused_by_tensor(tmp_path):
    path = tmp_path / "model.pth"
    write_of_official_shapes("croco_v1", path, croco_kwargs={"dec_embed_dim": 768})
    with pytest.raises(
        CrossviewError, match=r"model.pth: of another model: .*mask_token has shape"
    ):
        load_model(path)
    arguments, weights, _ = reference("rope100")
    torch.save({"model": weights}, path)
    with pytest.raises(CrossviewError, match=r"without croco_kwargs, expected the tensors of cro"):
        load_model(path)
    torch.save({"model": weights, "croco_kwargs": {**arguments, "pos_embed": "RoPE10"}}, path)
    with pytest.raises(CrossviewError, match=r"croco_kwargs.pos_embed = 'RoPE10': expected "):
        load_model(path)
    torch.save({"model": weights, "croco_kwargs": {**arguments, "img_size": 65}}, path)
    with pytest.raises(
        CrossviewError, match=r"croco_kwargs: model.image_size = 65: expected a pos"
    ):
        load_model(path)


class Payload:
    """Makes a folder when unpickled by something that runs what it is told."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_malicious_file_is_run(tmp_path, legacy):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    namespace = argparse.Namespace(lr=Payload(made))
    contents = {"model": {"mask_token": torch.zeros(1)}, "args": namespace}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CrossviewError, match=r"evil.pth: holds posix.mkdir, which would run code"):
        load_model(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # so it was a real one


@pytest.mark.parametrize("contents", [b"", b"no checkpoint", pickle.dumps([1, 2], protocol=2)])
def test_other_files_are_refused(tmp_path, contents):
    (tmp_path / "file.pth").write_bytes(contents)
    with pytest.raises(CrossviewError, match=r"file.pth: "):
        load_model(tmp_path / "file.pth")


def test_decoders_that_the_published_code_has_not_are_refused(tmp_path):
    model = CroCo(ModelConfig(image_size=16, enc_depth=1, dec_depth=1, decoder="self"))
    with pytest.raises(CrossviewError, match=r"model.decoder = 'self': the published format has"):
        write_published(model, tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_ours_goes_to_the_published_format_and_back(tmp_path):
    config = ModelConfig(
        image_size=16, patch_size=8, enc_dim=16, enc_depth=1, enc_heads=2, dec_dim=8, dec_heads=2,
        dec_depth=1, mlp_ratio=2.0, pos_embed="rope100",
    )  # fmt: skip
    model = CroCo(config)
    initialise(model, torch.Generator().manual_seed(0))
    run = {"config": {"model": vars(config)}, "digests": {}, "metrics": {}}
    save(tmp_path, 1, {**run, "model": model.state_dict()}, keep=1)
    write_published(load_model(tmp_path), tmp_path / "model.pth")
    again = load_model(tmp_path / "model.pth")
    assert again.config == config
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
