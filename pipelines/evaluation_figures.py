"""Pictures of an evaluation: what was predicted, and who is ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from generation.geometry import UInt8
from pipelines.figures import LIGHT, PALETTE, save_figure, strip

_COLUMNS = 3


def save_panels(path: Path, title: str, panels: Sequence[tuple[str, UInt8]]) -> None:
    """Write titled pictures side by side as a PNG."""
    height, width = panels[0][1].shape[:2]
    inches = 2.4
    figure = Figure(
        figsize=(inches * len(panels), inches * height / width + 0.55), layout="constrained"
    )
    figure.suptitle(title, fontsize=8, color=LIGHT.soft)
    for axes, (name, picture) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        axes.imshow(picture)
        axes.set_title(name, fontsize=9, color=LIGHT.ink)
        axes.set_axis_off()
    save_figure(path, figure)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One chart: a bar for each label, a dot for each seed."""

    title: str
    axis: str
    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """Of each label, one a seed; none where it is missing."""


def bars_figure(charts: Sequence[Bars]) -> Figure:
    """Return all charts on one sheet; whiskers are two standard errors."""
    columns = min(_COLUMNS, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, chart in zip(places, charts):
        _draw(axes, chart)
    for axes in list(places)[len(charts) :]:
        axes.set_axis_off()
    return figure


def _draw(axes: Any, chart: Bars) -> None:
    for place, values in enumerate(chart.values):
        if not values:
            axes.text(place, 0, "missing", ha="center", va="bottom", color=LIGHT.soft, fontsize=8)
            continue
        error = 2 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        colour = PALETTE[place % len(PALETTE)]
        axes.bar(place, fmean(values), width=0.62, color=colour, alpha=0.85)
        if error is not None:
            axes.errorbar(place, fmean(values), error, color=LIGHT.ink, capsize=4, linewidth=1.2)
        axes.plot([place] * len(values), values, "o", color=LIGHT.ink, markersize=3, alpha=0.6)
    axes.set_xticks(range(len(chart.labels)), chart.labels, color=LIGHT.ink, fontsize=9)
    axes.set_title(chart.title, color=LIGHT.ink, fontsize=10)
    axes.set_ylabel(chart.axis, color=LIGHT.soft, fontsize=8)
    axes.tick_params(colors=LIGHT.soft)
    strip(axes)
