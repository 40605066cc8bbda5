"""Rays against a scene's triangles: the one door to Embree (through embreex)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from generation.geometry import Bool, Float32, Int32
from generation.scenes.scene import Scene

MAX_LAYERS = 64
"""Back faces that one ray may pass through before it counts as having hit nothing."""


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays first met a surface."""

    faces: Int32
    """(N,) face index, -1 where nothing was hit."""
    distances: Float32
    """(N,) distance in units of the ray direction's length; 0 where nothing was hit."""
    barycentric_u: Float32
    """(N,) weight of the face's second vertex."""
    barycentric_v: Float32
    """(N,) weight of the face's third vertex."""

    @property
    def hit(self) -> Bool:
        """(N,) whether the ray met a surface."""
        return self.faces >= 0


class RayCaster:
    """A scene's triangles in an Embree hierarchy. Not to be shared between threads."""

    def __init__(self, scene: Scene) -> None:
        self._embree = EmbreeScene()
        # Embree keeps pointers into neither array: embreex copies both.
        TriangleMesh(
            self._embree,
            np.ascontiguousarray(scene.vertices, np.float32),
            np.ascontiguousarray(scene.faces, np.int32),
        )
        # Rays restart this far beyond a back face: float32 positions are good to about 1e-7 of
        # the scene's extent.
        self._skip_m = max(1e-5, 4e-7 * float(np.abs(scene.bounds).max()))

    def cast(
        self,
        origins: NDArray[np.floating],
        directions: NDArray[np.floating],
        *,
        cull_back_faces: bool = True,
        near: float = 0.0,
    ) -> Hits:
        """Cast rays and return their first hits, row by row.

        Origins and directions are (..., 3) and broadcast; directions need no normalising. With
        cull_back_faces a ray ignores faces that it meets from behind, as a rasteriser does, and
        those nearer than near, in units of the direction's length, as its near plane does.
        """
        assert cull_back_faces or near == 0, "near goes with cull_back_faces"
        shape = np.broadcast(origins, directions).shape
        origins, directions = (
            np.ascontiguousarray(np.broadcast_to(each, shape), np.float32).reshape(-1, 3)
            for each in (origins, directions)
        )
        result = self._embree.run(origins, directions, output=True)
        faces, distances = result["primID"], result["tfar"]
        u, v = result["u"], result["v"]
        if cull_back_faces:
            self._pass_through(origins, directions, faces, distances, u, v, result["Ng"], near)
        distances[faces < 0] = 0.0
        return Hits(faces, distances, u, v)

    def _pass_through(
        self,
        origins: Float32,
        directions: Float32,
        faces: Int32,
        distances: Float32,
        u: Float32,
        v: Float32,
        normals: Float32,
        near: float,
    ) -> None:
        """Move hits on back faces, or nearer than near, on to the next front face, in place."""
        unseen = (np.einsum("ij,ij->i", normals, directions) > 0) | (distances < near)
        rays = np.flatnonzero((faces >= 0) & unseen)
        for _ in range(MAX_LAYERS):
            if len(rays) == 0:
                return
            ray_directions = directions[rays]
            skip = self._skip_m / np.linalg.norm(ray_directions, axis=1)
            start = distances[rays] + skip
            result = self._embree.run(
                origins[rays] + start[:, None] * ray_directions, ray_directions, output=True
            )
            faces[rays] = result["primID"]
            distances[rays] = start + result["tfar"]
            u[rays], v[rays] = result["u"], result["v"]
            unseen = np.einsum("ij,ij->i", result["Ng"], ray_directions) > 0
            unseen |= distances[rays] < near
            rays = rays[(result["primID"] >= 0) & unseen]
        faces[rays] = -1
