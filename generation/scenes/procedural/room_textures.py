"""Tileable textures of floors, walls and boards, each a pure function of a generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from generation.geometry import UInt8
from generation.scenes.procedural.noise import (
    Shape,
    cell_grid,
    fractal_noise,
    grain_noise,
    value_noise,
)
from generation.scenes.procedural.palette import (
    Color,
    darkened,
    hsv,
    ink,
    ramp,
    random_color,
    random_palette,
    shaded,
    to_bytes,
    wood_stops,
)


def planks(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint floor boards along u, each with its own tone and grain."""
    rows = int(rng.integers(6, 13)) * max(1, shape[0] // 512)
    y, x, row, _ = cell_grid(shape, rows, 1)
    boards = int(rng.integers(2, 5))
    shift = rng.integers(0, shape[1], rows)[row]
    board = row * boards + ((x + shift) % shape[1]) * boards // shape[1]
    tone = rng.uniform(-0.22, 0.22, rows * boards).astype(np.float32)[board]
    streaks = fractal_noise(rng, shape, cells=(32, 2), octaves=4, fade=0.8)
    offset = rng.integers(0, 997, rows * boards)[board]
    streaks = streaks[(y + offset) % shape[0], (x + 3 * offset) % shape[1]]
    colors = ramp(0.5 + tone + 0.28 * streaks, wood_stops(rng))
    joint = ((x + shift) % shape[1]) % (shape[1] / boards) < 2
    seam = (y * rows) % shape[0] < rows * 2
    return to_bytes(darkened(colors, joint | seam, 0.45))


def parquet(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a basket weave of wooden blocks."""
    blocks, strips = int(rng.integers(4, 8)), int(rng.integers(3, 6))
    y, x, row, column = cell_grid(shape, blocks, blocks)
    upright = (row + column) % 2 == 1
    across = np.where(upright, x * blocks * strips // shape[1], y * blocks * strips // shape[0])
    strip = (row * blocks + column) * strips + across % strips
    tone = rng.uniform(-0.28, 0.28, blocks * blocks * strips).astype(np.float32)[strip]
    streaks = fractal_noise(rng, shape, cells=(48, 4), octaves=3, fade=0.8)
    streaks = np.where(upright, streaks.T if shape[0] == shape[1] else streaks, streaks)
    colors = ramp(0.5 + tone + 0.22 * streaks, wood_stops(rng))
    position = np.where(upright, x * strips * blocks / shape[1], y * strips * blocks / shape[0])
    return to_bytes(darkened(colors, position % 1.0 < 0.07, 0.6))


def veneer(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint one wide board: rings, streaks and knots along u."""
    warp = fractal_noise(rng, shape, cells=(3, 2), octaves=3)
    y = np.arange(shape[0], dtype=np.float32)[:, None] / shape[0]
    rings = np.abs((y * int(rng.integers(5, 12)) + 1.1 * warp) % 1.0 * 2 - 1)
    streaks = fractal_noise(rng, shape, cells=(32, 3), octaves=3, fade=0.8)
    return to_bytes(ramp(0.25 + 0.42 * rings + 0.2 * streaks, wood_stops(rng)))


def timber(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint straight-grained boards, glued side by side along u."""
    boards = int(rng.integers(2, 6))
    row = np.arange(shape[0]) * boards // shape[0]
    tone = rng.uniform(-0.16, 0.16, boards).astype(np.float32)[row][:, None]
    fine = fractal_noise(rng, shape, cells=(64, 2), octaves=3, fade=0.9)
    wide = fractal_noise(rng, shape, cells=(9, 2), octaves=3)
    return to_bytes(ramp(0.5 + tone + 0.2 * fine + 0.2 * wide, wood_stops(rng)))


def tiles(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint ornamented tiles: symmetric motifs, each tile with its own tone."""
    count = int(rng.integers(5, 10))
    y, x, row, column = cell_grid(shape, count, count)
    fine = 32
    motif = fractal_noise(rng, (fine * 6, fine), cells=(24, 4), octaves=2)
    fold_y = np.abs((y * count / shape[0]) % 1.0 * 2 - 1)
    fold_x = np.abs((x * count / shape[1]) % 1.0 * 2 - 1)
    kind = rng.integers(0, 6, (count, count))[row, column]
    index_y = (fold_y * (fine - 1)).astype(int)
    index_x = (fold_x * (fine - 1)).astype(int)
    mirrored = motif[kind * fine + np.minimum(index_y, index_x), np.maximum(index_y, index_x)]
    palette = np.array(random_palette(rng, 4), np.float32)
    colors = palette[np.clip((mirrored + 1) * 2, 0, 3).astype(int)]
    tone = rng.uniform(0.75, 1.15, (count, count)).astype(np.float32)[row, column]
    colors = colors * (tone + 0.08 * fractal_noise(rng, shape, octaves=6))[..., None]
    grout = (fold_y > 0.95) | (fold_x > 0.95)
    return to_bytes(np.where(grout[..., None], np.float32(rng.uniform(90, 200)), colors))


def plain_tiles(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint glazed tiles of a few colours in random order."""
    rows, columns = int(rng.integers(8, 17)), int(rng.integers(6, 13))
    y, x, row, column = cell_grid(shape, rows, columns)
    palette = np.array(random_palette(rng, 5), np.float32) * 0.6 + 90
    colors = palette[rng.choice(5, (rows, columns), p=[0.4, 0.25, 0.15, 0.1, 0.1])[row, column]]
    tone = rng.uniform(0.85, 1.12, (rows, columns)).astype(np.float32)[row, column]
    colors = colors * (tone + 0.1 * fractal_noise(rng, shape, cells=(8, 8)))[..., None]
    grout = ((y * rows / shape[0]) % 1 < 0.06) | ((x * columns / shape[1]) % 1 < 0.05)
    return to_bytes(np.where(grout[..., None], np.float32(rng.uniform(110, 235)), colors))


def brick(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a running bond of weathered bricks."""
    rows = 2 * int(rng.integers(14, 20))
    columns = max(2, rows * shape[1] // shape[0] // 3)
    y, x, row, _ = cell_grid(shape, rows, 1)
    along = x * columns / shape[1] + 0.5 * (row % 2)
    column = along.astype(int) % columns
    tone = rng.uniform(-0.35, 0.35, (rows, columns)).astype(np.float32)[row, column]
    rough = fractal_noise(rng, shape, cells=(8, 16), octaves=5, fade=0.85)
    base = hsv(rng.uniform(0.0, 0.1), rng.uniform(0.2, 0.6), rng.uniform(0.6, 0.85))
    stops = [shaded(base, 0.5), base, shaded(base, 1.35)]
    mortar = ((y * rows / shape[0]) % 1 < 0.13) | (along % 1 < 0.05)
    colors = ramp(0.5 + tone + 0.2 * rough, stops)
    joints = rng.uniform(130, 215) + 22 * rough[..., None]
    return to_bytes(np.where(mortar[..., None], joints, colors))


def plaster(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint limewashed plaster: clouds, trowel strokes and cracks."""
    base = random_color(rng, saturation=(0.08, 0.42), value=(0.7, 0.95))
    return _limewash(rng, shape, base)


def whitewash(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint plaster, nearly white, with water stains."""
    return _limewash(rng, shape, random_color(rng, saturation=(0.0, 0.12), value=(0.85, 0.97)))


def _limewash(rng: np.random.Generator, shape: Shape, base: Color) -> UInt8:
    clouds = fractal_noise(rng, shape, cells=(3, 6), octaves=7, fade=0.75)
    strokes = value_noise(rng, shape, (90, 24)) * value_noise(rng, shape, (6, 9))
    cracks = np.abs(fractal_noise(rng, shape, cells=(4, 7), octaves=4)) < 0.012
    other = random_color(rng, saturation=(0.03, 0.25), value=(0.85, 1.0))
    colors = ramp(0.5 + 0.34 * clouds + 0.2 * strokes, [shaded(base, 0.68), base, other])
    return to_bytes(darkened(colors, cracks, 0.62))


def concrete(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint board-marked concrete with pores and stains."""
    clouds = fractal_noise(rng, shape, cells=(2, 5), octaves=7, fade=0.8)
    pores = value_noise(rng, shape, (shape[0] // 5, shape[1] // 5)) > 0.86
    bands = rng.uniform(-0.14, 0.14, 12).astype(np.float32)
    band = bands[np.arange(shape[0]) * 12 // shape[0]][:, None]
    tint = random_color(rng, saturation=(0.03, 0.18), value=(0.72, 0.9))
    colors = ramp(0.5 + 0.35 * clouds + band, [shaded(tint, 0.64), tint, shaded(tint, 1.25)])
    return to_bytes(darkened(colors, pores, 0.6))


def flowered(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint wallpaper strewn with flowers and leaves, no two alike."""
    palette = random_palette(rng, 6)
    ground = random_color(rng, saturation=(0.05, 0.5), value=(0.65, 0.95))
    image, draw = _canvas(shape, ground)
    step = int(rng.integers(20, 38))
    for y in range(0, shape[0], step):
        for x in range(0, shape[1], step):
            centre = np.array([x, y]) + rng.uniform(0, step * 0.7, 2)
            _flower(rng, draw, centre, step * rng.uniform(0.25, 0.55), palette)
    shade = 1 + 0.13 * fractal_noise(rng, shape, octaves=6, fade=0.8)
    return to_bytes(np.asarray(image, np.float32) * shade[..., None])


def striped(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint wallpaper of upright stripes of all widths, printed on a worn ground."""
    palette = np.array(random_palette(rng, 6), np.float32) * 0.75 + 55
    edges = np.sort(rng.integers(0, shape[1], shape[1] // int(rng.integers(14, 30))))
    stripe = np.searchsorted(edges, np.arange(shape[1])) % max(1, len(edges))
    chosen = palette[rng.integers(0, 6, max(1, len(edges)))[stripe]]
    wear = fractal_noise(rng, shape, cells=(5, 8), octaves=6, fade=0.85)
    return to_bytes(chosen[None] * (1 + 0.17 * wear)[..., None])


def triangles(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint wallpaper of triangles in a random order of colours."""
    rows = int(rng.integers(12, 22))
    columns = rows * shape[1] // shape[0]
    y, x, row, column = cell_grid(shape, rows, columns)
    rise, run = (y * rows / shape[0]) % 1, (x * columns / shape[1]) % 1
    upper = np.where((row + column) % 2 == 0, rise > run, rise + run > 1).astype(int)
    palette = np.array(random_palette(rng, 7), np.float32) * 0.8 + 40
    colors = palette[rng.integers(0, 7, (rows, columns, 2))[row, column, upper]]
    return to_bytes(colors * (1 + 0.1 * fractal_noise(rng, shape, octaves=6))[..., None])


def mural(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a wall painting: warped bands of colour that never repeat."""
    field = fractal_noise(rng, shape, cells=(2, 4), octaves=4)
    detail = fractal_noise(rng, shape, cells=(8, 16), octaves=5, fade=0.8)
    bands = np.floor((field * 2.2 + 0.25 * detail) * 2.5).astype(int)
    palette = np.array(random_palette(rng, 9), np.float32) * 0.8 + 40
    return to_bytes(palette[bands % 9] * (1 + 0.14 * detail)[..., None])


def marble(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint veined stone."""
    warp = fractal_noise(rng, shape, cells=(2, 2), octaves=6, fade=0.65)
    veins = 1 - np.minimum(1, np.abs(warp) * rng.uniform(4, 8))
    fine = 1 - np.minimum(1, np.abs(fractal_noise(rng, shape, cells=(6, 5), octaves=5)) * 9)
    base = random_color(rng, saturation=(0.03, 0.35), value=(0.75, 0.97))
    vein = np.array(random_color(rng, saturation=(0.1, 0.6), value=(0.15, 0.55)), np.float32)
    ground = ramp(0.6 + 0.3 * warp, [shaded(base, 0.7), base])
    weight = np.clip(0.75 * veins + 0.45 * fine, 0, 0.9)[..., None]
    return to_bytes(ground * (1 - weight) + vein * weight)


def terrazzo(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint chips of stone in cement."""
    palette = random_palette(rng, 6)
    image, draw = _canvas(shape, random_color(rng, saturation=(0.0, 0.3), value=(0.6, 0.92)))
    for _ in range(shape[0] * shape[1] // 260):
        centre = rng.random(2) * (shape[1], shape[0])
        radius = rng.uniform(2, 13) * rng.random() + 2
        turns = np.sort(rng.random(5)) * 2 * np.pi
        ring = radius * rng.uniform(0.6, 1.0, (5, 1)) * np.stack([np.cos(turns), np.sin(turns)], 1)
        _tiled_polygon(draw, shape, centre + ring, palette[int(rng.integers(6))])
    return to_bytes(np.asarray(image, np.float32) + 9 * grain_noise(rng, shape)[..., None])


def _canvas(shape: Shape, ground: Color) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (shape[1], shape[0]), ink(ground))
    return image, ImageDraw.Draw(image)


def _tiled_polygon(
    draw: ImageDraw.ImageDraw, shape: Shape, points: NDArray[np.floating], color: Color
) -> None:
    """Draw a polygon, and again where it leaves the image, so that the image still tiles."""
    low, high = points.min(axis=0), points.max(axis=0)
    for dy in {0, shape[0] * (low[1] < 0) - shape[0] * (high[1] > shape[0])}:
        for dx in {0, shape[1] * (low[0] < 0) - shape[1] * (high[0] > shape[1])}:
            draw.polygon([(px + dx, py + dy) for px, py in points.tolist()], fill=ink(color))


def _flower(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    centre: NDArray[np.floating],
    radius: float,
    palette: list[Color],
) -> None:
    """Draw petals around a heart, on a stem."""
    petals = int(rng.integers(3, 8))
    turn = rng.random()
    angles = (np.arange(petals) / petals + turn) * 2 * np.pi
    color, heart, stem = (ink(palette[int(i)]) for i in rng.integers(0, len(palette), 3))
    end = centre + rng.uniform(-1.6, 1.6, 2) * radius
    draw.line([tuple(centre), tuple(end)], fill=stem, width=2)
    size = radius * 0.5
    for x, y in centre + 0.6 * radius * np.stack([np.cos(angles), np.sin(angles)], 1):
        draw.ellipse([x - size, y - size, x + size, y + size], fill=color)
    x, y = centre
    draw.ellipse([x - size / 2, y - size / 2, x + size / 2, y + size / 2], fill=heart)
