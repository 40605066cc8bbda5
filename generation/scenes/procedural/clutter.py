"""Small things on tables, shelves and window sills."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generation.scenes.procedural import pictures
from generation.scenes.procedural.finishes import SHADE_GLOW, Finishes
from generation.scenes.procedural.pieces import FRONT, Piece

SPACING_M = 0.21
"""Each thing keeps to a square of this size."""


def clutter(
    piece: Piece,
    finishes: Finishes,
    top: tuple[float, float, float, float],
    height_m: float,
    *,
    share: float,
    low: bool = False,
) -> None:
    """Strew things over a rectangle (x0, z0, x1, z1), one in a share of its squares."""
    x0, z0, x1, z1 = top
    columns, rows = max(1, int((x1 - x0) / SPACING_M)), max(1, int((z1 - z0) / SPACING_M))
    things = LOW_THINGS if low else THINGS
    rng = piece.rng
    for row in range(rows):
        for column in range(columns):
            if rng.random() < share:
                x = x0 + (column + 0.5) * (x1 - x0) / columns
                z = z0 + (row + 0.5) * (z1 - z0) / rows
                thing = things[int(rng.integers(len(things)))]
                made = Piece(rng)
                thing(made, finishes)
                yaw = float(rng.uniform(-0.25, 0.25))
                piece.include(made.turned(yaw).moved((x, height_m, z)))


def mug(piece: Piece, finishes: Finishes) -> None:
    """Turn a mug with a handle."""
    radius, height = 0.042, float(piece.rng.uniform(0.08, 0.12))
    wall = [(0, 0), (radius - 0.008, 0), (radius, height), (radius - 0.006, height)]
    pottery = finishes.pick("pottery")
    piece.lathe(pottery, [*wall, (radius - 0.012, 0.02), (0, 0.02)], sides=10)
    piece.boxes(pottery, [radius - 0.004, 0.25 * height, -0.006],
                [radius + 0.025, 0.75 * height, 0.006])  # fmt: skip


def vase(piece: Piece, finishes: Finishes) -> None:
    """Turn a vase and put flowers into it."""
    rng = piece.rng
    height, belly = float(rng.uniform(0.14, 0.26)), float(rng.uniform(0.045, 0.075))
    profile = [(0, 0), (0.6 * belly, 0), (belly, 0.4 * height), (0.45 * belly, 0.8 * height),
               (0.6 * belly, height), (0, height - 0.01)]  # fmt: skip
    piece.lathe(finishes.pick("pottery"), profile, sides=12)
    stem, bloom = finishes.pick("leaf"), finishes.plain()
    for dx, dz in rng.uniform(-0.06, 0.06, (int(rng.integers(0, 6)), 2)):
        top = height + float(rng.uniform(0.08, 0.2))
        lines = np.array([[[-0.006, height - 0.02, 0], [0.006, height - 0.02, 0]],
                          [[dx - 0.006, top, dz], [dx + 0.006, top, dz]]])  # fmt: skip
        piece.sheet(stem, lines)
        ball = [(0, -0.025), (0.03, 0), (0.02, 0.025), (0, 0.03)]
        piece.lathe(bloom, ball, (dx, top, dz), sides=6, solid=False)


def bowl(piece: Piece, finishes: Finishes) -> None:
    """Turn a bowl of fruit."""
    radius = float(piece.rng.uniform(0.07, 0.098))
    profile = [(0, 0), (0.5 * radius, 0), (radius, 0.07), (radius - 0.008, 0.07),
               (0.45 * radius, 0.02), (0, 0.02)]  # fmt: skip
    piece.lathe(finishes.pick("pottery"), profile, sides=12)
    fruit = finishes.plain()
    for dx, dz in ((-0.03, 0.0), (0.028, 0.02), (0.005, -0.035)):
        ball = [(0, 0.015), (0.028, 0.035), (0.032, 0.055), (0.02, 0.08), (0, 0.085)]
        piece.lathe(fruit, ball, (dx, 0, dz), sides=8, solid=False)


def book_stack(piece: Piece, finishes: Finishes) -> None:
    """Pile a few books."""
    rng = piece.rng
    height = 0.0
    for _ in range(int(rng.integers(1, 5))):
        half, deep, thick = (
            rng.uniform(0.055, 0.08),
            rng.uniform(0.06, 0.085),
            rng.uniform(0.015, 0.04),
        )
        cover = finishes.shared_picture(pictures.book_spines)
        piece.boxes(cover, [-half, height, -deep], [half, height + thick, deep], cell_m=0.5)
        height += float(thick)


def photo_frame(piece: Piece, finishes: Finishes) -> None:
    """Stand a framed picture upright."""
    half, height = float(piece.rng.uniform(0.06, 0.085)), float(piece.rng.uniform(0.14, 0.22))
    piece.boxes(finishes.pick("wood"), [-half, 0, -0.012], [half, height, 0.008])
    image = finishes.wall_picture((96, 72))
    piece.boxes(image, [-half + 0.012, 0.012, 0.008], [half - 0.012, height - 0.012, 0.011],
                faces=FRONT, whole_texture=True, solid=False)  # fmt: skip


def carton(piece: Piece, finishes: Finishes) -> None:
    """Stand a small printed box."""
    size = piece.rng.uniform(0.03, 0.075, 2)
    height = float(piece.rng.uniform(0.08, 0.22))
    label = finishes.shared_picture(pictures.poster, (128, 128))
    piece.boxes(label, [-size[0], 0, -size[1]], [size[0], height, size[1]], whole_texture=True)


def table_lamp(piece: Piece, finishes: Finishes) -> None:
    """Stand a lamp with a shade."""
    foot = [(0, 0), (0.06, 0), (0.05, 0.02), (0.018, 0.05), (0.03, 0.14), (0.012, 0.22), (0, 0.24)]
    piece.lathe(finishes.pick("pottery"), foot, sides=10)
    shade = [(0, 0.22), (0.098, 0.22), (0.065, 0.38), (0, 0.38)]
    piece.lathe(finishes.pick("linen"), shade, sides=12, glow=SHADE_GLOW, casts_shadow=False)
    piece.lamps.append(np.array([0, 0.32, 0]))


def sprout(piece: Piece, finishes: Finishes) -> None:
    """Stand a small potted plant."""
    potted(piece, finishes, radius=0.05, height=0.09, leaf_m=0.13, count=9)


def potted(
    piece: Piece, finishes: Finishes, *, radius: float, height: float, leaf_m: float, count: int
) -> None:
    """Put a plant of bent leaves into a pot."""
    rng = piece.rng
    pot = [(0, 0), (0.7 * radius, 0), (radius, height), (radius - 0.008, height),
           (radius - 0.012, height - 0.015), (0, height - 0.015)]  # fmt: skip
    piece.lathe(finishes.pick("pottery"), pot, sides=12)
    leaf = finishes.pick("leaf")
    rows = np.linspace(0, 1, 4)
    width = np.array([0.05, 0.24, 0.2, 0.01]) * leaf_m
    for turn in np.arange(count) * 2.4 + rng.uniform(-0.4, 0.4, count):
        length, droop = leaf_m * rng.uniform(0.7, 1.3), rng.uniform(0.1, 1.1)
        out = length * rows * (0.35 + 0.4 * droop)
        up = height - 0.015 + length * (rows * 1.25 - droop * rows**2 * 0.8)
        middle = np.stack([out * np.sin(turn), up, out * np.cos(turn)], axis=1)
        side = np.array([np.cos(turn), 0.0, -np.sin(turn)]) * width[:, None]
        piece.sheet(leaf, np.stack([middle - side, middle + side], axis=1), cell_m=9.0)


Thing = Callable[[Piece, Finishes], None]
THINGS: tuple[Thing, ...] = (
    mug, vase, bowl, book_stack, photo_frame, carton, sprout, table_lamp, book_stack, vase,
)  # fmt: skip
LOW_THINGS: tuple[Thing, ...] = (mug, bowl, book_stack, carton)
