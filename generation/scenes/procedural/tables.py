"""Tables and desks, with what stands on them."""

from __future__ import annotations

import numpy as np

from generation.scenes.procedural import pictures
from generation.scenes.procedural.clutter import clutter
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.pieces import FRONT, Piece


def coffee_table(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a low table, round or with a shelf below."""
    piece = Piece(rng)
    wood = finishes.pick("wood")
    top = finishes.pick("stone") if rng.random() < 0.3 else wood
    half, depth, height = float(rng.uniform(0.38, 0.6)), float(rng.uniform(0.5, 0.65)), 0.42
    piece.legs(wood, (-half + 0.02, 0.02, half - 0.02, depth - 0.02), top=0.38, thickness=0.05)
    piece.boxes(top, [-half, 0.38, 0], [half, height, depth], cell_m=0.14)
    piece.boxes(wood, [-half + 0.05, 0.12, 0.05], [half - 0.05, 0.14, depth - 0.05])
    clutter(piece, finishes, (-half, 0.0, half, depth), height, share=0.5)
    clutter(piece, finishes, (-half + 0.1, 0.1, half - 0.1, depth - 0.1), 0.14, share=0.4, low=True)
    return piece


def side_table(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a small round table or a bedside chest."""
    piece = Piece(rng)
    wood, height = finishes.pick("wood"), float(rng.uniform(0.45, 0.6))
    if rng.random() < 0.4:
        piece.lathe(wood, [(0.0, 0.0), (0.15, 0.0), (0.15, 0.02), (0.03, 0.04), (0.025, height)],
                    (0, 0, 0.22))  # fmt: skip
        rim = [(0.0, height), (0.22, height), (0.22, height + 0.03), (0.0, height + 0.03)]
        piece.lathe(wood, rim, (0, 0, 0.22), sides=16)
        clutter(piece, finishes, (-0.15, 0.07, 0.15, 0.37), height + 0.03, share=1.0)
    else:
        piece.boxes(wood, [-0.22, 0.0, 0.0], [0.22, height, 0.38])
        front = finishes.pick("wood")
        drawers = [0.05, 0.06 + height / 2]
        piece.boxes(front, [[-0.2, y, 0.38] for y in drawers],
                    [[0.2, y + height / 2 - 0.08, 0.395] for y in drawers])  # fmt: skip
        metal = finishes.pick("metal")
        piece.boxes(metal, [[-0.05, y + 0.1, 0.395] for y in drawers],
                    [[0.05, y + 0.12, 0.415] for y in drawers])  # fmt: skip
        clutter(piece, finishes, (-0.22, 0.0, 0.22, 0.38), height, share=0.8)
    return piece


def dining_table(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a table, perhaps with a runner, with things on it."""
    piece = Piece(rng)
    wood = finishes.pick("wood")
    half, depth, height = float(rng.uniform(0.55, 0.9)), float(rng.uniform(0.75, 0.95)), 0.75
    piece.legs(wood, (-half + 0.03, 0.03, half - 0.03, depth - 0.03), top=0.7, thickness=0.06)
    piece.boxes(wood, [-half, 0.71, 0], [half, height, depth], cell_m=0.14)
    piece.boxes(wood, [-half + 0.06, 0.63, 0.06], [half - 0.06, 0.71, depth - 0.06])
    if rng.random() < 0.4:
        runner = finishes.pick("fabric")
        piece.boxes(
            runner, [-half - 0.006, 0.6, 0.27], [half + 0.006, height + 0.006, depth - 0.27]
        )
    clutter(piece, finishes, (-half, 0.0, half, depth), height + 0.006, share=0.45)
    return piece


def desk(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a desk with drawers, monitor, keyboard and clutter."""
    piece = Piece(rng)
    wood, metal = finishes.pick("wood"), finishes.pick("metal")
    half, depth, height = float(rng.uniform(0.55, 0.85)), float(rng.uniform(0.6, 0.75)), 0.74
    piece.boxes(wood, [-half, 0.7, 0], [half, height, depth], cell_m=0.14)
    piece.legs(metal, (-half + 0.02, 0.03, half - 0.02, depth - 0.03), top=0.7, thickness=0.04)
    x = half - 0.46
    drawers = finishes.pick("paint")
    piece.boxes(drawers, [x, 0.1, 0.06], [x + 0.38, 0.68, depth - 0.08])
    front = depth - 0.08
    piece.boxes(wood, [[x + 0.01, 0.12 + 0.19 * i, front] for i in range(3)],
                [[x + 0.37, 0.29 + 0.19 * i, front + 0.015] for i in range(3)])  # fmt: skip
    piece.boxes(metal, [[x + 0.13, 0.2 + 0.19 * i, front + 0.015] for i in range(3)],
                [[x + 0.25, 0.22 + 0.19 * i, front + 0.035] for i in range(3)])  # fmt: skip
    monitor(piece, finishes, (-0.12, height, 0.18))
    keys = finishes.pick("metal")
    piece.boxes(keys, [-0.33, height, 0.38], [0.08, height + 0.02, 0.52])
    clutter(piece, finishes, (half - 0.42, 0.05, half - 0.02, depth - 0.08), height, share=0.8)
    clutter(piece, finishes, (-half, 0.08, -0.45, 0.35), height, share=0.8)
    return piece


def monitor(piece: Piece, finishes: Finishes, foot: tuple[float, float, float]) -> None:
    """Stand a lit screen on something."""
    x, y, z = foot
    metal = finishes.pick("metal")
    piece.boxes(metal, [[x - 0.13, y, z - 0.08], [x - 0.03, y + 0.015, z - 0.04]],
                [[x + 0.13, y + 0.015, z + 0.08], [x + 0.03, y + 0.14, z - 0.02]])  # fmt: skip
    low, high = (x - 0.29, y + 0.12, z - 0.02), (x + 0.29, y + 0.49, z + 0.02)
    piece.boxes(metal, low, high)
    image = finishes.picture(pictures.screen, (144, 224))
    piece.boxes(image, [low[0] + 0.015, low[1] + 0.015, high[2]],
                [high[0] - 0.015, high[1] - 0.015, high[2] + 0.003], faces=FRONT,
                whole_texture=True, solid=False, glow=(225, 230, 240))  # fmt: skip
