"""Pieces of furniture and rooms: lists of four-cornered patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from generation.geometry import Float64, rotation_about_axis
from generation.scenes.scene import Material

_BOX_FACES = {
    "front": ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    "back": ((1, 0, 0), (0, 0, 0), (0, 1, 0), (1, 1, 0)),
    "right": ((1, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)),
    "left": ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    "top": ((0, 1, 1), (1, 1, 1), (1, 1, 0), (0, 1, 0)),
    "bottom": ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
}
"""Corners of a box's faces (0 low, 1 high), counter-clockwise from outside, bottom left first."""

FRONT = ("front",)
SIDES = ("front", "back", "right", "left")
ALL_FACES = tuple(_BOX_FACES)

_SHEET_M = 0.002
_UNIT_UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)


@dataclass(frozen=True, eq=False)
class Surface:
    """A material and the length in metres that one repeat of its texture covers."""

    material: Material
    repeat_m: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Patches:
    """N bilinear patches of one surface; corners run counter-clockwise seen from outside."""

    surface: Surface
    corners: Float64
    """(N, 4, 3) metres: first edge along u, fourth corner above the first."""
    normals: Float64
    """(N, 4, 3) unit normals for the light."""
    uvs: Float64
    """(N, 4, 2)."""
    cell_m: float
    """Largest distance between the mesh's vertices, which carry the light."""
    casts_shadow: bool
    """False for thin things flat on a wall or floor, which would blacken what they hide."""
    glow: tuple[int, int, int] | None
    """Fixed vertex colour of things that shine; None where the light decides."""


@dataclass(eq=False)
class Piece:
    """Something under construction in its own frame: x to the right, y up, z to the front.

    Furniture stands on y = 0 with its back at z = 0 and its middle at x = 0.
    """

    rng: np.random.Generator
    """Shifts textures, so that no two boards show the same grain."""
    patches: list[Patches] = field(default_factory=list)
    solids: list[Float64] = field(default_factory=list)
    """(N, 2, 3) low and high corners of the boxes that fill space."""
    lamps: list[Float64] = field(default_factory=list)
    """(3,) points that shine."""

    def add(
        self,
        surface: Surface,
        corners: ArrayLike,
        *,
        uvs: ArrayLike | None = None,
        normals: Float64 | None = None,
        cell_m: float = 0.22,
        casts_shadow: bool = True,
        glow: tuple[int, int, int] | None = None,
    ) -> None:
        """Add (N, 4, 3) patches; each shows the whole texture once unless uvs are given."""
        corners = np.asarray(corners, float).reshape(-1, 4, 3)
        if normals is None:
            flat = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
            normals = np.repeat(flat[:, None], 4, axis=1)
        texture = _UNIT_UVS if uvs is None else np.asarray(uvs, float)
        self.patches.append(
            Patches(
                surface=surface,
                corners=corners,
                normals=normals,
                uvs=np.broadcast_to(texture, (len(corners), 4, 2)),
                cell_m=cell_m,
                casts_shadow=casts_shadow,
                glow=glow,
            )
        )

    def boxes(
        self,
        surface: Surface,
        low: ArrayLike,
        high: ArrayLike,
        *,
        faces: Sequence[str] = ALL_FACES,
        cell_m: float = 0.22,
        casts_shadow: bool = True,
        solid: bool = True,
        whole_texture: bool = False,
        glow: tuple[int, int, int] | None = None,
    ) -> None:
        """Add axis-aligned boxes between (N, 3) corners; the grain runs along each longer edge."""
        ends = np.stack([np.atleast_2d(low), np.atleast_2d(high)], axis=1).astype(float)
        pick = np.array([_BOX_FACES[name] for name in faces])
        corners = ends[:, pick, np.arange(3)].reshape(-1, 4, 3)
        uvs = None if whole_texture else self._grain_uvs(surface, corners)
        self.add(surface, corners, uvs=uvs, cell_m=cell_m, casts_shadow=casts_shadow, glow=glow)
        if solid:
            self.solids.append(ends)

    def legs(
        self,
        surface: Surface,
        under: tuple[float, float, float, float],
        *,
        top: float,
        thickness: float,
    ) -> None:
        """Add four legs up to a height in the corners of a rectangle (x0, z0, x1, z1)."""
        x0, z0, x1, z1 = under
        low = [(x, 0.0, z) for x in (x0, x1 - thickness) for z in (z0, z1 - thickness)]
        high = [(x + thickness, top, z + thickness) for x, _, z in low]
        self.boxes(surface, low, high)

    def lathe(
        self,
        surface: Surface,
        profile: Sequence[tuple[float, float]],
        centre: Sequence[float] = (0.0, 0.0, 0.0),
        *,
        sides: int = 10,
        solid: bool = True,
        casts_shadow: bool = True,
        glow: tuple[int, int, int] | None = None,
    ) -> None:
        """Add a turned body: (radius, height) from the bottom up on the outside."""
        radius, height = np.array(profile, float).T
        angle = np.arange(sides + 1) * (2 * math.pi / sides)
        around = np.stack([np.sin(angle), np.zeros(sides + 1), np.cos(angle)], axis=1)
        rings = radius[:, None, None] * around + np.array(centre, float)
        rings[..., 1] += height[:, None]
        step_r, step_y = np.diff(radius), np.diff(height)
        length = np.maximum(np.hypot(step_r, step_y), 1e-9)
        outward = (step_y / length)[:, None, None] * around
        outward[..., 1] -= (step_r / length)[:, None]
        across = np.round(max(1.0, 2 * math.pi * radius.max() / surface.repeat_m))
        u = angle / (2 * math.pi) * across
        v = -np.concatenate([[0.0], np.cumsum(length)]) / surface.repeat_m
        uvs = np.stack(np.broadcast_arrays(u[None], v[:, None]), axis=-1) + self.rng.random(2)
        self.add(
            surface,
            _strips(rings),
            uvs=_strips(uvs),
            normals=np.stack(
                [outward[:, :-1], outward[:, 1:], outward[:, 1:], outward[:, :-1]], axis=2
            ).reshape(-1, 4, 3),
            casts_shadow=casts_shadow,
            glow=glow,
        )
        if solid:
            self.solids.append(np.array([[rings.min(axis=(0, 1)), rings.max(axis=(0, 1))]]))

    def sheet(
        self,
        surface: Surface,
        lines: NDArray[np.floating],
        *,
        cell_m: float = 0.3,
        solid: bool = False,
    ) -> None:
        """Add a thin sheet, seen from both sides, through (rows, columns, 3) points.

        Rows run upwards, columns to the right seen from the front.
        """
        length_u = np.linalg.norm(np.diff(lines, axis=1), axis=2).mean(axis=0)
        length_v = np.linalg.norm(np.diff(lines, axis=0), axis=2).mean(axis=1)
        u = np.concatenate([[0.0], np.cumsum(length_u)]) / surface.repeat_m
        v = -np.concatenate([[0.0], np.cumsum(length_v)]) / surface.repeat_m
        uvs = np.stack(np.broadcast_arrays(u[None], v[:, None]), axis=-1)
        front, front_uvs = _strips(lines), _strips(uvs)
        backwards = [1, 0, 3, 2]
        # The back lies a little behind: a ray that skips one side must not skip the other too.
        facing = np.cross(front[:, 2] - front[:, 0], front[:, 3] - front[:, 1]).sum(axis=0)
        behind = front - _SHEET_M * facing / np.linalg.norm(facing)
        self.add(
            surface,
            np.concatenate([front, behind[:, backwards]]),
            uvs=np.concatenate([front_uvs, front_uvs[:, backwards]]),
            cell_m=cell_m,
        )
        if solid:
            self.solids.append(np.array([[lines.min(axis=(0, 1)), lines.max(axis=(0, 1))]]))

    def include(self, other: Piece) -> None:
        """Take over another piece's parts, which lie in this piece's frame already."""
        self.patches += other.patches
        self.solids += other.solids
        self.lamps += other.lamps

    def moved(self, to: Sequence[float], *, rotation: Float64 | None = None) -> Piece:
        """Return a copy turned by a (3, 3) rotation, then moved."""
        turn, shift = np.eye(3) if rotation is None else rotation, np.array(to, float)
        patches = [
            replace(p, corners=p.corners @ turn.T + shift, normals=p.normals @ turn.T)
            for p in self.patches
        ]
        solids = [moved_boxes(ends, to, turn) for ends in self.solids]
        lamps = [turn @ lamp + shift for lamp in self.lamps]
        return Piece(self.rng, patches, solids, lamps)

    def turned(self, yaw_rad: float) -> Piece:
        """Return a copy turned about the upright axis."""
        return self.moved((0, 0, 0), rotation=rotation_about_axis(1, yaw_rad))

    def extent(self) -> Float64:
        """Return (2, 3) low and high corners of all solids, to the millimetre."""
        return extent_of(np.concatenate(self.solids))

    def _grain_uvs(self, surface: Surface, corners: Float64) -> Float64:
        along = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
        up = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
        uvs = np.stack([along, up], axis=1)[:, None] * _UNIT_UVS
        upright = up > along
        uvs[upright] = uvs[upright][..., ::-1]
        shifted: Float64 = uvs / surface.repeat_m + self.rng.random((len(corners), 1, 2))
        return shifted


def moved_boxes(ends: Float64, to: Sequence[float], rotation: Float64) -> Float64:
    """Return the (N, 2, 3) boxes around boxes that were turned, then moved."""
    pick = np.array(_BOX_FACES["front"] + _BOX_FACES["back"])
    corners = ends[:, pick, np.arange(3)] @ rotation.T + np.array(to, float)
    # Rounded, so that no decision hangs on the last bit of a sine.
    return np.round(np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1), 6)


def extent_of(ends: Float64) -> Float64:
    """Return (2, 3) low and high corners of (N, 2, 3) boxes, to the millimetre."""
    return np.round(np.stack([ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)]), 3)


def _strips(points: NDArray[np.floating]) -> Float64:
    """Return the (N, 4, C) patches of (rows, columns, C) points, rows upwards."""
    patches = np.stack([points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]], axis=2)
    return patches.reshape(-1, 4, points.shape[2]).astype(float)
