"""Tileable textures of cloth, metal, pottery and leaves: what furniture is made of."""

from __future__ import annotations

import numpy as np

from generation.geometry import UInt8
from generation.scenes.procedural.noise import (
    Shape,
    cell_grid,
    fractal_noise,
    grain_noise,
    value_noise,
)
from generation.scenes.procedural.palette import (
    darkened,
    hsv,
    ramp,
    random_color,
    random_palette,
    shaded,
    to_bytes,
    wood_stops,
)


def weave(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint coarse cloth: uneven threads over and under, with stains of dye."""
    threads = int(rng.integers(40, 80))
    _, _, row, column = cell_grid(shape, threads, threads)
    over = (row + column) % 2
    warp_tone = rng.uniform(-0.2, 0.2, threads).astype(np.float32)
    weft_tone = rng.uniform(-0.2, 0.2, threads).astype(np.float32)
    tone = np.where(over == 1, warp_tone[column], weft_tone[row]) + 0.12 * over
    dye = fractal_noise(rng, shape, cells=(3, 3), octaves=5, fade=0.8)
    base = random_color(rng, saturation=(0.2, 0.75), value=(0.6, 0.95))
    return to_bytes(ramp(0.5 + tone + 0.22 * dye, [shaded(base, 0.5), base, shaded(base, 1.4)]))


def linen(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint pale cloth with woven stripes and creases."""
    base = random_color(rng, saturation=(0.02, 0.25), value=(0.88, 1.0))
    stripes = rng.choice([0.0, -0.3], int(rng.integers(10, 30)), p=[0.7, 0.3])
    stripe = stripes[np.arange(shape[1]) * len(stripes) // shape[1]].astype(np.float32)
    creases = np.abs(fractal_noise(rng, shape, cells=(4, 4), octaves=4))
    threads = 0.08 * grain_noise(rng, shape)
    field = 0.65 + stripe + threads + 0.45 * creases - 0.2
    return to_bytes(ramp(field, [shaded(base, 0.5), base, shaded(base, 1.1)]))


def plaid(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a tartan of crossing bands."""
    palette = np.array(random_palette(rng, 5), np.float32)
    fabric = np.zeros((*shape, 3), np.float32)
    for axis, size in enumerate(shape):
        edges = np.sort(rng.integers(0, size, int(rng.integers(8, 20))))
        band = np.searchsorted(edges, np.arange(size)) % len(edges)
        lines = palette[rng.integers(0, 5, len(edges))[band]]
        fabric += 0.5 * (lines[:, None] if axis == 0 else lines[None])
    y, x, _, _ = cell_grid(shape, 1, 1)
    twill = 1 + 0.12 * (((x + y) // 2) % 2) + 0.1 * fractal_noise(rng, shape, octaves=6)
    return to_bytes(fabric * twill[..., None])


def knit(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint knitted rows of V stitches with a jacquard pattern."""
    rows = int(rng.integers(24, 40))
    y, x, _, column = cell_grid(shape, rows, rows)
    lean = np.abs((x * rows / shape[1]) % 1 - 0.5)
    row = ((y * rows / shape[0]) + lean).astype(int) % rows
    shade = 0.75 + 0.35 * (((y * rows / shape[0]) + lean) % 1)
    palette = np.array(random_palette(rng, 4), np.float32) + 25
    half = rows // 2 + 1
    figure = rng.integers(0, 4, (rows, half)) * (rng.random((rows, 1)) < 0.7)
    stitch = figure[row, np.minimum(column, rows - 1 - column) % half]
    return to_bytes(palette[stitch] * shade[..., None])


def carpet(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint pile with footworn clouds and coloured flecks."""
    clouds = fractal_noise(rng, shape, cells=(3, 3), octaves=6, fade=0.8)
    pile = 0.22 * grain_noise(rng, shape)
    base = random_color(rng, saturation=(0.05, 0.5), value=(0.55, 0.85))
    colors = ramp(0.5 + 0.26 * clouds + pile, [shaded(base, 0.45), base, shaded(base, 1.45)])
    flecks = value_noise(rng, shape, (shape[0] // 4, shape[1] // 4)) > 0.72
    fleck_color = np.array(random_color(rng), np.float32)
    return to_bytes(np.where(flecks[..., None], fleck_color, colors))


def wicker(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint plaited cane."""
    count = int(rng.integers(12, 24))
    y, x, row, column = cell_grid(shape, count, count)
    rise, run = (y * count / shape[0]) % 1, (x * count / shape[1]) % 1
    over = (row + column) % 2 == 0
    bulge = np.where(over, 1 - np.abs(rise * 2 - 1), 1 - np.abs(run * 2 - 1))
    tone = rng.uniform(-0.2, 0.2, (count, count)).astype(np.float32)[row, column]
    return to_bytes(ramp(0.2 + 0.6 * bulge + tone, wood_stops(rng)))


def metal(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint brushed metal with scratches."""
    brush = fractal_noise(rng, shape, cells=(64, 2), octaves=3, fade=0.9)
    clouds = fractal_noise(rng, shape, cells=(3, 3), octaves=4)
    tint = random_color(rng, saturation=(0.02, 0.25), value=(0.6, 0.85))
    stops = [shaded(tint, 0.55), tint, shaded(tint, 1.35)]
    return to_bytes(ramp(0.5 + 0.25 * brush + 0.25 * clouds, stops))


def painted(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint brushed-on colour, chipped down to an older coat."""
    brush = fractal_noise(rng, shape, cells=(24, 3), octaves=4, fade=0.85)
    chips = fractal_noise(rng, shape, cells=(9, 9), octaves=5, fade=0.8) > 1.25
    strength = 0.75 if rng.random() < 0.3 else 0.22
    base = random_color(rng, saturation=(0.02, strength), value=(0.8, 1.0))
    colors = ramp(0.5 + 0.32 * brush, [shaded(base, 0.72), base, shaded(base, 1.2)])
    older = np.array(shaded(base, 0.55), np.float32)
    return to_bytes(np.where(chips[..., None], older, colors))


def glazed(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint pottery: bands, dots and runs of glaze."""
    palette = np.array(random_palette(rng, 5), np.float32) * 0.8 + 45
    bands = palette[rng.integers(0, 5, 14)[np.arange(shape[0]) * 14 // shape[0]]][:, None]
    dots = value_noise(rng, shape, (14, 14)) > 0.35
    colors = np.where(dots[..., None], palette[int(rng.integers(5))], bands)
    return to_bytes(colors * (1 + 0.12 * fractal_noise(rng, shape))[..., None])


def foliage(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a leaf along u: midrib, side veins and mottled green."""
    y, x, _, _ = cell_grid(shape, 1, 1)
    side = np.abs(y / shape[0] - 0.5)
    veins = (x / shape[1] * 9 - side * 6) % 1 < 0.14
    mottle = fractal_noise(rng, shape, cells=(5, 5), octaves=5, fade=0.8)
    base = hsv(rng.uniform(0.2, 0.4), rng.uniform(0.45, 0.8), rng.uniform(0.55, 0.8))
    colors = ramp(0.5 + 0.35 * mottle, [shaded(base, 0.45), base, shaded(base, 1.4)])
    return to_bytes(darkened(colors, veins | (side < 0.03), 1.4))


def cork(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint granules of cork (or, in other colours, rough felt)."""
    granules = value_noise(rng, shape, (shape[0] // 6, shape[1] // 6))
    coarse = fractal_noise(rng, shape, cells=(6, 6), octaves=5, fade=0.85)
    base = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.35, 0.6), rng.uniform(0.65, 0.85))
    stops = [shaded(base, 0.4), base, shaded(base, 1.3)]
    return to_bytes(ramp(0.5 + 0.3 * granules + 0.2 * coarse, stops))
