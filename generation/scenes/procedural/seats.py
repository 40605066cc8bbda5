"""Things to sit and lie on."""

from __future__ import annotations

import numpy as np

from generation.geometry import rotation_about_axis
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.pieces import Piece


def chair(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a wooden or upholstered chair."""
    piece = Piece(rng)
    wood, fabric = finishes.pick("wood"), finishes.pick("fabric")
    half, depth, seat = 0.21, 0.43, 0.45
    piece.legs(wood, (-half, 0.0, half, depth), top=seat - 0.03, thickness=0.04)
    piece.boxes(wood, [-half, seat - 0.03, 0], [half, seat, depth])
    piece.boxes(fabric, [-half + 0.02, seat, 0.05], [half - 0.02, seat + 0.04, depth - 0.01])
    top = float(rng.uniform(0.82, 1.0))
    posts = [-half, half - 0.04]
    piece.boxes(wood, [[x, seat, 0] for x in posts], [[x + 0.04, top, 0.035] for x in posts])
    if rng.random() < 0.5:
        bars = np.linspace(seat + 0.12, top - 0.09, int(rng.integers(2, 5)))
        piece.boxes(
            wood,
            [[-half + 0.04, y, 0.005] for y in bars],
            [[half - 0.04, y + 0.07, 0.025] for y in bars],
        )
    else:
        piece.boxes(fabric, [-half + 0.04, seat + 0.1, 0.002], [half - 0.04, top - 0.01, 0.04])
    return piece


def stool(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a round pouffe or a wooden stool."""
    piece = Piece(rng)
    radius, height = float(rng.uniform(0.18, 0.27)), float(rng.uniform(0.36, 0.48))
    surface = finishes.pick("fabric" if rng.random() < 0.6 else "basket")
    profile = [(0, 0), (radius - 0.02, 0), (radius, 0.05), (radius, height - 0.05)]
    piece.lathe(surface, [*profile, (radius - 0.03, height), (0, height)], (0, 0, radius), sides=14)
    return piece


def armchair(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build an armchair with a cushion."""
    return _upholstered(rng, finishes, width=float(rng.uniform(0.78, 0.95)), num_seats=1)


def sofa(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a sofa of two or three seats."""
    width = float(rng.uniform(1.5, 2.2))
    return _upholstered(rng, finishes, width=width, num_seats=2 if width < 1.8 else 3)


def _upholstered(
    rng: np.random.Generator, finishes: Finishes, *, width: float, num_seats: int
) -> Piece:
    piece = Piece(rng)
    fabric, wood = finishes.pick("fabric"), finishes.pick("wood")
    half, depth, arm = width / 2, float(rng.uniform(0.82, 0.95)), float(rng.uniform(0.12, 0.2))
    back, arm_top = float(rng.uniform(0.72, 0.88)), float(rng.uniform(0.55, 0.64))
    piece.legs(wood, (-half + 0.03, 0.03, half - 0.03, depth - 0.03), top=0.1, thickness=0.05)
    piece.boxes(fabric, [-half + arm, 0.1, 0.0], [half - arm, 0.3, depth - 0.02])
    piece.boxes(fabric, [-half + arm, 0.3, 0.0], [half - arm, back, 0.2])
    piece.boxes(
        fabric,
        [[-half, 0.1, 0.0], [half - arm, 0.1, 0.0]],
        [[-half + arm, arm_top, depth], [half, arm_top, depth]],
    )
    seat = (width - 2 * arm) / num_seats
    cushion = finishes.pick("fabric") if rng.random() < 0.35 else fabric
    left = -half + arm + seat * np.arange(num_seats)
    piece.boxes(
        cushion,
        [[x + 0.006, 0.3, 0.2] for x in left],
        [[x + seat - 0.006, 0.45, depth + 0.01] for x in left],
    )
    piece.boxes(
        cushion,
        [[x + 0.012, 0.45, 0.2] for x in left],
        [[x + seat - 0.012, back + 0.04, 0.34] for x in left],
    )
    for x in left[rng.random(num_seats) < 0.75]:
        _pillow(piece, finishes, (float(x + seat / 2 + rng.uniform(-0.08, 0.08)), 0.45, 0.42))
    return piece


def _pillow(piece: Piece, finishes: Finishes, foot: tuple[float, float, float]) -> None:
    """Lean a square pillow back on a seat."""
    pillow = Piece(piece.rng)
    half, bulge = 0.2, 0.06
    rim = [[-half, 0, 0], [half, 0, 0], [half, 0.38, 0], [-half, 0.38, 0]]
    for z in (bulge, -bulge):
        middle = [[0.45 * x, 0.19 + 0.45 * (y - 0.19), z] for x, y, _ in rim]
        quads = [middle] + [[rim[i], rim[i - 3], middle[i - 3], middle[i]] for i in range(4)]
        corners = np.array(quads) if z > 0 else np.array(quads)[:, [1, 0, 3, 2]]
        uvs = corners[..., :2] / 0.38 * (1, -1) + (0.5, 0)
        pillow.add(
            finishes.pick("fabric") if z > 0 else pillow.patches[0].surface, corners, uvs=uvs
        )
    piece.include(pillow.moved(foot, rotation=rotation_about_axis(0, -0.25)))


def bed(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a made bed: frame, headboard, mattress, duvet, pillows and a throw."""
    piece = Piece(rng)
    wood, linen, duvet = finishes.pick("wood"), finishes.pick("linen"), finishes.pick("fabric")
    half, length = float(rng.choice([0.5, 0.7, 0.85])), 2.05
    head = float(rng.uniform(0.8, 1.15))
    board = finishes.pick("fabric") if rng.random() < 0.4 else wood
    piece.legs(wood, (-half, 0.06, half, length), top=0.16, thickness=0.07)
    piece.boxes(wood, [-half, 0.16, 0.06], [half, 0.3, length])
    piece.boxes(board, [-half - 0.03, 0.0, 0.0], [half + 0.03, head, 0.06])
    piece.boxes(linen, [-half + 0.03, 0.3, 0.06], [half - 0.03, 0.48, length - 0.03])
    fold = float(rng.uniform(0.55, 0.75))
    piece.boxes(duvet, [-half - 0.015, 0.26, fold], [half + 0.015, 0.53, length + 0.015])
    lining = finishes.pick("fabric")
    piece.boxes(lining, [-half - 0.022, 0.36, fold - 0.02], [half + 0.022, 0.56, fold + 0.2])
    if rng.random() < 0.7:
        throw = finishes.pick("fabric")
        piece.boxes(throw, [-half - 0.03, 0.2, 1.45], [half + 0.03, 0.55, 1.85])
    count = 1 if half < 0.6 else 2
    centre = (np.arange(count) - (count - 1) / 2) * half
    for x in centre:
        surface = finishes.pick("fabric" if rng.random() < 0.4 else "linen")
        piece.boxes(surface, [x - 0.27, 0.48, 0.1], [x + 0.27, 0.6, 0.48])
    return piece
