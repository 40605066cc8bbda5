"""Pictures of an evaluation: what was predicted, and who is ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from generation.geometry import UInt8
from pipelines.figures.charts import LIGHT, colours_of, save_figure, standard_error, strip

_COLUMNS = 2


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
    constant: float | None = None
    """What one reaches without looking, where there is such an answer."""


def bars_figure(charts: Sequence[Bars]) -> Figure:
    """Return all charts on one sheet; whiskers are two standard errors.

    A dotted line is what one reaches without looking.
    """
    columns = min(_COLUMNS, len(charts))
    rows = math.ceil(len(charts) / columns)
    tallest = max(len(chart.labels) for chart in charts)
    figure = Figure(figsize=(4.2 * columns, (0.9 + 0.3 * tallest) * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, chart in zip(places, charts):
        _draw(axes, chart)
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    return figure


def _draw(axes: Any, chart: Bars) -> None:
    for place, (values, colour) in enumerate(zip(chart.values, colours_of(chart.labels))):
        if not values:
            axes.text(0, place, " missing", ha="left", va="center", color=LIGHT.soft, fontsize=8)
            continue
        error = 2 * standard_error(values) if len(values) > 1 else None
        axes.barh(place, fmean(values), height=0.62, color=colour, alpha=0.85)
        if error is not None:
            axes.errorbar(
                fmean(values), place, xerr=error, color=LIGHT.ink, capsize=3, linewidth=1.2
            )
        axes.plot(values, [place] * len(values), "o", color=LIGHT.ink, markersize=3, alpha=0.6)
    if chart.constant is not None:
        axes.axvline(chart.constant, color=LIGHT.soft, linestyle=":", linewidth=1.4)
        axes.annotate(
            "constant",
            (chart.constant, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            color=LIGHT.soft,
            fontsize=7,
        )
    axes.set_yticks(range(len(chart.labels)), chart.labels, color=LIGHT.ink, fontsize=9)
    axes.set_ylim(len(chart.labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_title(chart.title, color=LIGHT.ink, fontsize=10, pad=12)
    axes.set_xlabel(chart.axis, color=LIGHT.soft, fontsize=8)
    axes.tick_params(colors=LIGHT.soft)
    strip(axes, values="x")
