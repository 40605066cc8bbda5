"""Models leave for timm, Hugging Face and the published code, and compute there what they did."""

import json
import shlex
import shutil
from itertools import count

import pytest
import timm
import torch
import yaml
from micro import micro_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from generation.errors import CrossviewError
from generation.shards.schema import CONFIG_NAME, INDEX_NAME, SCHEMA_VERSION
from pipelines.cli import main
from pipelines.config import load_yaml
from pipelines.datasets.card import CARD_NAME, scene_licences
from pipelines.pretraining.configuration import pretrain_config
from training.checkpoint import load_model, load_pretrained, stored
from training.export import timm_arguments, timm_weights, write_timm
from training.model.croco import CroCo, ModelConfig, initialise
from training.model.weights import shapes_of
from training.presets import PUBLISHED, preset
from training.trainer import pretrain


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    pretrain(micro_config(dataset), out)
    return out


def random_model(**fields):
    model = CroCo(ModelConfig(**fields))
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


SMALL = {
    "image_size": 48, "patch_size": 8, "enc_dim": 64, "enc_depth": 3, "enc_heads": 2,
    "dec_dim": 16, "dec_depth": 1, "dec_heads": 2, "mlp_ratio": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"enc_depth": 2, "dec_depth": 1},  # of the published size otherwise
        {"enc_depth": 2, "dec_depth": 1, "pos_embed": "rope100"},
        SMALL,
        {**SMALL, "pos_embed": "rope100"},
        {**SMALL, "decoder": "self"},
    ],
)
def test_timm_computes_the_encoders_features(tmp_path, fields):
    model = random_model(**fields)
    path = tmp_path / "encoder.safetensors"
    write_timm(model, path)
    theirs = timm.create_model(**timm_arguments(model.config), checkpoint_path=str(path)).eval()
    size = model.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.encode(images)
        torch.testing.assert_close(theirs.forward_features(images), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs(images), features.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_encoders_have_timms_tensors(name):
    config = ModelConfig(**preset(name)["model"])
    with torch.device("meta"):
        weights = timm_weights(CroCo(config))
        expected = timm.create_model(**timm_arguments(config)).state_dict()
    assert shapes_of(weights) == shapes_of(expected)


@pytest.mark.parametrize("name", ["tiny", *PUBLISHED])
def test_timm_is_told_of_the_images_that_the_encoder_takes(name):
    config = ModelConfig(**preset(name)["model"])
    with torch.device("meta"):
        model = timm.create_model(**timm_arguments(config))
    images = timm.data.resolve_model_data_config(model)
    assert images["input_size"] == (3, config.image_size, config.image_size)
    assert (images["mean"], images["std"]) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def test_the_base_encoder_is_timms_vit_base():
    arguments = timm_arguments(ModelConfig())
    del arguments["pretrained_cfg_overlay"]
    assert arguments == {
        "model_name": "vit_base_patch16_224",
        "fc_norm": False,
        "class_token": False,
        "global_pool": "avg",
        "num_classes": 0,
    }


def test_the_printed_line_makes_the_model_in_timm(run, tmp_path, capsys):
    out = tmp_path / "new" / "encoder.safetensors"
    assert main(["export", "--weights", str(run), "--to", "timm", "--out", str(out)]) == 0
    model = eval(capsys.readouterr().out, {"timm": timm}).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = load_model(run).encode(images)
        torch.testing.assert_close(model.forward_features(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["encoder.safetensors", "model.safetensors"])
def test_an_encoder_alone_is_no_model(run, tmp_path, name):
    assert export(run, tmp_path) == 0  # a model's configuration lies beside it, too
    write_timm(load_model(run), tmp_path / name)
    with pytest.raises(CrossviewError, match=f"{name}: an encoder alone, as export --to timm"):
        load_model(tmp_path / name)


def assert_equal_models(first, second):
    assert first.config == second.config
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_goes_to_the_published_format_and_back(run, tmp_path):
    out = tmp_path / "CroCo.pth"
    assert main(["export", "--weights", str(run), "--to", "published", "--out", str(out)]) == 0
    assert_equal_models(load_model(out), load_model(run))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "model"
    newest = stored(run)[0]
    assert main(["export", "--weights", str(newest), "--to", "safetensors", "--out", str(out)]) == 0
    return out


def test_a_models_folder_loads_by_itself_and_by_its_file(run, folder):
    for path in (folder, str(folder), folder / "model.safetensors"):
        assert_equal_models(CroCo.from_pretrained(path), load_model(run))
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "pretrain.yaml",
    }


def test_the_card_says_what_the_model_learnt_from_and_how_well(run, folder, dataset):
    text = (folder / CARD_NAME).read_text()
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["library_name"] == "crossview"
    assert matter["license"] == "other"  # the test's dataset does not name its scenes
    described = json.loads((run / "run.json").read_text())
    metrics = load_pretrained(run).run["metrics"]
    assert f"| `val_step` | 8 |\n| `val_loss` | {metrics['val_loss']:.6g} |" in text
    assert f"| pairs | {described['train_pairs']} of 3 scenes |" in text
    assert f"`{described['digests']['data']}`" in text
    assert "| steps | 8 of 4 pairs |" in text
    assert str(dataset) not in text


def test_the_cards_command_makes_the_same_run_again(run, folder, dataset, tmp_path, monkeypatch):
    values = load_yaml(folder / "pretrain.yaml")
    values["data"]["path"] = str(dataset)
    assert pretrain_config(values, source="test") == micro_config(dataset)

    command = (folder / CARD_NAME).read_text().split("```sh\n")[1].split("\n```")[0]
    (tmp_path / "pairs").symlink_to(dataset)
    (tmp_path / "pretrain.yaml").write_bytes((folder / "pretrain.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert_equal_models(load_model(tmp_path / "out" / "pretrain"), load_model(run))


@pytest.mark.parametrize("every", [5, 100])
def test_the_card_says_of_which_step_its_metrics_are(dataset, tmp_path, every):
    """Of a run that was stopped a few steps after a validation, or before any."""
    asked = count(1)
    config = micro_config(dataset, optim={"max_steps": 50}, validation={"every_steps": every})
    pretrain(config, tmp_path / "run", stop=lambda: next(asked) > 6)
    assert load_pretrained(tmp_path / "run").run["step"] in range(6, 10)
    assert export(tmp_path / "run", tmp_path / "model") == 0
    said = "| `val_step` | 5 |" if every == 5 else "Not validated yet."
    assert said in (tmp_path / "model" / CARD_NAME).read_text()


def test_a_folder_of_checkpoints_is_described_as_its_run(run, tmp_path):
    assert export(run / "checkpoints", tmp_path) == 0
    assert "| validated on |" in (tmp_path / CARD_NAME).read_text()


def test_a_run_whose_record_is_damaged_has_a_card_without_it(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    assert export(tmp_path / "run", tmp_path / "model") == 0
    assert "run.json: damaged" in capsys.readouterr().err
    card = (tmp_path / "model" / CARD_NAME).read_text()
    assert "| steps | 8 of 4 pairs |" in card
    assert "| validated on |" not in card


def test_no_place_of_a_mixture_is_told(dataset, tmp_path):
    data = {"mixture": [{"path": str(dataset), "weight": 2.0}]}
    pretrain(micro_config(dataset, optim={"max_steps": 1}, data=data), tmp_path / "run")
    assert export(tmp_path / "run", tmp_path / "model") == 0
    config = load_yaml(tmp_path / "model" / "pretrain.yaml")
    assert config["data"]["mixture"][0]["path"] == "pairs-2"
    card = (tmp_path / "model" / CARD_NAME).read_text()
    assert "the dataset in `pairs`, of the mixture in `pairs-2`, and `pretrain.yaml`" in card
    assert str(dataset) not in card + json.dumps(config)


def test_the_licences_are_those_of_the_datasets_scenes(run, dataset, tmp_path):
    scenes = ["procedural:0-9", "hm3d:/data/hm3d"]
    document = {"schema_version": SCHEMA_VERSION, "config": {"scenes": scenes}}
    (dataset / CONFIG_NAME).write_text(json.dumps(document))
    try:
        assert export(run, tmp_path) == 0
    finally:
        (dataset / CONFIG_NAME).unlink()
    lines = "\n".join(f"- {line}" for line in scene_licences(scenes))
    assert f"## Licence\n\n{lines}\n\n" in (tmp_path / CARD_NAME).read_text()


def test_the_licences_are_not_those_of_what_lies_there_now(run, dataset, tmp_path):
    index = dataset / INDEX_NAME
    before = index.read_text()
    document = {"schema_version": SCHEMA_VERSION, "config": {"scenes": ["procedural:0-9"]}}
    (dataset / CONFIG_NAME).write_text(json.dumps(document))
    index.write_text(before + " ")
    try:
        assert export(run, tmp_path) == 0
    finally:
        index.write_text(before)
        (dataset / CONFIG_NAME).unlink()
    text = (tmp_path / CARD_NAME).read_text()
    assert "That of the scenes it was trained on, which the dataset's card names." in text
    assert "license: other" in text


def test_weights_that_a_run_began_with_are_named_and_keep_their_licence(run, dataset, tmp_path):
    config = micro_config(dataset, optim={"max_steps": 1}, init=str(run))
    pretrain(config, tmp_path / "run")
    assert export(tmp_path / "run", tmp_path / "model") == 0
    card = (tmp_path / "model" / CARD_NAME).read_text()
    assert "- That of the weights it began with; CroCo's own are" in card
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert f"| began with | weights of SHA-256 `{described['init_sha256']}` |" in card
    assert "--data pairs --init first-weights --out" in card
    assert str(run) not in card + (tmp_path / "model" / "pretrain.yaml").read_text()


def export(weights, out):
    return main(["export", "--weights", str(weights), "--to", "safetensors", "--out", str(out)])


def test_a_card_that_is_not_ours_stays(run, tmp_path):
    (tmp_path / CARD_NAME).write_text("Mine.\n")
    assert export(run, tmp_path) == 0
    assert (tmp_path / CARD_NAME).read_text() == "Mine.\n"


def test_a_published_model_has_a_card_too(run, tmp_path):
    main(["export", "--weights", str(run), "--to", "published", "--out", f"{tmp_path}/CroCo.pth"])
    assert export(tmp_path / "CroCo.pth", tmp_path / "model") == 0
    assert "CroCo's own are under CC BY-NC-SA 4.0" in (tmp_path / "model" / CARD_NAME).read_text()
    assert_equal_models(load_model(tmp_path / "model"), load_model(run))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: expected the model's configuration"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json: not a model's config"),
        (lambda f: shorten(f / "model.safetensors"), "model.safetensors: damaged tensors"),
        (lambda f: other_depth(f), "model.safetensors: of another model: enc_blocks.1"),
    ],
)
def test_a_spoilt_folder_is_refused(run, tmp_path, spoil, message, capsys):
    assert export(run, tmp_path) == 0
    spoil(tmp_path)
    with pytest.raises(CrossviewError, match=message):
        load_model(tmp_path)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_depth(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["enc_depth"] = 1
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("timm", "encoder.pth", "encoder.pth: expected a name that ends in .safetensors"),
        ("safetensors", "file", "file: File exists"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(run, tmp_path, capsys, to, out, message):
    (tmp_path / "file").write_text("")
    status = main(["export", "--weights", str(run), "--to", to, "--out", str(tmp_path / out)])
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("to", ["timm", "published"])
def test_a_full_disk_is_said_and_leaves_nothing(run, tmp_path, monkeypatch, capsys, to):
    monkeypatch.setattr("generation.files.secrets.token_hex", lambda size: "x")
    (tmp_path / ".model.safetensors.x.partial").symlink_to("/dev/full")
    out = tmp_path / "model.safetensors"
    assert main(["export", "--weights", str(run), "--to", to, "--out", str(out)]) == 2
    assert f"{out}: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
