"""Furniture that belongs together and is placed as one."""

from __future__ import annotations

import math

import numpy as np

from generation.scenes.procedural.decor import rug
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.pieces import Piece
from generation.scenes.procedural.seats import bed, chair, sofa
from generation.scenes.procedural.tables import coffee_table, desk, dining_table, side_table


def lounge(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Put a sofa on a rug, with a coffee table in front."""
    piece = sofa(rng, finishes)
    high = piece.extent()[1]
    table = coffee_table(rng, finishes).moved((float(rng.uniform(-0.15, 0.15)), 0, high[2] + 0.4))
    piece.include(table)
    piece.include(rug(rng, finishes, (2 * high[0] + 0.2, 1.7)).moved((0, 0, high[2] - 0.2)))
    return piece


def dining_set(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Put chairs to the long sides of a table."""
    piece = dining_table(rng, finishes)
    low, high = piece.extent()
    model = chair(rng, finishes)
    spots = [(float(x), side) for side in (-1, 1) for x in (0.5 * low[0], 0.5 * high[0])]
    for x, side in spots:
        if rng.random() < 0.85:
            out, yaw = float(rng.uniform(0.28, 0.45)), float(rng.uniform(-0.12, 0.12))
            if side < 0:
                piece.include(model.turned(yaw).moved((x, 0, low[2] - out)))
            else:
                piece.include(model.turned(math.pi + yaw).moved((x, 0, high[2] + out)))
    return piece


def workplace(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Put a chair to a desk."""
    piece = desk(rng, finishes)
    yaw = math.pi + float(rng.uniform(-0.3, 0.3))
    front = float(piece.extent()[1, 2])
    piece.include(chair(rng, finishes).turned(yaw).moved((-0.14, 0, front + 0.38)))
    return piece


def bed_with_tables(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Put a bed between bedside tables, with a rug at its foot."""
    piece = bed(rng, finishes)
    low, high = piece.extent()
    sides = [-1, 1] if high[0] > 0.6 else [int(rng.choice([-1, 1]))]
    for side in sides:
        x = high[0] + 0.27 if side > 0 else low[0] - 0.27
        piece.include(side_table(rng, finishes).moved((float(x), 0, 0.01)))
    if rng.random() < 0.7:
        piece.include(rug(rng, finishes, (1.5, 1.0)).moved((0, 0, high[2] - 0.55)))
    return piece
