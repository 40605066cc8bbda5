"""Light baked into vertex colours: windows, lamps and what every surface passes on.

Light from windows and lamps is sampled at fixed points; the rest of a vertex's hemisphere is seen
through rays whose hits are kept, so that a bounce is one product with a sparse matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from generation.geometry import Bool, Float32, Float64, UInt8
from generation.raycast import RayCaster
from generation.scenes.procedural.meshing import Mesh
from generation.scenes.scene import Scene

NUM_HEMISPHERE_RAYS = 20
NUM_BOUNCES = 4
DISPLAY_GAMMA = 2.2
MEDIAN_LEVEL = 0.76
"""Vertex colour, 0 to 1, at the median of a room's light."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AreaLight:
    """A shining patch, or a shining ball where it has no normal."""

    points: Float64
    """(N, 3) samples on the light."""
    normal: Float64 | None
    """(3,) unit normal of a patch that shines to one side; None for all sides."""
    power: Float64
    """(3,) RGB; irradiance at 1 m, straight in front."""


def bake_light(mesh: Mesh, lights: list[AreaLight], ambient: float) -> UInt8:
    """Return (V, 3) vertex colours.

    ambient: share of light without direction, dimmed only in corners, 0 to 1.
    """
    shadow_casters = RayCaster(_shadow_scene(mesh))
    dark = mesh.glow.max(axis=1) == 0
    points, normals = mesh.light_points[dark], mesh.normals[dark]
    direct = np.zeros((len(points), 3), np.float32)
    for light in lights:
        direct += _direct_light(shadow_casters, points, normals, light)
    bounce, openness = _hemisphere(shadow_casters, mesh, points, normals, dark)
    albedo = _vertex_albedo(mesh)[dark]
    light_sum = direct
    for _ in range(NUM_BOUNCES):
        light_sum = direct + bounce @ (albedo * light_sum)
    light_sum = light_sum + ambient * np.median(light_sum, axis=0) * openness[:, None]
    colors = mesh.glow.copy()
    colors[dark] = _displayed(light_sum, bounce.T @ (_vertex_areas(mesh)[dark] * openness))
    return colors


def _shadow_scene(mesh: Mesh) -> Scene:
    return Scene(
        scene_id="shadows",
        vertices=mesh.vertices,
        faces=mesh.faces[mesh.face_casts_shadow],
        uvs=mesh.uvs,
        vertex_colors=mesh.glow,
        face_materials=mesh.face_materials[mesh.face_casts_shadow],
        materials=mesh.materials,
    )


def _direct_light(
    caster: RayCaster, points: Float32, normals: Float32, light: AreaLight
) -> Float32:
    """Return the (N, 3) irradiance from one light, with soft shadows."""
    irradiance = np.zeros(len(points), np.float32)
    for sample in light.points.astype(np.float32):
        toward = sample - points
        distance = np.sqrt(np.einsum("ij,ij->i", toward, toward))
        cosine = np.einsum("ij,ij->i", toward, normals) / distance
        if light.normal is not None:
            facing = np.einsum("ij,j->i", toward, -light.normal.astype(np.float32))
            cosine *= np.maximum(facing / distance, 0)
        lit = np.flatnonzero(cosine > 1e-3)
        # The ray stops short of the light's own surface.
        hits = caster.cast(points[lit], toward[lit], cull_back_faces=False)
        free = ~hits.hit | (hits.distances > 0.985)
        lit = lit[free]
        irradiance[lit] += cosine[lit] / np.maximum(distance[lit], 0.25) ** 2
    color = light.power.astype(np.float32) / len(light.points)
    return (irradiance[:, None] * color).astype(np.float32)


def _hemisphere(
    caster: RayCaster, mesh: Mesh, points: Float32, normals: Float32, dark: Bool
) -> tuple[csr_matrix, Float32]:
    """Return the (N, N) share of each vertex in what each point sees, and (N,) openness."""
    x, y = np.eye(3, dtype=np.float32)[:2]
    tangent = np.where(np.abs(normals[:, :1]) < 0.9, x, y)
    tangent = np.cross(normals, tangent)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    frame = np.stack([tangent, np.cross(normals, tangent), normals], axis=1)
    local = _cosine_directions(NUM_HEMISPHERE_RAYS)
    directions = np.einsum("rk,nkj->nrj", local, frame).reshape(-1, 3)
    origins = np.repeat(points, NUM_HEMISPHERE_RAYS, axis=0)
    hits = caster.cast(origins, directions, cull_back_faces=False)
    faces = mesh.faces[mesh.face_casts_shadow][hits.faces]
    # A point inside of something, or behind it, sees the back of its faces: darkness.
    seen_normals = mesh.normals[faces[:, 0]]
    front = hits.hit & (np.einsum("ij,ij->i", seen_normals, directions) < 0.1)
    # One of the face's corners stands for the hit; the choice is the largest weight.
    u, v = hits.barycentric_u, hits.barycentric_v
    corner = np.where(u > np.maximum(v, 1 - u - v), 1, np.where(v > 1 - u - v, 2, 0))
    seen = faces[np.arange(len(faces)), corner]
    row_of = np.cumsum(dark) - 1
    keep = front & dark[seen]
    rows = np.repeat(np.arange(len(points)), NUM_HEMISPHERE_RAYS)
    weight = np.full(int(keep.sum()), 1 / NUM_HEMISPHERE_RAYS, np.float32)
    matrix = csr_matrix(
        (weight, (rows[keep], row_of[seen[keep]])), shape=(len(points), len(points))
    )
    near = np.clip(hits.distances / np.float32(0.9), 0, 1)
    openness = np.where(front, np.sqrt(near), 0.0).reshape(-1, NUM_HEMISPHERE_RAYS).mean(axis=1)
    return matrix, openness.astype(np.float32)


def _cosine_directions(count: int) -> Float32:
    """Return (count, 3) cosine-distributed directions about z, the same for every vertex.

    The same set for all gives smooth light where random sets would give speckles.
    """
    index = np.arange(count)
    radius = np.sqrt((index + 0.5) / count)
    angle = index * (math.pi * (3 - math.sqrt(5)))
    height = np.sqrt(1 - radius**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1).astype(np.float32)


def _vertex_albedo(mesh: Mesh) -> Float32:
    """Return the (V, 3) share of light each vertex passes on: its material's mean colour."""
    means = []
    for material in mesh.materials:
        texture = material.texture
        mean = 1.0 if texture is None else texture.image[::8, ::8].mean(axis=(0, 1)) / 255
        means.append(np.broadcast_to(mean * np.array(material.base_color), 3))
    albedo = np.array(means, np.float32) ** DISPLAY_GAMMA
    vertex_material = np.zeros(len(mesh.vertices), np.int32)
    vertex_material[mesh.faces] = mesh.face_materials[:, None]
    return albedo[vertex_material]


def _vertex_areas(mesh: Mesh) -> Float64:
    """Return the (V,) area in square metres that each vertex stands for."""
    corner = mesh.vertices[mesh.faces]
    doubled = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.repeat(np.linalg.norm(doubled, axis=1) / 6, 3)
    sums = np.bincount(mesh.faces.reshape(-1), area, minlength=len(mesh.vertices))
    return sums.astype(np.float64)


def _displayed(light: Float32, seen: Float64) -> UInt8:
    """Return display colours of light: the median at MEDIAN_LEVEL, highlights rolled off.

    seen: (N,) how much of all views each point takes up, so that hidden surfaces do not count.
    """
    # Written without BLAS, whose last bits depend on the machine and on its number of threads.
    luminance = (light * np.array([0.3, 0.6, 0.1], np.float32)).sum(axis=1)
    order = np.argsort(luminance, kind="stable")
    below = np.cumsum(seen[order])
    median = max(float(luminance[order[np.searchsorted(below, 0.5 * below[-1])]]), 1e-6)
    # Eyes and cameras adapt to most of the light's tint.
    tint = (seen[:, None] * light).sum(axis=0) / max(float((seen * luminance).sum()), 1e-6)
    balanced = light / median / tint**0.7
    level = MEDIAN_LEVEL * np.maximum(balanced, 1e-4) ** (1 / DISPLAY_GAMMA)
    knee = 0.75
    rolled = knee + (1 - knee) * np.tanh((level - knee) / (1 - knee))
    level = np.where(level > knee, rolled, level)
    return np.clip(level * 255 + 0.5, 0, 255).astype(np.uint8)
