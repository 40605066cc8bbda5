"""Scenes from mesh files: GLB, glTF, PLY and OBJ, read by trimesh, as habitat-sim takes them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh

from generation.geometry import Float64, UInt8
from generation.scenes.scene import Material, Scene, SceneError, Texture

MESH_ENDINGS = (".glb", ".gltf", ".ply", ".obj")
STAGE_CONFIG_ENDING = ".stage_config.json"

UP_AXES = {
    "x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "y": (0, 1, 0),
    "-y": (0, -1, 0),
    "z": (0, 0, 1),
    "-z": (0, 0, -1),
}
_FRONTS = {"x": (0, 0, -1), "y": (0, 0, -1), "z": (0, 1, 0)}
_GLTF_WRAP_MODES = {10497: "repeat", 33071: "clamp", 33648: "mirror"}


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How a mesh file's coordinates become the world's: what habitat-sim reads beside a mesh."""

    mesh_path: Path
    """The mesh file."""
    up: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """The file's axis that points up."""
    front: tuple[float, float, float] = (0.0, 0.0, -1.0)
    """The file's axis that becomes the world's -Z."""
    units_to_meters: float = 1.0
    """Length of one of the file's units in metres."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors along the file's axes."""

    @classmethod
    def read(cls, path: Path) -> StageConfig:
        """Read a NAME.stage_config.json. Raises SceneError where it does not make sense."""
        try:
            raw = json.loads(path.read_text())
            return cls(
                mesh_path=path.parent / raw["render_asset"],
                up=_vector(raw.get("up", (0, 0, 1))),
                front=_vector(raw.get("front", (0, 1, 0))),
                units_to_meters=float(raw.get("units_to_meters", 1.0)),
                scale=_vector(raw.get("scale", (1, 1, 1))),
            )
        except KeyError as error:
            raise SceneError(f"{path}: a stage configuration needs the key {error}") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SceneError(f"{path}: not a stage configuration: {error}") from error

    @classmethod
    def with_up(cls, mesh_path: Path, up: str) -> StageConfig:
        """Return the configuration of a mesh whose up axis is one of UP_AXES."""
        return cls(mesh_path=mesh_path, up=_vector(UP_AXES[up]), front=_vector(_FRONTS[up[-1]]))

    @property
    def world_from_file(self) -> Float64:
        """(3, 3) linear map: scale, then turn. Raises SceneError where up and front clash."""
        up, front = np.array(self.up, float), np.array(self.front, float)
        lengths = np.linalg.norm(up), np.linalg.norm(front)
        if min(lengths) == 0 or abs(up @ front) > 1e-3 * lengths[0] * lengths[1]:
            raise SceneError(
                f"{self.mesh_path}: up {self.up} and front {self.front} must be at right angles"
            )
        up, front = up / lengths[0], front / lengths[1]
        turn = np.stack([np.cross(front, up), up, -front])
        return turn @ np.diag(np.array(self.scale) * self.units_to_meters)


def stage_of(path: Path, up: str) -> StageConfig:
    """Return how a mesh file (or a stage configuration itself) is to be read.

    A NAME.stage_config.json beside NAME.glb decides; a mesh without one is taken with the given
    up axis.
    """
    if path.name.endswith(STAGE_CONFIG_ENDING):
        return StageConfig.read(path)
    beside = path.with_name(path.stem + STAGE_CONFIG_ENDING)
    if beside.exists():
        return StageConfig.read(beside)
    return StageConfig.with_up(path, up)


def load_mesh_scene(path: Path, scene_id: str, *, up: str = "y") -> Scene:
    """Load a mesh file, or the one that a stage configuration names, in world axes.

    Raises SceneError, naming the file and what was expected, for anything that is not a usable
    mesh: missing, empty, truncated, without faces, with NaNs, with a texture file missing.
    """
    stage = stage_of(path, up)
    linear = stage.world_from_file
    parts = list(_parts(stage.mesh_path))
    if not parts:
        raise SceneError(f"{stage.mesh_path}: no triangles in this file; expected a surface mesh")
    materials: list[Material] = []
    vertices, faces, uvs, colors, face_materials = [], [], [], [], []
    num_vertices = 0
    for part in parts:
        flip = np.linalg.det(linear @ part.file_from_mesh[:3, :3]) < 0
        vertices.append(trimesh.transform_points(part.vertices, part.file_from_mesh) @ linear.T)
        faces.append((part.faces[:, ::-1] if flip else part.faces) + num_vertices)
        uvs.append(part.uvs)
        colors.append(part.colors)
        face_materials.append(np.full(len(part.faces), len(materials), np.int32))
        materials.append(part.material)
        num_vertices += len(part.vertices)
    try:
        return Scene(
            scene_id=scene_id,
            vertices=np.concatenate(vertices).astype(np.float32),
            faces=np.concatenate(faces).astype(np.int32),
            uvs=np.concatenate(uvs).astype(np.float32),
            vertex_colors=np.concatenate(colors),
            face_materials=np.concatenate(face_materials),
            materials=tuple(materials),
        )
    except SceneError as error:
        raise SceneError(f"{stage.mesh_path}: {error}") from None


@dataclass(frozen=True, eq=False)
class _Part:
    """One mesh of a file, where the file's node graph puts it."""

    file_from_mesh: Float64
    vertices: Float64
    faces: Any
    uvs: Any
    colors: Any
    material: Material


def _parts(path: Path) -> Iterator[_Part]:
    """Read a file's meshes; whatever trimesh says of a bad file becomes a SceneError."""
    if path.suffix.lower() not in MESH_ENDINGS:
        raise SceneError(f"{path}: expected a mesh file ({', '.join(MESH_ENDINGS)})")
    if not path.is_file():
        raise SceneError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise SceneError(f"{path}: the file is empty")
    try:
        if path.suffix.lower() in (".glb", ".gltf"):
            yield from _gltf_parts(path)
        else:
            _check_textures(path)
            yield from _trimesh_parts(trimesh.load_scene(path, process=False), _plain_material)
    except (SceneError, MemoryError):
        raise
    except Exception as error:
        raise SceneError(
            f"{path}: cannot be read as a {path.suffix[1:].upper()} mesh; is it truncated? "
            f"({type(error).__name__}: {error})"
        ) from error


def _trimesh_parts(scene: Any, material_of: Any) -> Iterator[_Part]:
    for node in scene.graph.nodes_geometry:
        file_from_mesh, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
            continue
        visual: Any = mesh.visual
        num_vertices = len(mesh.vertices)
        uvs = getattr(visual, "uv", None)
        uvs = np.zeros((num_vertices, 2)) if uvs is None else np.asarray(uvs, float)[:, :2].copy()
        uvs[:, 1] = 1.0 - uvs[:, 1]  # trimesh puts v = 0 at the bottom, we (as glTF) at the top
        if visual.kind is None:  # neither colours nor a material: white
            colors, material = None, Material()
        elif visual.kind in ("vertex", "face"):
            colors, material = visual.vertex_colors, Material()
        else:
            colors = getattr(visual, "vertex_attributes", {}).get("color")
            material = material_of(visual)
        if colors is None or len(colors) != num_vertices:
            colors = np.full((num_vertices, 3), 255, np.uint8)
        yield _Part(
            np.asarray(file_from_mesh, float),
            np.asarray(mesh.vertices, float),
            np.asarray(mesh.faces),
            uvs,
            _as_bytes(np.asarray(colors)[:, :3]),
            material,
        )


def _gltf_parts(path: Path) -> Iterator[_Part]:
    """Read glTF through trimesh, which forgets samplers: materials carry their index as a name."""
    document, rewritten = _numbered_materials(path)
    for image in document.get("images", []):
        uri = image.get("uri", "data:")
        if not uri.startswith("data:") and not (path.parent / unquote(uri)).is_file():
            raise SceneError(f"{path}: its texture file {uri!r} is missing from {path.parent}")
    loaded: dict[int, Material] = {}

    def material_of(visual: Any) -> Material:
        name = getattr(visual.material, "name", None)
        if name is None or not document.get("materials"):
            return Material()
        index = int(name)
        if index not in loaded:
            image = visual.material.baseColorTexture
            loaded[index] = _gltf_material(document, index, image, path)
        return loaded[index]

    scene = trimesh.load_scene(
        trimesh.util.wrap_as_stream(rewritten),
        file_type=path.suffix[1:].lower(),
        resolver=trimesh.resolvers.FilePathResolver(str(path)),
        process=False,
        merge_primitives=False,
    )
    yield from _trimesh_parts(scene, material_of)


def _numbered_materials(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a glTF document and the file's bytes with each material named by its index."""
    data = path.read_bytes()
    is_binary = path.suffix.lower() == ".glb"
    if is_binary:
        magic, version, length = struct.unpack_from("<4sII", data)
        if magic != b"glTF" or version != 2:
            raise SceneError(f"{path}: expected a binary glTF 2.0 file, found {data[:4]!r}")
        if len(data) < length:
            raise SceneError(f"{path}: truncated, {len(data)} of {length} bytes")
        (json_length,) = struct.unpack_from("<I", data, 12)
        text = data[20 : 20 + json_length]
    else:
        text = data
    document: dict[str, Any] = json.loads(text)
    required = set(document.get("extensionsRequired", ())) - {"KHR_materials_unlit"}
    if required:
        raise SceneError(
            f"{path}: needs the glTF extension(s) {', '.join(sorted(required))}; "
            "export it again without compression"
        )
    for index, material in enumerate(document.get("materials", [])):
        material["name"] = str(index)
    text = json.dumps(document).encode()
    if not is_binary:
        return document, text
    text += b" " * (-len(text) % 4)
    rest = data[20 + json_length :]
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    return document, header + struct.pack("<I4s", len(text), b"JSON") + text + rest


def _gltf_material(document: dict[str, Any], index: int, image: Any, path: Path) -> Material:
    """Return base colour factor times texture, with the wrap modes of the texture's sampler."""
    named = document["materials"][index]
    if "KHR_materials_pbrSpecularGlossiness" in named.get("extensions", {}):
        raise SceneError(f"{path}: material {index} has no base colour but specular-glossiness")
    surface = document["materials"][index].get("pbrMetallicRoughness", {})
    red, green, blue = surface.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))[:3]
    texture = None
    if "baseColorTexture" in surface:
        if "KHR_texture_transform" in surface["baseColorTexture"].get("extensions", {}):
            raise SceneError(f"{path}: material {index} transforms its texture; bake that first")
        slot = document["textures"][surface["baseColorTexture"]["index"]]
        sampler = document["samplers"][slot["sampler"]] if "sampler" in slot else {}
        texture = Texture(
            image=_pixels(image, f"{path}: texture of material {index}"),
            wrap_u=_GLTF_WRAP_MODES[sampler.get("wrapS", 10497)],
            wrap_v=_GLTF_WRAP_MODES[sampler.get("wrapT", 10497)],
        )
    return Material(base_color=(red, green, blue), texture=texture)


def _pixels(image: Any, what: str) -> UInt8:
    """Return an image's (H, W, 3) pixels. Raises SceneError where it cannot be decoded."""
    try:
        return np.asarray(image.convert("RGB"))
    except (AttributeError, OSError, SyntaxError, ValueError) as error:  # None where trimesh failed
        raise SceneError(f"{what}: the image cannot be decoded") from error


def _plain_material(visual: Any) -> Material:
    """Return an OBJ or PLY material: diffuse colour times image."""
    simple = visual.material
    if not hasattr(simple, "diffuse"):
        return Material()
    red, green, blue = (float(c) / 255 for c in np.asarray(simple.diffuse)[:3])
    if simple.image is None:
        return Material(base_color=(red, green, blue))
    return Material(
        base_color=(red, green, blue),
        texture=Texture(image=_pixels(simple.image, "its texture")),
    )


def _check_textures(path: Path) -> None:
    """Raise SceneError where an OBJ or PLY names a material or texture file that is not there."""
    if path.suffix.lower() == ".ply":
        header = path.read_bytes()[:4096].partition(b"end_header")[0].decode(errors="replace")
        for name in re.findall(r"^comment TextureFile (.+?)\s*$", header, re.MULTILINE):
            if not (path.parent / name).is_file():
                raise SceneError(f"{path}: its texture file {name!r} is missing")
        return
    for library in _named_files(path, "mtllib"):
        if not library.is_file():
            raise SceneError(f"{path}: its material file {library.name!r} is missing")
        for image in _named_files(library, "map_Kd"):
            if not image.is_file():
                raise SceneError(f"{library}: its texture file {image.name!r} is missing")


def _named_files(path: Path, keyword: str) -> list[Path]:
    """Return the files that lines `keyword [options] FILE` of an OBJ or MTL file name."""
    with open(path, errors="replace") as lines:
        rest = [
            line.split(keyword, 1)[1].strip() for line in lines if line.split()[:1] == [keyword]
        ]
    # A name may hold spaces; where options stand before it, it is the last word.
    return [path.parent / (text.split()[-1] if text[0] == "-" else text) for text in rest if text]


def _as_bytes(colors: Any) -> Any:
    """Return (N, 3) colours as uint8; floating ones are taken as 0 to 1."""
    if colors.dtype == np.uint8:
        return colors
    if colors.dtype == np.uint16:
        return (colors // 257).astype(np.uint8)
    return np.rint(np.clip(colors, 0.0, 1.0) * 255).astype(np.uint8)


def _vector(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
