"""Outlines of rooms: a rectangle, perhaps with a corner or a piece of a wall taken out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from generation.geometry import Bool, Float64


@dataclass(frozen=True, eq=False, kw_only=True)
class Wall:
    """One straight wall, seen from inside: it runs to the right from its start."""

    start: Float64
    """(2,) x and z of its left end, metres."""
    along: Float64
    """(2,) unit direction to the right."""
    inward: Float64
    """(2,) unit normal into the room."""
    length_m: float
    is_outer: bool
    """Whether there may be outdoors behind it."""
    starts_inside_corner: bool
    """False where the wall begins at a corner that sticks out into the room."""

    @property
    def world_from_wall(self) -> Float64:
        """(3, 3) rotation: x along the wall, y up, z into the room."""
        rotation = np.zeros((3, 3))
        rotation[[0, 2], 0] = self.along
        rotation[1, 1] = 1.0
        rotation[[0, 2], 2] = self.inward
        return rotation

    def at(self, along_m: float, inward_m: float = 0.0) -> list[float]:
        """Return the world position of a point on the floor beside the wall."""
        x, z = self.start + along_m * self.along + inward_m * self.inward
        return [float(x), 0.0, float(z)]


@dataclass(frozen=True, eq=False, kw_only=True)
class FloorPlan:
    """A room of width along x and depth along z, minus one rectangular notch."""

    width_m: float
    depth_m: float
    height_m: float
    notch: tuple[float, float, float, float] | None
    """x0, z0, x1, z1 of what is missing: a corner, a chimney breast or a partition."""
    walls: tuple[Wall, ...]

    def contains(self, x: Float64, z: Float64) -> Bool:
        """Return whether points lie on the floor."""
        inside = (x > 0) & (x < self.width_m) & (z > 0) & (z < self.depth_m)
        if self.notch is not None:
            x0, z0, x1, z1 = self.notch
            inside &= ~((x > x0) & (x < x1) & (z > z0) & (z < z1))
        return inside

    def rectangles(self) -> list[tuple[float, float, float, float]]:
        """Return x0, z0, x1, z1 of the lattice cells that make up the floor."""
        xs, zs = {0.0, self.width_m}, {0.0, self.depth_m}
        if self.notch is not None:
            xs |= {self.notch[0], self.notch[2]}
            zs |= {self.notch[1], self.notch[3]}
        lines_x, lines_z = sorted(xs), sorted(zs)
        cells = [(x0, z0, x1, z1) for x0, x1 in pairwise(lines_x) for z0, z1 in pairwise(lines_z)]
        middles = np.array(cells).reshape(-1, 2, 2).mean(axis=1)
        inside = self.contains(middles[:, 0], middles[:, 1])
        return [cell for cell, kept in zip(cells, inside) if kept]


def random_floor_plan(rng: np.random.Generator) -> FloorPlan:
    """Draw a room of 3 x 3 to 7 x 6 m; every second one has a notch."""
    width = _to_cm(rng.uniform(3.0, 7.0))
    depth = _to_cm(rng.uniform(3.0, min(6.0, 30.0 / width)))
    height = _to_cm(rng.uniform(2.4, 3.0))
    kind = rng.random()
    corners = [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]
    notch = None
    if width * depth > 11 and kind < 0.25:  # an L
        x0, z1 = _to_cm(width * rng.uniform(0.55, 0.72)), _to_cm(depth * rng.uniform(0.3, 0.45))
        notch = (x0, 0.0, width, z1)
        corners[1:2] = [(x0, 0.0), (x0, z1), (width, z1)]
    elif width * depth > 13 and kind < 0.5:  # a partition or a chimney breast
        is_thin = rng.random() < 0.6
        x0 = _to_cm(width * rng.uniform(0.4, 0.55))
        x1 = _to_cm(x0 + (0.12 if is_thin else rng.uniform(0.7, 1.2)))
        z1 = _to_cm(depth * rng.uniform(0.35, 0.5) if is_thin else rng.uniform(0.25, 0.5))
        notch = (x0, 0.0, x1, z1)
        corners[1:1] = [(x0, 0.0), (x0, z1), (x1, z1), (x1, 0.0)]
    if rng.random() < 0.5:
        corners = [(_to_cm(width - x), z) for x, z in corners[::-1]]
        notch = notch and (_to_cm(width - notch[2]), notch[1], _to_cm(width - notch[0]), notch[3])
    if rng.random() < 0.5:
        corners = [(x, _to_cm(depth - z)) for x, z in corners[::-1]]
        notch = notch and (notch[0], _to_cm(depth - notch[3]), notch[2], _to_cm(depth - notch[1]))
    return FloorPlan(
        width_m=width,
        depth_m=depth,
        height_m=height,
        notch=notch,
        walls=_walls(np.array(corners), width, depth),
    )


def _walls(corners: Float64, width: float, depth: float) -> tuple[Wall, ...]:
    """Return the walls between corners, which run to the right seen from inside."""
    edges = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(edges).sum(axis=1)
    along = np.round(edges / lengths[:, None])
    walls = []
    for i, (start, direction) in enumerate(zip(corners, along)):
        before = along[i - 1]
        inward = np.array([-direction[1], direction[0]])
        on_rim = float(start @ np.abs(inward)) in (0.0, float(np.abs(inward) @ (width, depth)))
        turn = before[0] * direction[1] - before[1] * direction[0]
        walls.append(
            Wall(
                start=start,
                along=direction,
                inward=inward,
                length_m=round(float(lengths[i]), 3),
                is_outer=on_rim,
                starts_inside_corner=bool(turn > 0),
            )
        )
    return tuple(walls)


def _to_cm(metres: float) -> float:
    return round(float(metres), 2)
