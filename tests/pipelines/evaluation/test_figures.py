"""What bars and panels show: drawn from known numbers, and read off the figure again."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipelines.evaluation.figures import Bars, bars_figure, save_panels

FLOW = Bars(
    title="flow",
    axis="epe_px ↓",
    labels=("CroCo", "MAE", "scratch"),
    values=((5.0, 6.0, 7.0), (), (9.0,)),
    constant=8.0,
)


def test_a_bar_is_a_mean_its_whisker_two_standard_errors_its_dots_the_seeds():
    (axes,) = bars_figure([FLOW]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(FLOW.labels)
    first, last = axes.patches
    assert (first.get_width(), last.get_width()) == (6, 9)
    assert [round(bar.get_y() + bar.get_height() / 2, 6) for bar in (first, last)] == [0, 2]
    assert axes.yaxis_inverted()  # the first label is on top
    ((low, high),) = axes.collections[0].get_segments()
    reach = 2 * 1 / np.sqrt(3)  # the deviation is 1
    assert [*low, *high] == pytest.approx([6 - reach, 0, 6 + reach, 0])
    assert len(axes.collections) == 1  # one seed has no whisker
    dots = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[[5, 0], [6, 0], [7, 0]], [[9, 2]]]
    assert (axes.get_title(), axes.get_xlabel()) == ("flow", "epe_px ↓")


def test_a_label_without_numbers_is_called_missing():
    (axes,) = bars_figure([FLOW]).axes
    (missing,) = (text for text in axes.texts if "missing" in text.get_text())
    assert missing.get_position() == (0, 1)


def test_the_constant_answer_is_a_line_named_above_the_bars():
    (axes,) = bars_figure([FLOW]).axes
    (line,) = (line for line in axes.lines if line.get_linestyle() == ":")
    assert list(line.get_xdata()) == [8, 8]
    (name,) = (text for text in axes.texts if text.get_text() == "constant")
    assert name.xy == (8, 1)


def test_panels_stand_side_by_side_in_their_order(tmp_path: Path):
    colours = {"input": (255, 0, 0), "truth": (0, 255, 0), "error": (0, 0, 255)}
    panels = [(name, np.full((32, 48, 3), colour, np.uint8)) for name, colour in colours.items()]
    save_panels(tmp_path / "panels.png", "an example", panels)
    row = (imread(tmp_path / "panels.png")[..., :3] * 255).round().astype(int)
    middle = row[int(len(row) * 0.7)]
    shown = [tuple(map(int, pixel)) for pixel in middle]
    places = [shown.index(colour) for colour in colours.values()]
    assert places == sorted(places)
