"""A model's README.md: what it is, what it learnt from and how well, and how to make it again.

Its front matter is that of Hugging Face model cards, so that the folder, uploaded as it stands, is
a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from generation.files import file_sha256, write_text_whole
from generation.shards.schema import CONFIG_NAME, INDEX_NAME, ShardError, read_config
from pipelines.config import dump_yaml
from pipelines.datasets.card import CARD_NAME, GENERATED, MARK, scene_licences
from pipelines.tables import facts_table
from training.checkpoint import Pretrained
from training.data import source_names
from training.model.croco import CroCo
from training.model_folder import write_model_folder
from training.provenance import RUN_NAME, described_run
from training.run_card import validated_on

RECIPE_NAME = "pretrain.yaml"
"""The run's configuration, without where its data lay."""

CROCO = (
    "CroCo completes a masked view of a scene from the rest of it and from a second view. The "
    "encoder gives features for 3D tasks; the decoder's cross-attention finds where the second "
    "view shows the same."
)
MAE = "A masked autoencoder: it completes a masked view of a scene from the rest of it."


def write_documented_folder(pretrained: Pretrained, weights: Path, folder: Path) -> None:
    """Write a model's folder with its card, and for a run's model with its configuration.

    weights: where the model was loaded from; what run.json there says of the data is in the card. A
    README.md that is not ours stays.
    """
    write_model_folder(pretrained.model, folder)
    if pretrained.kind == "run":
        write_text_whole(folder / RECIPE_NAME, dump_yaml(_recipe(pretrained.run["config"])))
    card = folder / CARD_NAME
    if not card.exists() or MARK in card.read_text(errors="replace"):
        write_text_whole(card, card_text(pretrained, _described_run(weights)))


def card_text(pretrained: Pretrained, described: dict[str, Any]) -> str:
    """Return the card's text; described: what run.json says, or nothing."""
    model = pretrained.model
    licence_lines = _licences(pretrained)
    parts = [
        "---\n" + dump_yaml(_front_matter(model, licence_lines)) + "---",
        MARK,
        f"# {_title(model)}",
        CROCO if model.config.sees_reference else MAE,
        facts_table(_facts(model)),
        "## Using it",
        "Images are RGB in 0 to 1, less `image_mean`, over `image_std` of `config.json`; height "
        f"and width are any multiples of {model.config.patch_size}.",
        "```python\nfrom training.model.croco import CroCo\n\n"
        'model = CroCo.from_pretrained("path/of/this/folder")\n'
        "features = model.encode(images)  # (batch, patches, channels)\n```",
        "`crossview export --to timm` writes the encoder for timm.",
    ]
    if pretrained.kind == "run":
        parts += _training(pretrained.run, described)
    parts += ["## Licence", "\n".join(f"- {line}" for line in licence_lines)]
    if pretrained.kind == "run":
        config = pretrained.run["config"]
        parts += [
            "## Making it again",
            f"With crossview {metadata.version('crossview')}, the dataset in `pairs`"
            f"{''.join(f', of the mixture in `{place}`' for place in _places_of_mixture(config))}, "
            f"{'the weights it began with in `first-weights`, ' if config.get('init') else ''}"
            f"and `{RECIPE_NAME}` of this folder:",
            f"```sh\n{_command(config)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _title(model: CroCo) -> str:
    config = model.config
    name = "CroCo" if config.sees_reference else "MAE"
    size, patch = config.image_size, config.patch_size
    return f"{name}: {config.enc_depth} x {config.enc_dim}, {size} pixels in patches of {patch}"


def _front_matter(model: CroCo, licences: list[str]) -> dict[str, Any]:
    ours = licences == [GENERATED]
    return {
        "library_name": "crossview",
        "pipeline_tag": "image-feature-extraction",
        **({"license": "apache-2.0"} if ours else {"license": "other"}),
        **({} if ours else {"license_name": "licences-of-the-data"}),
        "tags": ["croco", "cross-view-completion", "self-supervised", "vision-transformer", "3d"]
        if model.config.sees_reference
        else ["mae", "masked-autoencoder", "self-supervised", "vision-transformer"],
    }


def _facts(model: CroCo) -> Iterator[tuple[str, str]]:
    config = model.config
    yield "parameters", f"{sum(p.numel() for p in model.parameters()) / 1e6:,.1f} M"
    for part, dim, depth, heads in (
        ("encoder", config.enc_dim, config.enc_depth, config.enc_heads),
        (f"decoder ({config.decoder})", config.dec_dim, config.dec_depth, config.dec_heads),
    ):
        yield part, f"{depth} blocks of {dim} channels, {heads} heads"
    positions = {"cosine": "fixed sine-cosine", "rope100": "rotary (RoPE), base 100"}
    yield "positions", positions[config.pos_embed]


def _training(run: dict[str, Any], described: dict[str, Any]) -> Iterator[str]:
    optim = run["config"]["optim"]
    rows = [("steps", f"{run['step']:,} of {optim['batch_size']:,} pairs")]
    if described:
        scenes = len(described["train_scenes"])
        rows.append(("pairs", f"{described['train_pairs']:,} of {scenes:,} scenes"))
        rows.append(("validated on", validated_on(described)))
        rows.append(("precision", described["precision"]))
        versions = [f"{name} {version}" for name, version in described["versions"].items()]
        rows.append(("versions", ", ".join(versions)))
        if described.get("init_sha256"):
            rows.append(("began with", f"weights of SHA-256 `{described['init_sha256']}`"))
        if described.get("git_commit"):
            rows.append(("commit", described["git_commit"]))
    rows += [(f"SHA-256 of the index of {n}", f"`{d}`") for n, d in run["digests"].items()]
    yield "## Training"
    yield facts_table(iter(rows))
    yield "## Metrics"
    if not run["metrics"]:
        yield "Not validated yet."
        return
    yield "`val_loss` is the mean squared error of hidden, normalised patches in validation."
    yield facts_table((f"`{name}`", _number(value)) for name, value in run["metrics"].items())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _licences(pretrained: Pretrained) -> list[str]:
    if pretrained.kind != "run":
        return ["That of the weights it was made from; CroCo's own are under CC BY-NC-SA 4.0."]
    data, digests = pretrained.run["config"]["data"], pretrained.run["digests"]
    folders = [data["path"], *(source["path"] for source in data.get("mixture", ()))]
    lines = [
        line
        for name, folder in zip(source_names(len(folders)), folders)
        for line in _licences_of(Path(folder), digests.get(name))
    ]
    if pretrained.run["config"].get("init"):
        lines.append("That of the weights it began with; CroCo's own are under CC BY-NC-SA 4.0.")
    return list(dict.fromkeys(lines))


def _licences_of(dataset: Path, digest: str | None) -> list[str]:
    """Return what holds of a dataset's scenes, if its index is still the one with this digest.

    Where it is not, or does not name its scenes: who does.
    """
    try:
        if file_sha256(dataset / INDEX_NAME) == digest:
            return scene_licences(read_config(dataset / CONFIG_NAME)["scenes"])
    except (OSError, ShardError, KeyError):
        pass
    return ["That of the scenes it was trained on, which the dataset's card names."]


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    places = ("path", "val_path", "cache_dir")
    data = {name: value for name, value in config["data"].items() if name not in places}
    if data.get("mixture"):
        places_now = _places_of_mixture(config)
        data["mixture"] = [{**p, "path": place} for p, place in zip(data["mixture"], places_now)]
    return {**config, "data": data, "init": None}


def _places_of_mixture(config: dict[str, Any]) -> list[str]:
    return [f"pairs-{number}" for number, _ in enumerate(config["data"].get("mixture", ()), 2)]


def _command(config: dict[str, Any]) -> str:
    elsewhere = " --val-data held-out-pairs" if config["data"].get("val_path") else ""
    first = " --init first-weights" if config.get("init") else ""
    return (
        f"crossview pretrain --config {RECIPE_NAME} --data pairs{elsewhere}{first} "
        "--out out/pretrain"
    )


def _described_run(weights: Path) -> dict[str, Any]:
    """Return what run.json says of the run that these weights lie in; nothing where none is."""
    for folder in (weights, weights.parent, weights.parent.parent):
        if (folder / RUN_NAME).is_file():
            return described_run(folder) or {}
    return {}
