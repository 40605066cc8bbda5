"""What makes a room lived in: rugs, lamps, plants, pictures, curtains and radiators."""

from __future__ import annotations

import numpy as np

from generation.scenes.procedural import pictures
from generation.scenes.procedural.clutter import clutter, potted
from generation.scenes.procedural.finishes import SHADE_GLOW, Finishes
from generation.scenes.procedural.pieces import FRONT, SIDES, Piece

RUG_M = 0.009


def rug(
    rng: np.random.Generator, finishes: Finishes, size_m: tuple[float, float] = (1.6, 1.1)
) -> Piece:
    """Lay a rug."""
    piece = Piece(rng)
    half, depth = size_m[0] / 2, size_m[1]
    image = finishes.picture(pictures.rug, (192, 256))
    piece.boxes(
        image,
        [-half, 0, 0],
        [half, RUG_M, depth],
        faces=("top", *SIDES),
        cell_m=0.12,
        casts_shadow=False,
        whole_texture=True,
    )
    return piece


def floor_lamp(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Stand a tall lamp."""
    piece = Piece(rng)
    height, radius = float(rng.uniform(1.3, 1.6)), float(rng.uniform(0.15, 0.22))
    foot = [(0, 0), (0.14, 0), (0.13, 0.025), (0.015, 0.035), (0.012, height), (0, height)]
    piece.lathe(finishes.pick("metal"), foot, (0, 0, 0.24), sides=10)
    shade = [(radius, height - 0.02), (radius * float(rng.uniform(0.5, 0.9)), height + 0.26)]
    rim = [(0, height - 0.02), *shade, (0, height + 0.26)]
    piece.lathe(finishes.pick("linen"), rim, (0, 0, 0.24), sides=14, glow=SHADE_GLOW,
                casts_shadow=False)  # fmt: skip
    piece.lamps.append(np.array([0, height + 0.12, 0.24]))
    return piece


def plant(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Stand a big potted plant."""
    made = Piece(rng)
    leaf = float(rng.uniform(0.35, 0.55))
    radius, height = float(rng.uniform(0.13, 0.18)), float(rng.uniform(0.26, 0.4))
    potted(
        made, finishes, radius=radius, height=height, leaf_m=leaf, count=int(rng.integers(16, 26))
    )
    reach = 0.75 * leaf
    made.solids.append(np.array([[[-reach, height, -reach], [reach, height + leaf, reach]]]))
    return made.moved((0, 0, reach))


def picture(rng: np.random.Generator, finishes: Finishes, size_m: tuple[float, float]) -> Piece:
    """Frame a painting or pin up a poster; y = 0 is its lower edge."""
    piece = Piece(rng)
    half, height = size_m[0] / 2, size_m[1]
    texels = 128 if max(size_m) < 0.5 else 224
    shape = (texels, max(64, min(256, int(texels * size_m[0] / height))))
    image = finishes.wall_picture(shape)
    if rng.random() < 0.25:  # a poster
        piece.boxes(image, [-half, 0, 0.0], [half, height, 0.008], whole_texture=True,
                    cell_m=0.3, casts_shadow=False)  # fmt: skip
        return piece
    bar, deep = float(rng.uniform(0.02, 0.05)), float(rng.uniform(0.018, 0.032))
    frame = finishes.pick("wood" if rng.random() < 0.6 else "metal")
    piece.boxes(
        frame,
        [[-half, 0, 0], [-half, height - bar, 0], [-half, bar, 0], [half - bar, bar, 0]],
        [[half, bar, deep], [half, height, deep], [-half + bar, height - bar, deep],
         [half, height - bar, deep]],
        cell_m=0.4, casts_shadow=False,
    )  # fmt: skip
    piece.boxes(image, [-half + bar, bar, 0], [half - bar, height - bar, 0.009], faces=FRONT,
                whole_texture=True, cell_m=0.3, casts_shadow=False)  # fmt: skip
    return piece


def clock(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Hang a clock; y = 0 is its lower edge."""
    piece = Piece(rng)
    half = float(rng.uniform(0.12, 0.2))
    rim = finishes.pick("metal")
    piece.boxes(rim, [-half, 0, 0], [half, 2 * half, 0.03], casts_shadow=False)
    image = finishes.picture(pictures.clock_face, (128, 128))
    piece.boxes(image, [-half + 0.02, 0.02, 0.03], [half - 0.02, 2 * half - 0.02, 0.034],
                faces=FRONT, whole_texture=True, casts_shadow=False, solid=False)  # fmt: skip
    return piece


def wall_shelf(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Hang a board with things on it; y = 0 is the board's lower side."""
    piece = Piece(rng)
    half, depth = float(rng.uniform(0.3, 0.6)), 0.25
    wood, metal = finishes.pick("wood"), finishes.pick("metal")
    piece.boxes(wood, [-half, 0.04, 0], [half, 0.065, depth])
    piece.boxes(metal, [[x, 0, 0] for x in (-half + 0.06, half - 0.08)],
                [[x + 0.02, 0.04, depth - 0.05] for x in (-half + 0.06, half - 0.08)])  # fmt: skip
    clutter(piece, finishes, (-half, 0.01, half, depth), 0.065, share=0.85)
    return piece


def radiator(rng: np.random.Generator, finishes: Finishes, width_m: float) -> Piece:
    """Hang a ribbed radiator below a window."""
    piece = Piece(rng)
    paint = finishes.pick("paint")
    count = max(5, int(width_m / 0.07))
    x = (np.arange(count) - count / 2) * 0.07
    piece.boxes(
        paint, [[v, 0.12, 0.04] for v in x], [[v + 0.05, 0.62, 0.11] for v in x], cell_m=0.5
    )
    low = [[x[0], y, 0.055] for y in (0.16, 0.55)]
    high = [[x[-1] + 0.05, y + 0.04, 0.095] for y in (0.16, 0.55)]
    piece.boxes(paint, low, high, solid=False)
    piece.boxes(finishes.pick("metal"), [x[-1] + 0.05, 0.165, 0.06], [x[-1] + 0.1, 0.195, 0.09])
    return piece


def curtain(
    rng: np.random.Generator, finishes: Finishes, width_m: float, bottom_m: float, top_m: float
) -> Piece:
    """Hang a gathered curtain between two heights."""
    piece = Piece(rng)
    columns = max(9, int(width_m / 0.035))
    x = (np.arange(columns) / (columns - 1) - 0.5) * width_m
    fold = 0.032 * np.where(np.arange(columns) % 2 == 0, 1, -1) * rng.uniform(0.5, 1.0, columns)
    flare = (1.0, 0.94, 0.97)
    rows = [np.stack([x * f, np.full(columns, y), 0.075 + fold * f], axis=1)
            for f, y in zip(flare, (bottom_m, 0.5 * (bottom_m + top_m), top_m))]  # fmt: skip
    piece.sheet(finishes.pick("fabric"), np.stack(rows), cell_m=0.35, solid=True)
    return piece


def ceiling_lamp(rng: np.random.Generator, finishes: Finishes, drop_m: float) -> Piece:
    """Hang a lamp; y = 0 is the ceiling, the lamp is below."""
    piece = Piece(rng)
    radius = float(rng.uniform(0.16, 0.28))
    cable = [(0, -drop_m), (0.008, -drop_m), (0.008, -0.02), (0.05, -0.02), (0.05, 0), (0, 0)]
    piece.lathe(finishes.pick("metal"), cable, sides=6, casts_shadow=False)
    low, high = -drop_m - 0.2, -drop_m
    if rng.random() < 0.5:
        profile = [(0, low), (radius, low), (0.35 * radius, high), (0, high)]
    else:
        turns = np.linspace(0, np.pi, 7)
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        profile = [(float(radius * np.sin(a)), float(middle - half * np.cos(a))) for a in turns]
    piece.lathe(finishes.pick("linen"), profile, sides=14, glow=SHADE_GLOW, casts_shadow=False)
    piece.lamps.append(np.array([0, low - 0.02, 0]))
    return piece
