"""Pieces cut into triangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generation.geometry import Bool, Float32, Float64, Int32, UInt8
from generation.scenes.procedural.pieces import Piece
from generation.scenes.scene import Material

_PULL_M, _LIFT_M = 0.012, 0.004
_UNTIE_M = 3.1e-7
"""Added before rounding: halves of 0.1 mm are common, and must not hang on a last bit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Mesh:
    """A finished mesh, with what the light needs to know of its vertices."""

    vertices: Float32
    """(V, 3) metres."""
    normals: Float32
    """(V, 3) unit."""
    light_points: Float32
    """(V, 3) where a vertex collects its light: just off the surface, off the patch's rim."""
    uvs: Float32
    """(V, 2)."""
    glow: UInt8
    """(V, 3) fixed colours; zeros where the light decides."""
    faces: Int32
    """(F, 3)."""
    face_materials: Int32
    """(F,) indices into materials."""
    face_casts_shadow: Bool
    """(F,)."""
    materials: tuple[Material, ...]


def assemble(pieces: Sequence[Piece]) -> Mesh:
    """Cut the patches of pieces into triangles; positions are rounded to 0.1 mm."""
    patches = [p for piece in pieces for p in piece.patches]
    counts = [len(p.corners) for p in patches]
    slots = {id(p.surface.material): p.surface.material for p in patches}
    order = {key: index for index, key in enumerate(slots)}
    material = np.repeat([order[id(p.surface.material)] for p in patches], counts)
    casts = np.repeat([p.casts_shadow for p in patches], counts)
    glow = np.repeat([p.glow or (0, 0, 0) for p in patches], counts, axis=0).astype(np.uint8)
    cell = np.repeat([p.cell_m for p in patches], counts)
    corners = np.concatenate([p.corners for p in patches])
    # 8 columns a corner: position, normal, uv; everything is interpolated alike.
    normals = np.concatenate([p.normals for p in patches])
    values = np.concatenate([corners, normals, np.concatenate([p.uvs for p in patches])], axis=2)
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 3]])
    length_u = np.linalg.norm(edges, axis=2).max(axis=0)
    edges = np.stack([corners[:, 3] - corners[:, 0], corners[:, 2] - corners[:, 1]])
    length_v = np.linalg.norm(edges, axis=2).max(axis=0)
    num_u = np.maximum(1, np.ceil(np.round(length_u / cell, 4))).astype(int)
    num_v = np.maximum(1, np.ceil(np.round(length_v / cell, 4))).astype(int)

    blocks: list[tuple[Float64, Float64, Int32, NDArray[np.intp]]] = []
    start = 0
    for key in np.unique(num_u * 1000 + num_v):
        members = np.flatnonzero(num_u * 1000 + num_v == key)
        nu, nv = int(key) // 1000, int(key) % 1000
        s, t = np.arange(nu + 1) / nu, np.arange(nv + 1) / nv
        grid = _interpolate(values[members], s[None], t[None])
        pull_u = np.minimum(0.25, _PULL_M / np.maximum(length_u[members], 1e-6))[:, None]
        pull_v = np.minimum(0.25, _PULL_M / np.maximum(length_v[members], 1e-6))[:, None]
        inner = _interpolate(
            values[members, :, :3], np.clip(s, pull_u, 1 - pull_u), np.clip(t, pull_v, 1 - pull_v)
        )
        faces = _grid_faces(nu, nv)
        offsets = start + np.arange(len(members)) * (nu + 1) * (nv + 1)
        all_faces = (offsets[:, None, None] + faces).reshape(-1, 3).astype(np.int32)
        blocks.append((grid.reshape(-1, 8), inner.reshape(-1, 3), all_faces, members))
        start += len(members) * (nu + 1) * (nv + 1)

    vertices = np.concatenate([b[0] for b in blocks])
    faces = np.concatenate([b[2] for b in blocks])
    vertex_patch = np.concatenate([np.repeat(b[3], len(b[0]) // len(b[3])) for b in blocks])
    face_patch = np.concatenate([np.repeat(b[3], len(b[2]) // len(b[3])) for b in blocks])
    position = np.round(vertices[:, :3] + _UNTIE_M, 4).astype(np.float32)
    normals = vertices[:, 3:6]
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    corner = position[faces]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    inner = np.concatenate([b[1] for b in blocks])
    real = area > 1e-9  # patches of three corners leave triangles without area
    return Mesh(
        vertices=position,
        normals=normals.astype(np.float32),
        light_points=(inner + _LIFT_M * normals).astype(np.float32),
        uvs=vertices[:, 6:].astype(np.float32),
        glow=glow[vertex_patch],
        faces=faces[real],
        face_materials=material[face_patch][real].astype(np.int32),
        face_casts_shadow=casts[face_patch][real],
        materials=tuple(slots.values()),
    )


def _interpolate(values: Float64, s: Float64, t: Float64) -> Float64:
    """Return (N, len(t), len(s), C) bilinear values of (N, 4, C) corners.

    s and t: (N or 1, K) places between 0 and 1.
    """
    s, t = s[:, None, :, None], t[:, :, None, None]
    low = values[:, None, None, 0] * (1 - s) + values[:, None, None, 1] * s
    high = values[:, None, None, 3] * (1 - s) + values[:, None, None, 2] * s
    mixed: Float64 = low * (1 - t) + high * t
    return mixed


def _grid_faces(num_u: int, num_v: int) -> Int32:
    """Return (2 * num_u * num_v, 3) counter-clockwise faces of a grid of vertices, row by row."""
    first = (np.arange(num_v)[:, None] * (num_u + 1) + np.arange(num_u)).reshape(-1)
    right, above = first + 1, first + num_u + 1
    lower = np.stack([first, right, above + 1], axis=1)
    upper = np.stack([first, above + 1, above], axis=1)
    return np.concatenate([lower, upper]).astype(np.int32)
