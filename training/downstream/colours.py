"""Maps as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray

from generation.geometry import Bool, UInt8
from training.downstream.task import Panels

UNKNOWN_COLOUR = (40, 40, 46)
Values = NDArray[Any]


def scalar_picture(values: Values, low: float, high: float, colours: str = "turbo") -> UInt8:
    """Return an (H, W, 3) picture of (H, W) numbers; unknown (NaN) ones are dark grey."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    picture = (colormaps[colours](np.clip(share, 0, 1))[..., :3] * 255).astype(np.uint8)
    picture[~known] = UNKNOWN_COLOUR
    return picture


def span_of(values: Values) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of the known numbers, (0, 1) where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, (2, 98))
    return float(low), float(high)


def spanning(title: str, values: Values, unit: str) -> str:
    """Return a panel's title that says which range the known numbers span, as span_of has it.

    A prediction beyond the range of the truth's colours has but one colour: this tells how far.
    """
    if not np.isfinite(values).any():
        return title
    low, high = span_of(values)
    return f"{title}, {low:.3g} to {high:.3g} {unit}".rstrip()


def in_one_range(
    truth: Values, found: Values, span: tuple[float, float], unit: str, of: str = ""
) -> Panels:
    """Return the panels of true and predicted (H, W) numbers, in the colours of one range.

    of: goes into the titles, after what they are.
    """
    both = ((f"truth{of}", truth), (f"prediction{of}", found))
    return [
        (spanning(title, values, unit), scalar_picture(values, *span)) for title, values in both
    ]


def error_panel(error: Values, unit: str = "", what: str = "error") -> tuple[str, UInt8]:
    """Return the panel of (H, W) errors, up to a number that 95 % of them do not exceed.

    It is 1, 2 or 5 times a power of ten, so that pictures of several models mostly have one scale.
    """
    known = error[np.isfinite(error)]
    most = float(np.percentile(known, 95)) if len(known) else 0.0
    power = 10.0 ** np.floor(np.log10(most)) if most else 1.0
    limit = next(limit for step in (1, 2, 5, 10) if (limit := step * power) >= most)
    return f"{what} to {limit:g} {unit}".rstrip(), error_picture(error, limit)


def error_picture(error: Values, high: float) -> UInt8:
    """Return an (H, W, 3) picture of (H, W) errors from 0 (black) to high (yellow)."""
    return scalar_picture(error, 0.0, high, "inferno")


def flow_picture(flow: Values, longest: float) -> UInt8:
    """Return an (H, W, 3) picture of an (H, W, 2) flow: hue is direction, saturation length."""
    known: Bool = np.asarray(np.isfinite(flow).all(-1))
    x, y = np.moveaxis(np.where(known[..., None], flow, 0.0), -1, 0)
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    saturation = np.clip(np.hypot(x, y) / max(longest, 1e-12), 0, 1)
    colours = hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], -1))
    picture = (colours * 255).astype(np.uint8)
    picture[~known] = UNKNOWN_COLOUR
    return picture


def flow_key(size: tuple[int, int], longest: float) -> UInt8:
    """Return an (H, W, 3) picture of flow_picture's colours, each where it leads from the middle.

    The longest motions end in the middle of each side.
    """
    height, width = size
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return flow_picture(longest * np.stack([columns, rows], -1), longest)


def label_picture(labels: NDArray[np.int64]) -> UInt8:
    """Return an (H, W, 3) picture of (H, W) classes, each its own colour; unknown ones grey."""
    golden = 0.61803398875  # of a turn: neighbours in number are far apart in hue
    classes = np.maximum(labels, 0)
    hue = (classes * golden) % 1.0
    value = 0.65 + 0.35 * ((classes * 7) % 5) / 4
    colours = hsv_to_rgb(np.stack([hue, np.full(hue.shape, 0.65), value], -1))
    picture = (colours * 255).astype(np.uint8)
    picture[labels < 0] = UNKNOWN_COLOUR
    return picture
