"""Where things may stand: no two in one place, and room left to walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from generation.geometry import Float64
from generation.scenes.procedural.floor_plan import FloorPlan, Wall
from generation.scenes.procedural.pieces import Piece, extent_of, moved_boxes

FREE_CELL_M = 0.1
MIN_FREE_SHARE = 0.4
"""Smallest share of the floor that must stay connected and free."""
WALL_GAP_M = 0.02
HANGING_MARGIN_M = 0.05
_TOUCH_M = 0.002
_STEP_M, _HEADROOM_M = 0.06, 1.9


@dataclass(eq=False)
class RoomLayout:
    """A room that fills up."""

    plan: FloorPlan
    rng: np.random.Generator
    placed: list[Piece] = field(default_factory=list)
    """In world axes."""
    _solids: Float64 = field(default_factory=lambda: np.zeros((0, 2, 3)))
    _kept_clear: Float64 = field(default_factory=lambda: np.zeros((0, 2, 3)))

    def put(self, piece: Piece) -> None:
        """Place a piece as it lies, without asking whether it fits."""
        self.placed.append(piece)
        self._solids = np.concatenate([self._solids, *piece.solids])

    def keep_clear(self, wall: Wall, low: Sequence[float], high: Sequence[float]) -> None:
        """Reserve a box in a wall's frame."""
        box = np.array([[low, high]], float)
        moved = moved_boxes(box, wall.at(0.0), wall.world_from_wall)
        self._kept_clear = np.concatenate([self._kept_clear, moved])

    def against_a_wall(self, piece: Piece, *, front_m: float = 0.0) -> None:
        """Try to stand a piece with its back to a wall, with free floor in front."""
        extent = piece.extent()
        reserve = np.array(
            [[[extent[0, 0], 0.1, extent[1, 2]], [extent[1, 0], 1.0, extent[1, 2] + front_m]]]
        )
        for wall, along in self._wall_spots(extent[0, 0], extent[1, 0], 40):
            to, rotation = wall.at(along, WALL_GAP_M), wall.world_from_wall
            solids = moved_boxes(np.concatenate(piece.solids), to, rotation)
            front = moved_boxes(reserve, to, rotation)
            if not self._fits(solids) or self.free_share(solids) < MIN_FREE_SHARE:
                continue
            if front_m > 0:
                if not self._inside(front) or _overlap(front, self._solids):
                    continue
                self._kept_clear = np.concatenate([self._kept_clear, front])
            self.put(piece.moved(to, rotation=rotation))
            return

    def in_the_middle(self, piece: Piece) -> None:
        """Try to place a piece away from the walls, turned by a multiple of 90 degrees."""
        boxes = np.concatenate(piece.solids)
        for _ in range(30):
            rotation = _quarter_turn(int(self.rng.integers(4)))
            share = 0.5 + 0.5 * (self.rng.random(2) - 0.5)
            middle = extent_of(moved_boxes(boxes, (0, 0, 0), rotation)).mean(axis=0)
            x = round(float(share[0] * self.plan.width_m - middle[0]), 3)
            z = round(float(share[1] * self.plan.depth_m - middle[2]), 3)
            solids = moved_boxes(boxes, [x, 0.0, z], rotation)
            if self._fits(solids) and self.free_share(solids) >= MIN_FREE_SHARE:
                self.put(piece.moved([x, 0.0, z], rotation=rotation))
                return

    def on_a_wall(self, piece: Piece, height_m: float) -> None:
        """Try to hang a piece at a height, with a margin around it."""
        low, high = piece.extent() + [[-HANGING_MARGIN_M], [HANGING_MARGIN_M]]
        for wall, along in self._wall_spots(low[0], high[0], 12):
            to, rotation = wall.at(along), wall.world_from_wall
            to[1] = height_m
            grown = np.array([[[low[0], low[1], 0.001], high]])
            solids = moved_boxes(grown, to, rotation)
            if solids[:, 1, 1].max() < self.plan.height_m and self._fits(solids, wall_gap_m=0.0):
                self.put(piece.moved(to, rotation=rotation))
                return

    def from_the_ceiling(self, piece: Piece) -> None:
        """Try to hang a piece near the middle of the room's largest part."""
        parts = sorted(self.plan.rectangles(), key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
        x0, z0, x1, z1 = parts[-1]
        for _ in range(12):
            share = 0.5 + 0.3 * (self.rng.random(2) - 0.5)
            x, z = x0 + share[0] * (x1 - x0), z0 + share[1] * (z1 - z0)
            moved = piece.moved([round(float(x), 3), self.plan.height_m, round(float(z), 3)])
            if self._fits(np.concatenate(moved.solids)):
                self.put(moved)
                return

    def free_share(self, more: Float64) -> float:
        """Return the share of the floor that is free and connected, with more boxes in the room.

        Of cells of FREE_CELL_M; one is free where nothing stands in its centre between ankle and
        head.
        """
        solids = np.concatenate([self._solids, more])
        x = np.arange(0.5 * FREE_CELL_M, self.plan.width_m, FREE_CELL_M)
        z = np.arange(0.5 * FREE_CELL_M, self.plan.depth_m, FREE_CELL_M)
        floor = self.plan.contains(x[:, None], z[None])
        free = floor.copy()
        stands = (solids[:, 0, 1] < _HEADROOM_M) & (solids[:, 1, 1] > _STEP_M)
        for low, high in solids[stands]:
            i = np.searchsorted(x, [low[0], high[0]])
            j = np.searchsorted(z, [low[2], high[2]])
            free[i[0] : i[1], j[0] : j[1]] = False
        labels, count = ndimage.label(free)
        if count == 0:
            return 0.0
        return float(np.bincount(labels.reshape(-1))[1:].max() / floor.sum())

    def _wall_spots(self, left: float, right: float, tries: int) -> list[tuple[Wall, float]]:
        """Return random places along walls that are long enough."""
        walls = [w for w in self.plan.walls if w.length_m > right - left + 2 * WALL_GAP_M]
        if not walls:
            return []
        lengths = np.array([w.length_m for w in walls])
        spots = []
        for _ in range(tries):
            wall = walls[
                int(np.searchsorted(np.cumsum(lengths), self.rng.random() * lengths.sum()))
            ]
            span = wall.length_m - (right - left) - 2 * WALL_GAP_M
            share = self.rng.random()
            # Corners are popular.
            share = 0.0 if share < 0.15 else 1.0 if share > 0.85 else share
            spots.append((wall, round(float(share * span - left + WALL_GAP_M), 3)))
        return spots

    def _fits(self, solids: Float64, wall_gap_m: float = 0.5 * WALL_GAP_M) -> bool:
        return (
            self._inside(solids, wall_gap_m)
            and not _overlap(solids, self._solids)
            and not _overlap(solids, self._kept_clear)
        )

    def _inside(self, solids: Float64, gap_m: float = 0.0) -> bool:
        low, high = solids[:, 0] - gap_m, solids[:, 1] + gap_m
        rim = (
            low[:, [0, 2]].min() >= -1e-6
            and (
                high[:, [0, 2]].max(axis=0)
                <= np.array([self.plan.width_m, self.plan.depth_m]) + 1e-6
            ).all()
        )
        if not rim or high[:, 1].max() > self.plan.height_m + 0.1:
            return False
        if self.plan.notch is None:
            return True
        x0, z0, x1, z1 = self.plan.notch
        apart = (
            (high[:, 0] < x0 + 1e-6)
            | (low[:, 0] > x1 - 1e-6)
            | (high[:, 2] < z0 + 1e-6)
            | (low[:, 2] > z1 - 1e-6)
        )
        return bool(apart.all())


def _overlap(some: Float64, others: Float64) -> bool:
    """Return whether any box of one set reaches into any of the other."""
    if len(others) == 0:
        return False
    low, high = some[:, 0] + _TOUCH_M, some[:, 1] - _TOUCH_M
    near = ((others[:, 0] < high.max(axis=0)) & (others[:, 1] > low.min(axis=0))).all(axis=1)
    others = others[near]
    apart = (low[:, None] >= others[None, :, 1]) | (high[:, None] <= others[None, :, 0])
    return bool((~apart.any(axis=2)).any())


def _quarter_turn(quarter: int) -> Float64:
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter % 4]
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], float)
