"""Colours, and how fields of numbers become images."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from generation.geometry import Bool, Float32, UInt8

Color = tuple[float, float, float]
"""Red, green and blue, each 0 to 255."""


def ramp(field: NDArray[np.floating], stops: list[Color]) -> Float32:
    """Map an (H, W) field in 0..1 to (H, W, 3) colours between evenly spaced stops."""
    where = np.linspace(0, len(stops) - 1, 256)
    channels = np.array(stops, np.float32).T
    table = np.stack([np.interp(where, range(len(stops)), channel) for channel in channels], 1)
    index = np.clip(field * 255, 0, 255).astype(np.uint8)
    colors: Float32 = table.astype(np.float32)[index]
    return colors


def to_bytes(colors: NDArray[np.floating]) -> UInt8:
    """Return (H, W, 3) colours as a texture image."""
    return np.clip(colors + 0.5, 0, 255).astype(np.uint8)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Return the colour of hue (turns), saturation and value (0 to 1)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (255 * red, 255 * green, 255 * blue)


def random_hue(rng: np.random.Generator) -> float:
    """Return any hue, in turns; the warm ones and the blues of lived-in rooms more often."""
    kind, share = rng.random(2)
    if kind < 0.4:
        return float(0.17 * share)
    return float(0.52 + 0.14 * share) if kind < 0.6 else float(share)


def random_color(
    rng: np.random.Generator,
    *,
    saturation: tuple[float, float] = (0.2, 0.75),
    value: tuple[float, float] = (0.45, 0.95),
) -> Color:
    """Return a colour within ranges of saturation and value."""
    s, v = rng.random(2)
    return hsv(
        random_hue(rng),
        saturation[0] + s * (saturation[1] - saturation[0]),
        value[0] + v * (value[1] - value[0]),
    )


def random_palette(rng: np.random.Generator, count: int) -> list[Color]:
    """Return colours that differ in brightness and mostly keep to two hues."""
    hue, spread = random_hue(rng), rng.uniform(0.25, 0.6)
    colors = []
    for i in range(count):
        turn = hue + (spread if rng.random() < 0.35 else 0.0) + rng.uniform(-0.07, 0.07)
        saturation = rng.uniform(0.08, 0.5) if rng.random() < 0.75 else rng.uniform(0.5, 0.85)
        colors.append(hsv(turn, saturation, 0.35 + 0.62 * (i + rng.random()) / count))
    rng.shuffle(colors)
    return colors


def shaded(color: Color, factor: float) -> Color:
    """Return a lighter or darker colour."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def wood_stops(rng: np.random.Generator) -> list[Color]:
    """Return a wood's colours from its grain to its lights."""
    base = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.2, 0.65), rng.uniform(0.6, 0.9))
    return [shaded(base, 0.42), shaded(base, 0.85), shaded(base, 1.3)]


def darkened(colors: Float32, where: Bool, factor: float) -> Float32:
    """Scale the colours in a mask, in place, and return them."""
    colors[where] *= np.float32(factor)
    return colors


def ink(color: Color) -> tuple[int, int, int]:
    """Return a colour as PIL takes it."""
    red, green, blue = (min(255, max(0, int(c))) for c in color)
    return (red, green, blue)
