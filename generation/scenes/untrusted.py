"""What a scene's files may ask for: they come from anywhere, and a bad one must cost an error only.

A few kilobytes can declare arrays and images of terabytes, name files that are none of theirs, and
nest without end. What is refused here is refused before anything is allocated or opened.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from generation.scenes.scene import Scene, SceneError

FREE_BYTES = 1 << 30
"""Memory that any scene may unfold to."""
BYTES_PER_BYTE = 256
"""Further memory for each byte of its files: a JPEG that compresses well takes about 100."""
MAX_DEPTH = 256
"""Nodes above each other in a glTF file; trimesh's time grows with the square of it."""
MAX_EXTENT_M = 10_000.0
"""Side of a scene; the grid on which floors are searched grows with it."""
INDOOR_SIDES_M = (0.5, 500.0)
"""Longer horizontal side that an indoor scan may have; a wide ground around a house takes 200 m."""
MAX_INDOOR_HEIGHT_M = 100.0
"""That a room in centimetres exceeds, taken for metres."""
MAX_ROUNDING_M = 1e-3
"""Distance of neighbouring float32 coordinates, which grows with that from the origin."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Those that Pillow decodes itself; for others it starts programs, Ghostscript for one."""

_TRIANGLE_FAN = 6  # of a primitive's modes
_VERTEX_BYTES, _FACE_BYTES, _PIXEL_BYTES, _ELEMENT_BYTES = 100, 60, 8, 64


class Budget:
    """The memory that is left to a scene, counted before it is taken."""

    def __init__(self, path: Path, file_bytes: int) -> None:
        """Start with what a mesh file may take that is, with the files it names, of a size."""
        self._path = path
        self._file_bytes = file_bytes
        self._total = self._left = FREE_BYTES + BYTES_PER_BYTE * file_bytes

    def take_mesh(self, num_vertices: int, num_faces: int) -> None:
        """Take what a mesh in one place needs. Raises SceneError where it is too much."""
        self._take(_VERTEX_BYTES * num_vertices + _FACE_BYTES * num_faces, "its meshes")

    def take_image(self, width: int, height: int) -> None:
        """Take what a decoded image needs. Raises SceneError where it is too much."""
        self._take(_PIXEL_BYTES * width * height, f"its images (one of {width} x {height} pixels)")

    def take_elements(self, count: Any) -> None:
        """Take what a declared array needs. Raises SceneError where it is too much."""
        if not isinstance(count, int) or count < 0:
            raise SceneError(f"{self._path}: it declares an array of {count!r:.40} elements")
        self._take(_ELEMENT_BYTES * count, f"the arrays it declares (one of {count} elements)")

    def _take(self, size_bytes: int, what: str) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise SceneError(
                f"{self._path}: {what} need more than {self._total / 1e9:.1f} GB, which is refused "
                f"for files of {self._file_bytes} bytes; is it damaged?"
            )


def file_beside(path: Path, name: str) -> Path:
    """Return the path of a file that a mesh file names.

    Raises SceneError for one outside of the mesh file's folder: a mesh brings its files along.
    """
    folder = os.path.normpath(path.parent)
    named = Path(os.path.normpath(path.parent / name))
    if "\0" in name or named == Path(folder) or not named.is_relative_to(folder):
        raise SceneError(
            f"{path}: it names the file {name!r:.200}, which is not in its folder; put it there"
        )
    return path.parent / name


def check_gltf(document: dict[str, Any], path: Path, budget: Budget) -> None:
    """Raise SceneError where a glTF document's nodes are no trees or its arrays are too large.

    And where it has triangle fans, which trimesh leaves out without a word.
    """
    accessors = document.get("accessors", [])
    for accessor in accessors:
        budget.take_elements(accessor["count"])
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:  # each makes its own arrays of what it refers to
            if primitive.get("mode") == _TRIANGLE_FAN:
                raise SceneError(f"{path}: it has a triangle fan; export it with plain triangles")
            budget.take_elements(accessors[primitive["attributes"]["POSITION"]]["count"])
            if "indices" in primitive:
                budget.take_elements(accessors[primitive["indices"]]["count"])
    nodes = document.get("nodes", [])
    children = [node.get("children", []) for node in nodes]
    scenes = document.get("scenes", [])
    level = [root for scene in scenes for root in scene.get("nodes", [])]
    parents = Counter(child for of_node in children for child in of_node) + Counter(set(level))
    for node, number in parents.items():
        if number > 1:
            raise SceneError(f"{path}: node {node} has {number} parents; its nodes are no tree")
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in children[node]]
        if not level:
            return
    raise SceneError(f"{path}: its nodes are nested deeper than {MAX_DEPTH}")


def check_extent(scene: Scene, path: str) -> None:
    """Raise SceneError where a scene is too large, or lies too far from its origin."""
    extent_m = float((scene.bounds[1].astype(float) - scene.bounds[0]).max())
    if extent_m > MAX_EXTENT_M:
        raise SceneError(
            f"{path}: the scene spans {extent_m:.3g} m, expected at most {MAX_EXTENT_M:g}; are its "
            "units metres (units_to_meters), and is it undamaged?"
        )
    farthest_m = np.abs(scene.bounds).max()
    if np.spacing(farthest_m) > MAX_ROUNDING_M:
        raise SceneError(
            f"{path}: the scene lies {farthest_m:.3g} m from its origin, where coordinates of 32 "
            f"bits are {np.spacing(farthest_m):.1g} m apart; move it to its origin"
        )


def unlikely_extent(scene: Scene) -> str:
    """Say that a scene has the size of no indoor scan, and what to do; "" where it may be one."""
    width_m, height_m, depth_m = (scene.bounds[1].astype(float) - scene.bounds[0]).tolist()
    least_m, most_m = INDOOR_SIDES_M
    if least_m <= max(width_m, depth_m) <= most_m and height_m <= MAX_INDOOR_HEIGHT_M:
        return ""
    return (
        f"it spans {scene.extent}, as no indoor scan does; if its units are not metres, let a "
        "stage configuration beside it say units_to_meters"
    )
