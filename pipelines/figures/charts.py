"""What our pages are illustrated with: colours, charts, tinted views."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from generation.files import whole_file
from generation.geometry import Bool, Float64, UInt8

BLUE, ORANGE, GREY = "#2f6fb0", "#d9822b", "#8a8f98"
MODEL_COLOURS = {"croco": BLUE, "mae": ORANGE, "scratch": GREY, "unrelated": "#3d9970"}
"""By the first word of a label, in small letters: the same in every plot."""
OTHER_COLOURS = ("#a0508c", "#7a6a4f", "#b8434e", "#4aa5b5")
"""Of other labels, in their order."""
SEEN_TINT = np.array([64, 224, 160], np.float32)
"""Colour of what the other view sees."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a chart on a light or on a dark page."""

    ink: str
    soft: str
    bars: str


LIGHT = Theme(ink="#1d2430", soft="#667080", bars=BLUE)
DARK = Theme(ink="#e6e9ee", soft="#9aa4b2", bars="#6ea8e0")


def tinted(color: UInt8, seen: Bool) -> UInt8:
    """Return an (H, W, 3) view with what the other view sees in green and the rest in dark grey."""
    grey = color.mean(axis=2, keepdims=True)
    mixed = np.where(seen[..., None], 0.45 * color + 0.55 * SEEN_TINT * grey / 255, 0.45 * grey)
    return mixed.astype(np.uint8)


def colours_of(labels: Sequence[str]) -> list[str]:
    """Return the colour of each label in a plot.

    Variants of a model (CroCo-30-rooms) are lighter than the model. Of labels without a colour of
    their own, numbers have one colour, and so have more of them than there are colours.
    """
    colours = {label: colour for label in labels if (colour := _model_colour(label))}
    others = [label for label in labels if label not in colours]
    one = len(others) > len(OTHER_COLOURS) or any(re.fullmatch(r"[\d.]+", each) for each in others)
    colours |= zip(others, OTHER_COLOURS[:1] * len(others) if one else OTHER_COLOURS)
    return [colours[label] for label in labels]


def _model_colour(label: str) -> str | None:
    name = label.lower()
    model = re.split(r"[^a-z0-9]", name)[0]
    colour = MODEL_COLOURS.get(model)
    return colour if colour is None or name == model else _lighter(colour)


def shades_of(colours: Sequence[str]) -> list[str]:
    """Return colours of which those that stand several times are shades, lighter each time."""
    times, told = Counter(colours), Counter[str]()
    shades = []
    for colour in colours:
        shades.append(_lighter(colour, 0.8 * told[colour] / times[colour]))
        told[colour] += 1
    return shades


def _lighter(colour: str, share: float = 0.5) -> str:
    red, green, blue = (part + share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def histogram_of(
    values: Float64,
    bins: Float64,
    label: str,
    theme: Theme,
    span: tuple[float, float] | None = None,
) -> Figure:
    """Return a small histogram with a line at the median, to be laid on a page of that theme.

    bins: (B + 1,) edges; span: an interval that is marked.
    """
    figure = Figure(figsize=(4.2, 2.3), layout="constrained")
    axes = figure.subplots()
    if span:
        axes.axvspan(*span, color=ORANGE, alpha=0.14, linewidth=0)
    axes.hist(values, bins.tolist(), color=theme.bars, alpha=0.9)
    if len(values):
        median = float(np.median(values))
        axes.axvline(median, color=ORANGE, linewidth=1.5)
        near_end = median > (bins[0] + bins[-1]) / 2
        axes.annotate(
            f"median {median:.3g}",
            (median, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if near_end else 5, 0),
            textcoords="offset points",
            ha="right" if near_end else "left",
            va="top",
            color=theme.ink,
        )
    axes.set_xlabel(label, color=theme.ink)
    axes.set_xlim(float(bins[0]), float(bins[-1]))
    axes.tick_params(colors=theme.soft)
    axes.margins(y=0.25)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.spines[["left", "bottom"]].set_color(theme.soft)
    strip(axes)
    return figure


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of two or more values."""
    return stdev(values) / math.sqrt(len(values))


def strip(axes: Any, values: Literal["x", "y"] = "y") -> None:
    """Leave of a chart's frame only what carries numbers; lines at those of the values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=values, alpha=0.25)
    axes.set_axisbelow(True)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG, whole."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)


def save_png(path: Path, image: UInt8) -> None:
    """Write an (H, W, 3) picture, whole."""
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, "png")
