"""The correspondences of two images, drawn and written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.geometry import Float64
from pipelines.figures.charts import LIGHT, save_figure
from pipelines.figures.square_view import SquareView
from training.cross_attention import match
from training.model.croco import CroCo
from training.pictures import colours_of_places

_DRAWN_HEIGHT = 640
"""Height in pixels to which both images are brought for the drawing."""
_GAP = 24


@dataclass(frozen=True, kw_only=True)
class Matches:
    """n correspondences of two images, the surest first."""

    points1: Float64
    """(n, 2) x and y in pixels of the first image's file, the middles of patches."""
    points2: Float64
    """(n, 2) as points1, of the second image, and between the patches too."""
    confidence: Float64
    """(n,) geometric mean of both directions' attention, in 0..1."""
    colours: Float64
    """(n, 3) of the place in the first image."""


def match_views(model: CroCo, view1: SquareView, view2: SquareView) -> Matches:
    """Return the patches of two images that look at each other more than at any other patch.

    Raises CrossviewError for a model that sees no reference.
    """
    if not model.config.sees_reference:
        raise CrossviewError(
            "this model sees no reference (model.decoder = 'self'), so that it has no "
            "cross-attention to match by: take weights whose model.decoder is cross or cat"
        )
    found = match(model, view1.normalised(), view2.normalised())
    side, patch_size = model.config.grid[0], model.config.patch_size

    def pixels(places: Tensor) -> Float64:
        return (places.numpy()[:, ::-1].astype(np.float64) + 0.5) * patch_size

    return Matches(
        points1=view1.in_original(pixels(found.first)),
        points2=view2.in_original(pixels(found.second)),
        confidence=found.confidence.numpy().astype(np.float64),
        colours=colours_of_places(found.first, side).numpy().astype(np.float64),
    )


def write_matches(view1: SquareView, view2: SquareView, matches: Matches, path: Path) -> Path:
    """Write the drawing, a PNG, and beside it the same as JSON, whose path is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(path, _figure(view1, view2, matches))
    record = {
        "image1": _record(view1),
        "image2": _record(view2),
        "points1": matches.points1.round(2).tolist(),
        "points2": matches.points2.round(2).tolist(),
        "confidence": matches.confidence.round(6).tolist(),
    }
    json_path = path.with_suffix(".json")
    write_text_whole(json_path, json.dumps(record) + "\n")
    return json_path


def _record(view: SquareView) -> dict[str, Any]:
    return {"path": str(view.path), "image_size": list(view.original.shape[:2])}


def _figure(view1: SquareView, view2: SquareView, matches: Matches) -> Figure:
    scales = [_DRAWN_HEIGHT / len(view.original) for view in (view1, view2)]
    images = [_resized(view, scale) for view, scale in zip((view1, view2), scales)]
    width1, width2 = (image.shape[1] for image in images)
    total = width1 + _GAP + width2
    width, heading, margin = 10.0, 0.4, 0.12  # inches
    drawn = (width - 2 * margin) * _DRAWN_HEIGHT / total
    height = drawn + heading + margin
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (margin / width, margin / height, 1 - 2 * margin / width, drawn / height)
    )
    for image, left in zip(images, (0, width1 + _GAP)):
        axes.imshow(image, extent=(left, left + image.shape[1], _DRAWN_HEIGHT, 0))
    axes.set(xlim=(0, total), ylim=(_DRAWN_HEIGHT, 0))
    axes.set_axis_off()
    points1, points2 = matches.points1 * scales[0], matches.points2 * scales[1]
    points2 = points2 + (width1 + _GAP, 0)
    strength = matches.confidence / max(matches.confidence.max(initial=0.0), 1e-12)
    colours = np.column_stack([matches.colours, 0.15 + 0.85 * strength])
    # The surest last, on top of the others.
    lines = np.stack([points1, points2], 1)[::-1]
    axes.add_collection(
        LineCollection(list(lines), colors=colours[::-1], linewidths=(0.4 + 1.6 * strength)[::-1])
    )
    for points in (points1, points2):
        axes.scatter(
            points[::-1, 0],
            points[::-1, 1],
            s=(10 + 34 * strength)[::-1],
            c=colours[::-1],
            edgecolors="white",
            linewidths=0.8,
            zorder=3,
        )
    axes.set_title(
        f"{len(matches.confidence)} patches that look at each other",
        loc="left",
        fontsize=12,
        fontweight="bold",
        color=LIGHT.ink,
    )
    axes.text(
        1,
        1.012,
        "colour: place in the left image; width and opacity: confidence",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=9.5,
        color=LIGHT.soft,
    )
    return figure


def _resized(view: SquareView, scale: float) -> Any:
    height, width = view.original.shape[:2]
    size = (max(1, round(width * scale)), round(height * scale))
    resized = np.asarray(Image.fromarray(view.original).resize(size, Image.Resampling.LANCZOS))
    return (0.72 * resized + 0.28 * 255).astype(np.uint8)
