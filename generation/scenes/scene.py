"""What a scene is: one coloured triangle mesh in the world's axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from generation.errors import CrossviewError
from generation.geometry import Float32, Float64, Int32, UInt8, transform_points

WRAP_MODES = ("repeat", "mirror", "clamp")
MAX_UV = 1e9
"""Greatest texture coordinate: float32 has no fractions from 1e7 on, and squares overflow later."""


class SceneError(CrossviewError):
    """A scene that cannot be used, with a reason that its owner can act on."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Texture:
    """An image that covers the unit square of texture coordinates."""

    image: UInt8
    """(H, W, 3) RGB; row 0 is at v = 0 (glTF's convention)."""
    wrap_u: str = "repeat"
    """What happens outside of 0..1: one of WRAP_MODES."""
    wrap_v: str = "repeat"
    """As wrap_u."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """A surface's colour before its vertex colours: factor times texture, unlit."""

    base_color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factor on the colour, each 0 to 1, applied to the stored values as they are."""
    texture: Texture | None = None
    """None is white."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A triangle mesh with unlit colour: base colour * texture * vertex colour.

    Faces are seen from the side from which their vertices run counter-clockwise.
    """

    scene_id: str
    """Stable name, without dots or slashes; part of every key and of every random seed."""
    vertices: Float32
    """(V, 3) metres, world axes (Y-up)."""
    faces: Int32
    """(F, 3) indices into vertices."""
    uvs: Float32
    """(V, 2) texture coordinates; zeros where a material has no texture."""
    vertex_colors: UInt8
    """(V, 3) RGB factors; white where the file has none."""
    face_materials: Int32
    """(F,) index into materials."""
    materials: tuple[Material, ...] = field(default=(Material(),))

    def __post_init__(self) -> None:
        if len(self.faces) == 0:
            raise SceneError(f"scene {self.scene_id!r} has no faces")
        for name, count, width in (
            ("vertices", len(self.vertices), 3),
            ("faces", len(self.faces), 3),
            ("uvs", len(self.vertices), 2),
            ("vertex_colors", len(self.vertices), 3),
        ):
            shape = getattr(self, name).shape
            if shape != (count, width):
                raise SceneError(
                    f"scene {self.scene_id!r}: {name} have the shape {shape}, expected "
                    f"{(count, width)}"
                )
        if not np.isfinite(self.vertices).all():
            bad = int((~np.isfinite(self.vertices).all(axis=1)).sum())
            raise SceneError(
                f"scene {self.scene_id!r}: {bad} of {len(self.vertices)} vertices "
                "are NaN or infinite; clean the mesh"
            )
        if not (np.abs(self.uvs) <= MAX_UV).all():
            raise SceneError(
                f"scene {self.scene_id!r}: texture coordinates are NaN, infinite or beyond "
                f"{MAX_UV:g}; clean the mesh"
            )
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise SceneError(
                f"scene {self.scene_id!r}: faces index vertices "
                f"{self.faces.min()}..{self.faces.max()}, expected 0..{len(self.vertices) - 1}"
            )

    @property
    def num_faces(self) -> int:
        """Number of triangles."""
        return len(self.faces)

    @property
    def bounds(self) -> Float32:
        """(2, 3) smallest and largest corner in metres."""
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])

    @property
    def is_of_one_color(self) -> bool:
        """Whether all of it has the same colour, as a mesh has whose file names none."""
        used = [self.materials[index] for index in np.unique(self.face_materials)]
        return (
            len({material.base_color for material in used}) == 1
            and not any(material.texture for material in used)
            and bool((self.vertex_colors == self.vertex_colors[0]).all())
        )

    @property
    def extent(self) -> str:
        """Its sides along x, y and z, for messages."""
        low, high = self.bounds.astype(float)
        return " x ".join(f"{side:.2f}" for side in high - low) + " m"


def transformed(scene: Scene, linear: Float64, translation: Float64 | None = None) -> Scene:
    """Return a scene whose vertices are linear (3, 3) @ vertex + translation (3,).

    The map may scale and mirror; what was seen from the front still is.
    """
    to_from = np.eye(4)
    to_from[:3, :3] = linear
    if translation is not None:
        to_from[:3, 3] = translation
    vertices = transform_points(to_from, scene.vertices)
    mirrors = np.linalg.det(linear) < 0
    faces = np.ascontiguousarray(scene.faces[:, ::-1]) if mirrors else scene.faces
    return replace(scene, vertices=vertices.astype(np.float32), faces=faces)


def joined(scene_id: str, scenes: Sequence[Scene]) -> Scene:
    """Return several scenes as one; a material that they share is there once.

    Raises SceneError where there is none.
    """
    if not scenes:
        raise SceneError(f"scene {scene_id!r} has no faces")
    slots: dict[int, int] = {}
    materials: list[Material] = []
    faces, face_materials = [], []
    num_vertices = 0
    for scene in scenes:
        for material in scene.materials:
            if id(material) not in slots:
                slots[id(material)] = len(materials)
                materials.append(material)
        of_scene = np.array([slots[id(material)] for material in scene.materials], np.int32)
        faces.append(scene.faces + np.int32(num_vertices))
        face_materials.append(of_scene[scene.face_materials])
        num_vertices += len(scene.vertices)
    return Scene(
        scene_id=scene_id,
        vertices=np.concatenate([scene.vertices for scene in scenes]),
        faces=np.concatenate(faces),
        uvs=np.concatenate([scene.uvs for scene in scenes]),
        vertex_colors=np.concatenate([scene.vertex_colors for scene in scenes]),
        face_materials=np.concatenate(face_materials),
        materials=tuple(materials),
    )
