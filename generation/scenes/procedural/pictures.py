"""Images that appear once: paintings, posters, book spines, screens, rugs and window views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generation.geometry import Float32, UInt8
from generation.scenes.procedural.drawing import Sheet
from generation.scenes.procedural.noise import Shape, fractal_noise
from generation.scenes.procedural.palette import (
    hsv,
    ink,
    ramp,
    random_color,
    random_palette,
    shaded,
    to_bytes,
)

Picture = Callable[[np.random.Generator, Shape], UInt8]
"""Paints an (H, W, 3) image that is shown once."""

SPINES_PER_ROW = 16


def abstract(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint blobs, bars and lines over clouds of colour."""
    palette = random_palette(rng, 6)
    field = 0.5 + 0.5 * fractal_noise(rng, shape, cells=(3, 3), octaves=5)
    sheet = Sheet(rng, to_bytes(ramp(field, palette[:3])))
    for _ in range(int(rng.integers(8, 20))):
        sheet.random_shape(palette[int(rng.integers(6))])
    return sheet.image


def blocks(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint rectangles of pure colour, split again and again, between dark lines."""
    palette = [*random_palette(rng, 4), (240.0, 236.0, 220.0)]
    sheet = Sheet.of_color(rng, shape, (30, 30, 35))
    todo = [(0, 0, shape[1], shape[0])]
    while todo:
        x0, y0, x1, y1 = todo.pop()
        wide, high = x1 - x0, y1 - y0
        if max(wide, high) > shape[1] // 4 or (max(wide, high) > 24 and rng.random() < 0.6):
            cut = rng.uniform(0.3, 0.7)
            if wide > high:
                middle = x0 + int(cut * wide)
                todo += [(x0, y0, middle, y1), (middle, y0, x1, y1)]
            else:
                middle = y0 + int(cut * high)
                todo += [(x0, y0, x1, middle), (x0, middle, x1, y1)]
        elif min(wide, high) > 5:
            color = palette[int(rng.integers(5))]
            sheet.draw.rectangle([x0 + 2, y0 + 2, x1 - 2, y1 - 2], fill=ink(color))
    return sheet.image


def landscape(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint ranges of hills below a sky, with a sun and trees."""
    return _outdoors(rng, shape, horizon=rng.uniform(0.35, 0.6), daylight=False)


def poster(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Print a headline, a figure and lines of text."""
    palette = random_palette(rng, 5)
    ground = random_color(rng, saturation=(0.05, 0.6), value=(0.6, 1.0))
    sheet = Sheet.of_color(rng, shape, ground)
    for _ in range(int(rng.integers(4, 9))):
        sheet.random_shape(palette[int(rng.integers(5))], region=(0.1, 0.25, 0.9, 0.7))
    sheet.text((0.08, 0.06, 0.92, 0.2), lines=int(rng.integers(1, 3)), color=palette[0])
    sheet.text((0.08, 0.76, 0.92, 0.95), lines=int(rng.integers(3, 6)), color=(30, 30, 30))
    return sheet.image


def plate(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Print a plant on paper, as in a herbarium."""
    paper = random_color(rng, saturation=(0.05, 0.3), value=(0.75, 0.95))
    sheet = Sheet.of_color(rng, shape, paper)
    height, width = shape
    root = np.array([width * 0.5, height * 0.85])
    for _ in range(int(rng.integers(3, 7))):
        tip = np.array([width * rng.uniform(0.15, 0.85), height * rng.uniform(0.08, 0.4)])
        green = hsv(rng.uniform(0.2, 0.45), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.6))
        sheet.draw.line([tuple(root), tuple(tip)], fill=ink(green), width=2)
        for along in np.linspace(0.2, 1, 7):
            x, y = root + along * (tip - root) + rng.uniform(-8, 8, 2)
            a, b = rng.uniform(3, 14, 2)
            petal = green if along < 0.9 else random_color(rng, saturation=(0.5, 0.9))
            sheet.draw.ellipse([x - a, y - b, x + a, y + b], fill=ink(petal))
    sheet.text((0.2, 0.88, 0.8, 0.97), lines=2, color=(60, 50, 40))
    return sheet.image


def street_map(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Print a map: land and water, streets, parks and names."""
    land = fractal_noise(rng, shape, cells=(3, 3), octaves=5)
    water = hsv(rng.uniform(0.5, 0.6), 0.45, 0.75)
    ground = random_color(rng, saturation=(0.1, 0.35), value=(0.75, 0.95))
    colors = np.where((land > -0.3)[..., None], ground, water) + 25 * (land[..., None] % 0.2)
    sheet = Sheet(rng, to_bytes(colors))
    for _ in range(26):
        ends = rng.random((2, 2)) * (shape[1], shape[0])
        color = random_color(rng, saturation=(0.3, 0.8), value=(0.3, 0.9))
        sheet.draw.line(ends.reshape(-1).tolist(), fill=ink(color), width=int(rng.integers(1, 5)))
    for _ in range(7):
        x, y = rng.uniform(0.05, 0.7, 2)
        sheet.text((x, y, x + 0.25, y + 0.05), lines=1, color=(40, 30, 40))
    return sheet.image


def face(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a head and shoulders."""
    palette = random_palette(rng, 5)
    field = 0.5 + 0.5 * fractal_noise(rng, shape, cells=(2, 2), octaves=5)
    sheet = Sheet(rng, to_bytes(ramp(field, palette[:2])))
    skin = hsv(rng.uniform(0.03, 0.1), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.95))
    hair = shaded(random_color(rng), 0.6)
    x = rng.uniform(0.4, 0.6)
    sheet.ellipse((x, 1.05), (0.42, 0.38), palette[3])
    sheet.ellipse((x, 0.42), (0.27, 0.3), hair)
    sheet.ellipse((x, 0.72), (0.1, 0.14), shaded(skin, 0.85))
    sheet.ellipse((x, 0.48), (0.21, 0.27), skin)
    for side in (-0.085, 0.085):
        sheet.ellipse((x + side, 0.44), (0.035, 0.025), (245, 245, 240))
        sheet.ellipse((x + side, 0.44), (0.016, 0.02), (30, 25, 30))
        sheet.ellipse((x + side, 0.385), (0.05, 0.01), hair)
    sheet.ellipse((x, 0.53), (0.022, 0.05), shaded(skin, 0.8))
    sheet.ellipse((x, 0.63), (0.07, 0.018), (170, 60, 60))
    return sheet.image


def photo_wall(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Collage small landscapes and abstracts, as on a pin board."""
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    size = (shape[0] // rows, shape[1] // columns)
    image = np.full((*shape, 3), 235, np.uint8)
    for row in range(rows):
        for column in range(columns):
            tile = PICTURES[int(rng.integers(3))](rng, (size[0] - 8, size[1] - 8))
            top, left = row * size[0] + 4, column * size[1] + 4
            image[top : top + size[0] - 8, left : left + size[1] - 8] = tile
    return image


PICTURES: tuple[Picture, ...] = (
    abstract,
    landscape,
    blocks,
    poster,
    plate,
    street_map,
    face,
    photo_wall,
)


def book_spines(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Print SPINES_PER_ROW upright book spines side by side."""
    sheet = Sheet.of_color(rng, shape, (128, 128, 128))
    width = shape[1] / SPINES_PER_ROW
    for i in range(SPINES_PER_ROW):
        color = random_color(rng, saturation=(0.1, 0.9), value=(0.3, 0.95))
        print_color = random_color(rng, saturation=(0.0, 0.8), value=(0.8, 1.0))
        left, right = i * width, (i + 1) * width
        sheet.draw.rectangle([left, 0, right, shape[0]], fill=ink(color))
        for band in rng.random(int(rng.integers(1, 4))) * shape[0]:
            high = rng.uniform(2, 12)
            sheet.draw.rectangle(
                [left, band, right, band + high], fill=ink(shaded(print_color, 0.8))
            )
        top = rng.uniform(0.1, 0.3) * shape[0]
        while top < 0.75 * shape[0]:
            high = rng.uniform(3, 9)
            inset = rng.uniform(0.15, 0.4) * width
            sheet.draw.rectangle(
                [left + inset, top, right - inset, top + high], fill=ink(print_color)
            )
            top += high + rng.uniform(2, 5)
    return sheet.image


def screen(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Show a desktop: windows with text over a picture."""
    sheet = Sheet(rng, landscape(rng, shape) // 2 + 40)
    for _ in range(int(rng.integers(2, 4))):
        x, y = rng.uniform(0.03, 0.5, 2)
        x1, y1 = x + rng.uniform(0.25, 0.45), y + rng.uniform(0.25, 0.45)
        sheet.rectangle((x, y, x1, y1), random_color(rng, value=(0.8, 1.0), saturation=(0, 0.3)))
        sheet.rectangle((x, y, x1, y + 0.05), random_color(rng))
        sheet.text((x + 0.02, y + 0.08, x1 - 0.02, y1 - 0.02), lines=7, color=(40, 40, 60))
    return sheet.image


def rug(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Knot a rug: borders around a field that mirrors itself."""
    palette = np.array(random_palette(rng, 6), np.float32)
    quarter = (shape[0] // 2, shape[1] // 2)
    field = fractal_noise(rng, quarter, cells=(5, 5), octaves=3, fade=0.7)
    index = np.clip((field + 1.2) * 2, 0, 4.99).astype(int)
    y, x = np.indices(quarter)
    inset = np.minimum(y, x)
    teeth = (np.maximum(y, x) // 6) % 2
    for edge, wide, color in ((0, 5, 5), (8, 10, 0), (22, 4, 3)):
        index[(inset >= edge) & (inset < edge + wide)] = color
    index[(inset >= 10) & (inset < 16) & (teeth == 1)] = 4
    half = np.concatenate([index, index[::-1]])
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    worn = fractal_noise(rng, whole.shape, cells=(6, 6), octaves=6, fade=0.9)
    return to_bytes(palette[whole] * (0.95 + 0.17 * worn)[..., None])


def clock_face(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Paint a dial with marks and hands."""
    sheet = Sheet.of_color(rng, shape, random_color(rng, value=(0.75, 1.0)))
    for hour in range(12):
        angle = hour * np.pi / 6
        x, y = 0.5 + 0.4 * np.sin(angle), 0.5 - 0.4 * np.cos(angle)
        sheet.ellipse((x, y), (0.035, 0.035), (40, 40, 40))
    for length, width in ((0.22, 6), (0.34, 3)):
        angle = rng.random() * 2 * np.pi
        tip = (0.5 + length * np.sin(angle), 0.5 - length * np.cos(angle))
        ends = [0.5 * shape[1], 0.5 * shape[0], tip[0] * shape[1], tip[1] * shape[0]]
        sheet.draw.line(ends, fill=(150, 30, 30), width=width)
    return sheet.image


def box_label(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Print a cardboard side: fibres, tape, a label and arrows."""
    fibres = fractal_noise(rng, shape, cells=(32, 8), octaves=4, fade=0.85)
    base = hsv(rng.uniform(0.06, 0.11), rng.uniform(0.3, 0.5), rng.uniform(0.65, 0.85))
    sheet = Sheet(rng, to_bytes(ramp(0.5 + 0.3 * fibres, [shaded(base, 0.7), base])))
    sheet.rectangle((0, 0.44, 1, 0.54), (205, 180, 130))
    x, y = rng.uniform(0.08, 0.5), rng.uniform(0.6, 0.7)
    sheet.rectangle((x, y, x + 0.35, y + 0.22), (240, 240, 235))
    sheet.text((x + 0.02, y + 0.02, x + 0.33, y + 0.2), lines=3, color=(30, 30, 30))
    sheet.text((0.1, 0.1, rng.uniform(0.5, 0.9), 0.32), lines=1, color=random_color(rng))
    return sheet.image


def window_view(rng: np.random.Generator, shape: Shape) -> UInt8:
    """Show the outdoors by day: clouds, hills, houses, trees and grass."""
    return _outdoors(rng, shape, horizon=rng.uniform(0.45, 0.62), daylight=True)


def _outdoors(rng: np.random.Generator, shape: Shape, *, horizon: float, daylight: bool) -> UInt8:
    height, width = shape
    sky_hue = rng.uniform(0.53, 0.63) if daylight else rng.random()
    clouds = fractal_noise(rng, shape, cells=(3, 3), octaves=5)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    sky = [hsv(sky_hue, 0.5, 0.85), hsv(sky_hue, 0.12, 1.0)]
    colors = ramp(np.broadcast_to(down / horizon, shape), sky)
    cover = np.clip(clouds * 1.3, 0, 0.9)[..., None]
    sheet = Sheet(rng, to_bytes(colors * (1 - cover) + 250 * cover))
    if not daylight or rng.random() < 0.3:
        sheet.ellipse((rng.random(), 0.5 * horizon), (0.07, 0.07), (255, 240, 190))
    ground_hue = rng.uniform(0.07, 0.38) if daylight else rng.random()
    for depth in range(4):
        base = horizon + depth * (1 - horizon) * 0.2
        ridge = base + 0.09 * _ridge(rng, width, 3 + 2 * depth)
        fade = (depth + 1) / 5
        color = hsv(ground_hue + 0.03 * depth, 0.25 + 0.5 * fade, rng.uniform(0.5, 0.85))
        points = [(x, ridge[x] * height) for x in range(0, width, 2)]
        sheet.draw.polygon([(0, height), *points, (width, height)], fill=ink(color))
        for _ in range(int(rng.integers(1, 5))):
            x, size = rng.random(), (0.03 + 0.05 * fade) * rng.uniform(0.7, 1.6)
            foot = ridge[min(width - 1, int(x * width))] + 0.02
            if rng.random() < 0.4:
                sheet.house(x, foot, size)
            else:
                sheet.tree(x, foot, size * 1.4)
    texture = 1 + 0.13 * fractal_noise(rng, shape, cells=(16, 16), octaves=4, fade=0.9)
    return to_bytes(sheet.image * texture[..., None])


def _ridge(rng: np.random.Generator, width: int, cells: int) -> Float32:
    heights = rng.uniform(-1, 1, cells + 1)
    line = np.interp(np.linspace(0, cells, width), range(cells + 1), heights)
    return (line + 0.15 * np.interp(np.arange(width) % 23, [0, 11, 22], [0, 1, 0])).astype(
        np.float32
    )
