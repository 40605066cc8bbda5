"""A self-contained page of a run: its pairs, its training, what the model completes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from generation.bounds import require
from generation.errors import first_few
from generation.files import write_text_whole
from generation.geometry import UInt8
from generation.overlap import OverlapBand
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.supersampling import Supersampled
from generation.scenes.sources import SceneSource
from generation.shards.cameras import cameras_of
from generation.shards.reader import ShardIndex, ShardReader
from generation.visibility import seen_pixels
from pipelines.datasets.card import MAX_ROWS
from pipelines.datasets.pair_table import PairTable
from pipelines.figures.charts import BLUE, GREY, ORANGE, save_figure, save_png, strip, tinted
from pipelines.inspection.page import evenly, read_accounts
from pipelines.pages import data_url, render_page
from training.augment import normalise, to_unit_range
from training.checkpoint import load_model
from training.config import PretrainConfig
from training.data import open_split
from training.metrics_log import METRICS_NAME, read_lines
from training.model.croco import CroCo
from training.optim import num_masked
from training.pictures import complete, masked, sheet
from training.validation import ValidationPairs, load_validation_pairs

GALLERY_SIZE = 288
"""Longer side in pixels of the page's example pairs, which are rendered again."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the page shows."""

    num_pairs: int = 6
    """Example pairs."""
    num_completions: int = 8
    """Completed images of held-out scenes."""

    def __post_init__(self) -> None:
        # A completion is shown beside that with another pair's reference, which takes two.
        for name, least in (("num_pairs", 1), ("num_completions", 2)):
            value = getattr(self, name)
            require(value >= least, name, value, f"at least {least}")


def write_report(
    out: Path,
    *,
    title: str,
    index: ShardIndex,
    sources: dict[str, SceneSource],
    pretrain_config: PretrainConfig,
    pretrain_folder: Path,
    config: ReportConfig,
) -> Path:
    """Write report.html, loading nothing from elsewhere, and its pictures beside it as PNG files.

    sources: scene id -> where it comes from; the example pairs are rendered again from them and
    the recorded cameras. pretrain_folder: of a finished run.
    """
    pictures = out / "report"
    pictures.mkdir(parents=True, exist_ok=True)
    table = PairTable.read(index, MAX_ROWS)
    rejections = Counter[str]()
    for account in read_accounts(index).values():
        rejections.update(account.rejections)
    model = load_model(pretrain_folder)
    data = pretrain_config.data
    split = open_split(data)
    held_out = split.val
    hidden = num_masked(pretrain_config.mask.ratio, model.config.num_patches)
    validation = load_validation_pairs(held_out, model.config, config.num_completions, hidden, data)
    lines = read_lines(pretrain_folder / METRICS_NAME)
    final = [line for line in lines if line["kind"] == "val"][-1]
    band = OverlapBand(**index.config["pairs"]["overlap"])

    gallery = _gallery(table, sources, config.num_pairs)
    for number, (_, image) in enumerate(gallery):
        save_png(pictures / f"pair_{number}.png", image)
    completions = _completions(model, validation, config.num_completions)
    save_png(pictures / "completions.png", sheet([*completions.values()]))
    save_figure(pictures / "covisibility.png", _histogram(table, band))
    save_figure(pictures / "losses.png", _loss_curves(lines))
    has_geometry = "geometry_moved" in final
    if has_geometry:
        save_figure(pictures / "geometry.png", _geometry_curve(lines))

    page = render_page(
        "report.html",
        title=title,
        num_pairs=index.num_pairs,
        table=table,
        num_scenes=len(index.scenes),
        num_held_out=len(held_out.scenes),
        num_trained_on=len(split.trained_on_too),
        held_out=first_few(held_out.scenes),
        image_size=index.config["pairs"]["image_size"],
        band=str(band),
        gallery=[
            {"caption": caption, "url": data_url((pictures / f"pair_{number}.png").read_bytes())}
            for number, (caption, _) in enumerate(gallery)
        ],
        picture={path.stem: data_url(path.read_bytes()) for path in sorted(pictures.glob("*.png"))},
        final=final,
        has_geometry=has_geometry,
        rejections=rejections.most_common(),
        proposals=index.num_pairs + rejections.total(),
        model=model.config,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        optim=pretrain_config.optim,
        mask=pretrain_config.mask,
        steps=final["step"],
        completion_columns=[*completions],
    )
    path = out / "report.html"
    write_text_whole(path, page)
    return path


def _gallery(
    table: PairTable, sources: dict[str, SceneSource], count: int
) -> list[tuple[str, UInt8]]:
    """Render example pairs again, the pixels that both views see tinted below each."""
    pairs = ShardReader(table.index)
    renderers: dict[str, Supersampled] = {}
    gallery = []
    for record in map(pairs.record, evenly(table.positions, count).tolist()):
        scene = record["scene"]
        if scene not in renderers:
            renderers[scene] = Supersampled(EmbreeRenderer(sources[scene].load()), 2)
        view1, view2 = (
            renderers[scene].render(camera.resized(_gallery_size(camera.image_size)))
            for camera in cameras_of(record)
        )
        below = [tinted(a.color, seen_pixels(a, b)) for a, b in ((view1, view2), (view2, view1))]
        image = np.concatenate(
            [np.concatenate([view1.color, view2.color], axis=1), np.concatenate(below, axis=1)]
        )
        caption = (
            f"{scene}: co-visibility {record['covisibility']:.2f} "
            f"(1 in 2: {record['covisibility_1_in_2']:.2f}, "
            f"2 in 1: {record['covisibility_2_in_1']:.2f}; "
            f"official {record['covisibility_official']:.2f})"
        )
        gallery.append((caption, image))
    return gallery


def _gallery_size(image_size: tuple[int, int]) -> tuple[int, int]:
    height, width = (round(side * GALLERY_SIZE / max(image_size)) for side in image_size)
    return height, width


def _completions(model: CroCo, pairs: ValidationPairs, count: int) -> dict[str, torch.Tensor]:
    """Return what is shown of held-out pairs, (B, 3, H, W) in 0..1, by the names of columns."""
    rows = torch.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().long()
    truth, reference, other = (
        to_unit_range(images, torch.device("cpu"))
        for images in (*pairs.images[:, rows], pairs.images[1, pairs.shuffled[rows]])
    )
    mask = pairs.masks[rows]
    completed, guessed = (
        complete(model, normalise(truth), normalise(view), mask) for view in (reference, other)
    )
    hidden = masked(truth, mask, model.config.patch_size)
    if not model.config.sees_reference:
        return {"masked target": hidden, "completion": completed, "truth": truth}
    return {
        "masked target": hidden,
        "reference": reference,
        "completion": completed,
        "completion, other reference": guessed,
        "truth": truth,
    }


def _histogram(table: PairTable, band: OverlapBand) -> Figure:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 51).tolist()
    for values, color, label in (
        (table.official, GREY, "official (5 cm neighbours)"),
        (table.covisibility, BLUE, "co-visibility (by visibility)"),
    ):
        axes.hist(values, bins, color=color, alpha=0.8, label=label)
    axes.axvspan(band.low, band.high, color=ORANGE, alpha=0.12, label=f"band {band}")
    axes.set(xlabel="smaller of both directions", ylabel="pairs", xlim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    strip(axes)
    return figure


def _loss_curves(lines: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    train = [line for line in lines if line["kind"] == "train"]
    val = [line for line in lines if line["kind"] == "val"]
    axes.plot(*_series(train, "loss"), color=GREY, linewidth=1, label="training")
    for name, color, reference in (
        ("val_loss_none", GREY, "no reference"),
        ("val_loss_shuffled", ORANGE, "another pair's reference"),
        ("val_loss", BLUE, "true reference"),
    ):
        if name in val[-1]:  # a model that sees no reference has none to compare with
            compared = "val_loss_shuffled" in val[-1]
            label = f"validation, {reference}" if compared else "validation"
            axes.plot(*_series(val, name), color=color, marker="o", markersize=4, label=label)
    axes.set(xlabel="step", ylabel="loss (normalised patches)")
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(1.3, axes.get_ylim()[1]))
    axes.legend(frameon=False)
    strip(axes)
    return figure


def _geometry_curve(lines: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    val = [line for line in lines if "geometry_moved" in line]
    axes.plot(*_series(val, "geometry_moved"), color=BLUE, marker="o", label="moved patches")
    axes.plot(*_series(val, "geometry_all"), color=ORANGE, marker="o", label="all patches")
    last = val[-1]
    for name, color, label in (
        ("geometry_moved_random", BLUE, "moved: a random patch"),
        ("geometry_all_same_position", ORANGE, "all: the same position"),
    ):
        axes.axhline(last[name], color=color, linestyle=":", label=label)
    axes.set(xlabel="step", ylabel="within one patch of the truth", ylim=(0, None))
    axes.legend(frameon=False)
    strip(axes)
    return figure


def _series(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    return [line["step"] for line in lines], [line[name] for line in lines]
