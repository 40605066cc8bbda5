"""Things that hold other things, mostly against a wall."""

from __future__ import annotations

import numpy as np

from generation.scenes.procedural import pictures
from generation.scenes.procedural.clutter import clutter
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.pictures import SPINES_PER_ROW
from generation.scenes.procedural.pieces import FRONT, Piece, Surface

_BOOK_FACES = ("front", "left", "right", "top")


def bookshelf(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a shelf full of books and other things."""
    piece = Piece(rng)
    wood = finishes.pick("wood")
    half, depth = float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.26, 0.32))
    num_shelves = int(rng.integers(3, 7))
    height = 0.08 + num_shelves * float(rng.uniform(0.31, 0.36))
    board = 0.022
    posts = [-half, half - board]
    piece.boxes(wood, [[x, 0, 0] for x in posts], [[x + board, height, depth] for x in posts])
    back = finishes.pick("paint") if rng.random() < 0.5 else wood
    piece.boxes(back, [-half + board, 0.06, 0], [half - board, height - board, 0.012])
    levels = np.linspace(0.06, height - board, num_shelves + 1)
    piece.boxes(
        wood,
        [[-half + board, y, 0.012 if 0 < i < num_shelves else 0] for i, y in enumerate(levels)],
        [[half - board, y + board, depth - 0.005] for y in levels],
        solid=False,
    )
    for low, high in zip(levels[:-1] + board, levels[1:]):
        inside = (-half + board + 0.005, half - board - 0.005)
        if rng.random() < 0.75:
            end = inside[0] + (inside[1] - inside[0]) * float(rng.uniform(0.5, 1.0))
            _books(piece, finishes, (inside[0], end), (float(low), float(high)), depth)
            inside = (end + 0.02, inside[1])
        if inside[1] - inside[0] > 0.2:
            top = (inside[0], 0.04, inside[1], depth - 0.02)
            clutter(piece, finishes, top, float(low), share=0.8, low=True)
    piece.solids = [np.array([[[-half, 0, 0], [half, height, depth]]])]
    clutter(piece, finishes, (-half, 0.02, half, depth - 0.02), height, share=0.4)
    return piece


def _books(
    piece: Piece,
    finishes: Finishes,
    across: tuple[float, float],
    up: tuple[float, float],
    depth: float,
) -> None:
    """Fill a stretch of a shelf with upright books, some of them missing."""
    rng = piece.rng
    count = max(1, int((across[1] - across[0]) / 0.038))
    edges = across[0] + (across[1] - across[0]) * (
        (np.arange(count + 1) + np.r_[0, rng.uniform(-0.3, 0.3, count - 1), 0]) / count
    )
    kept = rng.random(count) < 0.94
    tall = up[0] + (up[1] - up[0]) * rng.uniform(0.62, 0.93, count)
    deep = depth - rng.uniform(0.02, 0.09, count)
    low = np.stack([edges[:-1], np.full(count, up[0]), np.full(count, 0.03)], axis=1)
    high = np.stack([edges[1:] - 0.0015, tall, deep], axis=1)
    sheet = finishes.shared_picture(pictures.book_spines)
    made = Piece(rng)
    made.boxes(sheet, low[kept], high[kept], faces=_BOOK_FACES, cell_m=0.5, solid=False)
    column = np.repeat(rng.integers(0, SPINES_PER_ROW, int(kept.sum())), len(_BOOK_FACES))
    left, right = (column + 0.04) / SPINES_PER_ROW, (column + 0.96) / SPINES_PER_ROW
    uvs = np.zeros((len(column), 4, 2))
    uvs[:, [0, 3], 0], uvs[:, [1, 2], 0] = left[:, None], right[:, None]
    uvs[:, [0, 1], 1] = 1.0
    piece.add(sheet, made.patches[0].corners, uvs=uvs, cell_m=0.5)


def wardrobe(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a tall cupboard with panelled doors."""
    piece = Piece(rng)
    wood = finishes.pick("wood")
    num_doors = int(rng.integers(2, 4))
    half, depth = 0.24 * num_doors + float(rng.uniform(0, 0.1)), float(rng.uniform(0.5, 0.6))
    height = float(rng.uniform(1.8, 2.15))
    piece.boxes(wood, [-half, 0.06, 0], [half, height, depth])
    piece.boxes(wood, [-half + 0.03, 0, 0.03], [half - 0.03, 0.06, depth - 0.04])
    piece.boxes(wood, [-half - 0.02, height, 0], [half + 0.02, height + 0.04, depth + 0.03])
    _doors(piece, finishes, (-half, 0.09, half, height - 0.03), depth, num_doors)
    if rng.random() < 0.5:
        clutter(piece, finishes, (-half, 0.1, half, depth - 0.1), height + 0.04, share=0.4)
    return piece


def cupboard(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a sideboard or a chest of drawers with things on it."""
    piece = Piece(rng)
    wood = finishes.pick("wood")
    half, depth = float(rng.uniform(0.4, 0.85)), float(rng.uniform(0.38, 0.48))
    height = float(rng.uniform(0.7, 0.95))
    piece.legs(wood, (-half + 0.03, 0.03, half - 0.03, depth - 0.03), top=0.12, thickness=0.04)
    piece.boxes(wood, [-half, 0.12, 0], [half, height, depth], cell_m=0.15)
    if rng.random() < 0.5:
        _doors(piece, finishes, (-half, 0.14, half, height - 0.02), depth, 2 if half < 0.6 else 3)
    else:
        _drawers(piece, finishes, (-half, 0.14, half, height - 0.02), depth, 3)
    clutter(piece, finishes, (-half, 0.0, half, depth), height, share=0.6)
    return piece


def media_bench(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a low bench with a television."""
    piece = Piece(rng)
    wood, metal = finishes.pick("wood"), finishes.pick("metal")
    half, depth, height = float(rng.uniform(0.65, 0.9)), 0.4, 0.45
    piece.boxes(wood, [-half, 0.05, 0], [half, height, depth], cell_m=0.15)
    piece.boxes(wood, [-half + 0.05, 0, 0.05], [half - 0.05, 0.05, depth - 0.05])
    _drawers(piece, finishes, (-half, 0.07, 0.0, height - 0.02), depth, 2)
    _doors(piece, finishes, (0.0, 0.07, half, height - 0.02), depth, 1)
    piece.boxes(metal, [-0.25, height, 0.1], [0.25, height + 0.03, 0.28])
    piece.boxes(metal, [-0.5, height + 0.03, 0.17], [0.5, height + 0.62, 0.21])
    image = finishes.picture(pictures.landscape, (144, 256))
    piece.boxes(image, [-0.485, height + 0.045, 0.21], [0.485, height + 0.605, 0.214],
                faces=FRONT, whole_texture=True, solid=False, glow=(215, 220, 235))  # fmt: skip
    return piece


def kitchen(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a kitchen block: cupboards, worktop, sink, hob, tiles and wall cupboards."""
    piece = Piece(rng)
    paint, stone, metal = finishes.pick("paint"), finishes.pick("stone"), finishes.pick("metal")
    units = int(rng.integers(3, 6))
    half, depth = 0.3 * units, 0.6
    piece.boxes(paint, [-half, 0.1, 0], [half, 0.86, depth - 0.02])
    piece.boxes(metal, [-half, 0, 0], [half, 0.1, depth - 0.08])
    piece.boxes(stone, [-half, 0.86, 0], [half, 0.9, depth], cell_m=0.14)
    front = depth - 0.02
    _doors(piece, finishes, (-half, 0.12, half - 0.6, 0.84), front, units - 1)
    oven = half - 0.6
    piece.boxes(metal, [oven + 0.01, 0.14, front], [half - 0.01, 0.84, front + 0.018])
    glass = finishes.picture(pictures.abstract, (64, 64))
    piece.boxes(glass, [oven + 0.08, 0.24, front + 0.018], [half - 0.08, 0.62, front + 0.024])
    piece.boxes(metal, [oven + 0.06, 0.68, front + 0.018], [half - 0.06, 0.7, front + 0.05])
    dark = finishes.plain()
    piece.boxes(metal, [oven + 0.03, 0.9, 0.06], [half - 0.03, 0.906, depth - 0.06])
    for x in (oven + 0.16, half - 0.16):
        for z in (0.18, 0.4):
            piece.lathe(dark, [(0.085, 0.0), (0.08, 0.01), (0, 0.01)], (x, 0.906, z), sides=12)
    sink = -half + 0.35
    piece.boxes(metal, [sink - 0.24, 0.9, 0.1], [sink + 0.24, 0.905, 0.5])
    piece.boxes(dark, [sink - 0.18, 0.905, 0.17], [sink + 0.18, 0.907, 0.47], casts_shadow=False)
    piece.lathe(metal, [(0.02, 0), (0.014, 0.26), (0, 0.27)], (sink, 0.905, 0.13), sides=8)
    piece.boxes(metal, [sink - 0.012, 1.13, 0.14], [sink + 0.012, 1.155, 0.3])
    tile = finishes.pick("tile")
    plane = np.array([[-half, 0.9], [half, 0.9], [half, 1.42], [-half, 1.42]])
    corners = np.insert(plane, 2, 0.008, axis=1)
    uvs = plane / (tile.repeat_m, -tile.repeat_m)
    piece.add(tile, corners, uvs=uvs, cell_m=0.15, casts_shadow=False)
    piece.solids.append(np.array([[[-half, 0.9, 0], [half, 1.42, 0.02]]]))
    if units > 3:
        clutter(piece, finishes, (sink + 0.3, 0.05, oven, depth - 0.05), 0.9, share=0.5, low=True)
    if rng.random() < 0.75:
        piece.boxes(paint, [-half, 1.42, 0], [half, 2.06, 0.32])
        _doors(piece, finishes, (-half, 1.43, half, 2.05), 0.32, units)
    return piece


def fridge(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a refrigerator with notes and magnets on its door."""
    piece = Piece(rng)
    half, depth, height = 0.3, 0.6, float(rng.uniform(1.5, 1.9))
    shell, metal = finishes.pick("paint"), finishes.pick("metal")
    split = 0.36 * height
    piece.boxes(metal, [-half + 0.02, 0, 0.03], [half - 0.02, 0.02, depth - 0.02])
    piece.boxes(shell, [-half, 0.02, 0], [half, height, depth])
    piece.boxes(shell, [[-half, 0.04, depth + 0.005], [-half, split + 0.01, depth + 0.005]],
                [[half, split, depth + 0.05], [half, height, depth + 0.05]])  # fmt: skip
    piece.boxes(metal, [[-half + 0.04, split - 0.3, depth + 0.05],
                        [-half + 0.04, split + 0.08, depth + 0.05]],
                [[-half + 0.06, split - 0.06, depth + 0.08],
                 [-half + 0.06, split + 0.4, depth + 0.08]])  # fmt: skip
    for row in range(3):
        for x in (-0.12, 0.1):
            if rng.random() < 0.7:
                _note(piece, finishes, (x, split + 0.15 + 0.24 * row, depth + 0.05))
    return piece


def _note(piece: Piece, finishes: Finishes, at: tuple[float, float, float]) -> None:
    x, y, z = at
    half, tall = piece.rng.uniform(0.04, 0.09, 2)
    paper = finishes.wall_picture((64, 64))
    piece.boxes(paper, [x - half, y, z], [x + half, y + 2 * tall, z + 0.003], faces=FRONT,
                whole_texture=True, solid=False, casts_shadow=False)  # fmt: skip


def cardboard_boxes(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Stack two or three removal boxes, askew."""
    piece = Piece(rng)
    bottom = 0.0
    for _ in range(int(rng.integers(2, 4))):
        half, tall = rng.uniform(0.16, 0.26), float(rng.uniform(0.22, 0.4))
        box = Piece(rng)
        image = finishes.picture(pictures.box_label, (128, 128))
        box.boxes(image, [-half, 0, -half * 0.8], [half, tall, half * 0.8], whole_texture=True)
        turned = box.turned(float(rng.uniform(-0.3, 0.3)))
        piece.include(turned.moved((0, bottom, 0.34)))
        bottom += tall
    return piece


def waste_bin(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Turn a basket, open at the top."""
    piece = Piece(rng)
    r, height = float(rng.uniform(0.12, 0.17)), float(rng.uniform(0.27, 0.4))
    profile = [(0, 0), (0.8 * r, 0), (r, height), (r - 0.01, height), (0.78 * r, 0.02), (0, 0.02)]
    piece.lathe(finishes.pick("basket"), profile, (0, 0, r), sides=14)
    return piece


def _doors(
    piece: Piece, finishes: Finishes, area: tuple[float, float, float, float], z: float, count: int
) -> None:
    """Put panelled doors with handles on an upright area (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = area
    left = x0 + (x1 - x0) / count * np.arange(count)
    wide = (x1 - x0) / count
    _fronts(piece, finishes, [(x + 0.008, y0, x + wide - 0.008, y1) for x in left], z)
    metal = finishes.pick("metal")
    middle = 0.5 * (y0 + y1)
    side = [x + (wide - 0.05 if i % 2 == 0 else 0.03) for i, x in enumerate(left)]
    piece.boxes(metal, [[x, middle - 0.08, z + 0.022] for x in side],
                [[x + 0.02, middle + 0.08, z + 0.05] for x in side])  # fmt: skip


def _drawers(
    piece: Piece, finishes: Finishes, area: tuple[float, float, float, float], z: float, count: int
) -> None:
    """Put drawers with handles on an upright area (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = area
    bottom = y0 + (y1 - y0) / count * np.arange(count)
    tall = (y1 - y0) / count
    _fronts(piece, finishes, [(x0 + 0.01, y + 0.008, x1 - 0.01, y + tall) for y in bottom], z)
    metal, centre = finishes.pick("metal"), 0.5 * (x0 + x1)
    piece.boxes(metal, [[centre - 0.07, y + 0.55 * tall, z + 0.022] for y in bottom],
                [[centre + 0.07, y + 0.55 * tall + 0.02, z + 0.045] for y in bottom])  # fmt: skip


def _fronts(
    piece: Piece,
    finishes: Finishes,
    areas: list[tuple[float, float, float, float]],
    z: float,
) -> None:
    """Add slabs with a raised panel where they are large enough."""
    slab: Surface = finishes.pick("wood" if piece.rng.random() < 0.5 else "paint")
    panel = finishes.pick("wood" if piece.rng.random() < 0.5 else "paint")
    inset = 0.05
    piece.boxes(
        slab, [(a, b, z) for a, b, _, _ in areas], [(c, d, z + 0.016) for _, _, c, d in areas]
    )
    raised = [r for r in areas if min(r[2] - r[0], r[3] - r[1]) > 2.6 * inset]
    if raised:
        piece.boxes(panel, [(a + inset, b + inset, z + 0.016) for a, b, _, _ in raised],
                    [(c - inset, d - inset, z + 0.022) for _, _, c, d in raised])  # fmt: skip
