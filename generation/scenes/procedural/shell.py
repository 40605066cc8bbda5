"""The room itself: floor, ceiling, walls with doors and windows, skirting boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from generation.scenes.procedural import pictures
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.floor_plan import FloorPlan, Wall
from generation.scenes.procedural.pieces import Piece, Surface

REVEAL_M = 0.2
DOOR_HALF_M, DOOR_HEIGHT_M = 0.5, 2.08
_DAYLIGHT = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Window:
    """An opening in a wall, closed by a picture of the outdoors."""

    wall: int
    """Index of the wall."""
    left_m: float
    right_m: float
    sill_m: float
    head_m: float


@dataclass(frozen=True, kw_only=True)
class Door:
    """A closed door."""

    wall: int
    """Index of the wall."""
    centre_m: float


def random_openings(rng: np.random.Generator, plan: FloorPlan) -> tuple[list[Window], list[Door]]:
    """Draw one or two doors, and windows in the outer walls."""
    doors: list[Door] = []
    windows: list[Window] = []
    walls = rng.permutation(len(plan.walls))
    num_doors = 1 if rng.random() < 0.6 else 2
    for index in walls:
        length = plan.walls[index].length_m
        if length > 1.3 and len(doors) < num_doors:
            near = rng.uniform(0.6, min(1.1, length - 0.6))
            centre = near if rng.random() < 0.5 else length - near
            doors.append(Door(wall=int(index), centre_m=round(float(centre), 3)))
    sill, head = float(rng.uniform(0.72, 0.95)), plan.height_m - float(rng.uniform(0.2, 0.42))
    taken = {door.wall: door.centre_m for door in doors}
    for index in rng.permutation(len(plan.walls)):
        wall = plan.walls[index]
        free = (0.35, wall.length_m - 0.35)
        if index in taken:
            centre = taken[int(index)]
            before, after = (free[0], centre - 0.9), (centre + 0.9, free[1])
            free = before if before[1] - before[0] > after[1] - after[0] else after
        width = min(float(rng.uniform(0.9, 2.2)), free[1] - free[0])
        if wall.is_outer and width > 0.8 and len(windows) < 3:
            left = float(rng.uniform(free[0], free[1] - width))
            windows.append(
                Window(
                    wall=int(index),
                    left_m=round(left, 2),
                    right_m=round(left + width, 2),
                    sill_m=round(sill, 2),
                    head_m=round(head, 2),
                )
            )
            if rng.random() < 0.45:
                break
    return windows, doors


def build_shell(
    rng: np.random.Generator, finishes: Finishes, plan: FloorPlan, windows: Sequence[Window]
) -> Piece:
    """Build everything but doors and furniture, in world axes."""
    shell = Piece(rng)
    _add_floor_and_ceiling(shell, finishes, plan)
    main, accent, board = finishes.pick("wall"), finishes.pick("wall"), finishes.pick("paint")
    accents = rng.random(len(plan.walls)) < 0.3
    dado = finishes.pick("dado") if rng.random() < 0.35 else None
    for index, wall in enumerate(plan.walls):
        openings = [w for w in windows if w.wall == index]
        piece = Piece(rng)
        _add_wall(piece, accent if accents[index] else main, wall, plan.height_m, openings)
        start = 0.014 if wall.starts_inside_corner else -0.014
        end = wall.length_m
        piece.boxes(board, [start, 0, 0], [end, 0.09, 0.014], solid=False, casts_shadow=False,
                    faces=("front", "top", "left", "right"), cell_m=0.16)  # fmt: skip
        top = plan.height_m
        piece.boxes(board, [start, top - 0.06, 0], [end, top, 0.014], solid=False,
                    faces=("front", "bottom", "left", "right"), casts_shadow=False)  # fmt: skip
        if dado is not None and not openings:
            _add_dado(piece, dado, board, start, end)
        for window in openings:
            _add_window(piece, finishes, window)
        shell.include(piece.moved(wall.at(0.0), rotation=wall.world_from_wall))
    return shell


def build_door(rng: np.random.Generator, finishes: Finishes) -> Piece:
    """Build a panelled door in its frame, against a wall at z = 0."""
    piece = Piece(rng)
    frame = finishes.pick("paint")
    leaf = finishes.pick("wood" if rng.random() < 0.6 else "paint")
    half, top = DOOR_HALF_M, DOOR_HEIGHT_M
    piece.boxes(frame, [[-half, 0, 0], [half - 0.08, 0, 0], [-half + 0.08, top - 0.08, 0]],
                [[-half + 0.08, top, 0.045], [half, top, 0.045], [half - 0.08, top, 0.045]],
                casts_shadow=False)  # fmt: skip
    edge = half - 0.08
    piece.boxes(leaf, [-edge, 0.006, 0], [edge, top - 0.08, 0.024], casts_shadow=False)
    panel = finishes.pick("wood" if rng.random() < 0.6 else "paint")
    rows = np.linspace(0.14, top - 0.16, int(rng.integers(2, 5)))
    columns = [(-edge + 0.09, edge - 0.09)] if rng.random() < 0.4 else [
        (-edge + 0.09, -0.04), (0.04, edge - 0.09)]  # fmt: skip
    low = [(a, y + 0.03, 0.024) for y in rows[:-1] for a, _ in columns]
    high = [(b, y - 0.03, 0.034) for y in rows[1:] for _, b in columns]
    piece.boxes(panel, low, high, casts_shadow=False)
    side = 1 if rng.random() < 0.5 else -1
    metal, x = finishes.pick("metal"), side * (edge - 0.05)
    piece.boxes(metal, [[x - 0.02, 0.92, 0.024], [min(x, x - side * 0.12), 1.0, 0.05]],
                [[x + 0.02, 1.08, 0.038], [max(x, x - side * 0.12), 1.022, 0.07]],
                casts_shadow=False)  # fmt: skip
    return piece


def _add_floor_and_ceiling(shell: Piece, finishes: Finishes, plan: FloorPlan) -> None:
    floor, ceiling = finishes.pick("floor"), finishes.pick("ceiling")
    shift = shell.rng.random(2)
    for x0, z0, x1, z1 in plan.rectangles():
        plane = np.array([[x0, z1], [x1, z1], [x1, z0], [x0, z0]])
        corners = np.insert(plane, 1, 0.0, axis=1)
        shell.add(floor, corners, uvs=plane / floor.repeat_m + shift, cell_m=0.13)
        above = np.insert(plane[::-1], 1, plan.height_m, axis=1)
        shell.add(ceiling, above, uvs=plane[::-1] / ceiling.repeat_m + shift, cell_m=0.25)


def _add_wall(
    piece: Piece, surface: Surface, wall: Wall, height_m: float, windows: Sequence[Window]
) -> None:
    """Add the wall's face as a lattice, so that patches share the corners of openings."""
    xs = sorted({0.0, wall.length_m, *(w.left_m for w in windows), *(w.right_m for w in windows)})
    ys = sorted({0.0, height_m, *(w.sill_m for w in windows), *(w.head_m for w in windows)})
    holes = {(w.left_m, w.sill_m) for w in windows}
    shift = piece.rng.random()
    for x0, x1 in pairwise(xs):
        for y0, y1 in pairwise(ys):
            if (x0, y0) in holes:
                continue
            plane = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            # The image is twice as wide as high and spans the wall's height once.
            uvs = plane / (2 * surface.repeat_m, -surface.repeat_m) + (shift, 0.0)
            piece.add(surface, np.insert(plane, 2, 0.0, axis=1), uvs=uvs, cell_m=0.16)


def _add_dado(piece: Piece, panel: Surface, rail: Surface, start: float, end: float) -> None:
    """Line the lower part of a wall, up to a rail."""
    plane = np.array([[0.0, 0.0], [end, 0.0], [end, 0.92], [0.0, 0.92]])
    shift = piece.rng.random(2)
    # Boards run upwards.
    uvs = plane[:, ::-1] / panel.repeat_m * (-1, 1) + shift
    piece.add(panel, np.insert(plane, 2, 0.006, axis=1), uvs=uvs, cell_m=0.16, casts_shadow=False)
    piece.boxes(rail, [start, 0.9, 0], [end, 0.94, 0.018], solid=False, casts_shadow=False)


def _add_window(piece: Piece, finishes: Finishes, window: Window) -> None:
    """Add reveal, frame, sill and the view, in the wall's frame."""
    x0, x1, y0, y1 = window.left_m, window.right_m, window.sill_m, window.head_m
    paint, back = finishes.pick("paint"), -REVEAL_M
    a, b, c, d = (x0, y0), (x1, y0), (x1, y1), (x0, y1)
    reveal = [
        [(*p, 0.0), (*q, 0.0), (*q, back), (*p, back)] for p, q in ((a, b), (b, c), (c, d), (d, a))
    ]
    piece.add(paint, reveal, cell_m=0.14)
    view = finishes.picture(pictures.window_view, (256, 256))
    piece.add(view, [(x0, y0, back), (x1, y0, back), (x1, y1, back), (x0, y1, back)],
              glow=_DAYLIGHT, cell_m=9.0)  # fmt: skip
    bar = 0.05
    posts = [
        x0 + bar * 0.5,
        *np.linspace(x0, x1, 2 + (x1 - x0 > 1.1) + (x1 - x0 > 1.7))[1:-1],
        x1 - bar * 0.5,
    ]
    rails = [y0 + bar * 0.5 + 0.02, y1 - bar * 0.5]
    if piece.rng.random() < 0.5:
        rails.insert(1, y0 + 0.68 * (y1 - y0))
    half = 0.5 * bar
    frame = finishes.pick("paint")
    low = [[p - half, y0, -0.13] for p in posts]
    high = [[p + half, y1, -0.07] for p in posts]
    piece.boxes(frame, low, high, casts_shadow=False, solid=False)
    low = [[p + half, r - half, -0.125] for p in posts[:-1] for r in rails]
    high = [[q - half, r + half, -0.075] for q in posts[1:] for r in rails]
    piece.boxes(frame, low, high, casts_shadow=False, solid=False)
    board = finishes.pick("stone" if piece.rng.random() < 0.5 else "wood")
    top = y0 + 0.02
    low, high = [[x0 - 0.06, y0 - 0.02, 0], [x0, y0, back]], [[x1 + 0.06, top, 0.14], [x1, top, 0]]
    piece.boxes(board, low, high, solid=False, cell_m=0.14)
