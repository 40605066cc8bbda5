"""Scenes from mesh files: GLB, glTF, PLY and OBJ, read by trimesh, as habitat-sim takes them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh
from PIL import Image

from generation.geometry import Float64, UInt8
from generation.scenes.asset_config import asset_config_of
from generation.scenes.scene import Material, Scene, SceneError, Texture, joined, transformed
from generation.scenes.untrusted import IMAGE_FORMATS, Budget, check_gltf, file_beside

_GLTF_WRAP_MODES = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_KINDS = {".mtl": "material", ".bin": "buffer"}
_BASIS_EXTENSIONS = {"KHR_texture_basisu", "GOOGLE_texture_basis"}
"""The standard one, of KTX2 images, and the older one of HM3D's .basis images."""


def load_mesh_scene(
    path: Path, scene_id: str, *, up: str = "y", units_to_meters: float = 1.0
) -> Scene:
    """Load a mesh file, or the one that a stage configuration names, in world axes.

    Raises SceneError, naming the file and what was expected, for anything that is not a usable
    mesh: missing, empty, truncated, without faces, with NaNs, with a texture file missing.
    """
    config = asset_config_of(path, up, units_to_meters=units_to_meters)
    return transformed(read_mesh(config.mesh_path, scene_id), config.world_from_file)


def read_mesh(path: Path, scene_id: str) -> Scene:
    """Read a mesh file in its own axes and units. Raises SceneError as load_mesh_scene does."""
    check_mesh(path)
    with _reading(path):
        parts = list(_format(path).parts(path, _budget(path)))
        if not parts:
            raise SceneError(f"{path}: no triangles in this file; expected a surface mesh")
        try:
            return joined(scene_id, [part.scene(scene_id) for part in parts])
        except SceneError as error:
            raise SceneError(f"{path}: {error}") from None


def check_mesh(path: Path) -> None:
    """Raise SceneError where a mesh file is no good, as far as its name, size and header tell."""
    _format(path)
    if not path.is_file():
        raise SceneError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise SceneError(f"{path}: the file is empty")
    for named in files_of_mesh(path)[1:]:
        if not named.is_file():
            kind = _KINDS.get(named.suffix.lower(), "texture")
            raise SceneError(
                f"{path}: its {kind} file {named.name!r} is missing from {named.parent}"
            )
    if check := _format(path).check:
        with _reading(path):
            check(path, _budget(path))


def files_of_mesh(path: Path) -> list[Path]:
    """Return a mesh file and the files that it names, be they there or not.

    These are a glTF file's buffers and images, an OBJ file's materials and their textures, a PLY
    file's texture. Raises SceneError where the file cannot be read, or names one outside of its
    folder.
    """
    files = _format(path).files
    with _reading(path):
        return [path, *dict.fromkeys(files(path))]


def gltf_document(path: Path) -> dict[str, Any]:
    """Return a glTF file's JSON; of a GLB, only that is read. Raises SceneError."""
    with open(path, "rb") as stream:
        if path.suffix.lower() == ".gltf":
            return json.loads(stream.read())  # type: ignore[no-any-return]
        header = stream.read(20)
        if len(header) < 20:
            raise SceneError(f"{path}: truncated, {len(header)} bytes")
        magic, version, length, json_length = struct.unpack_from("<4sIII", header)
        if magic != b"glTF" or version != 2:
            raise SceneError(f"{path}: expected a binary glTF 2.0 file, found {header[:4]!r}")
        size_bytes = path.stat().st_size
        if size_bytes < max(length, 20 + json_length):
            raise SceneError(f"{path}: truncated, {size_bytes} of {length} bytes")
        return json.loads(stream.read(json_length))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Part:
    """One mesh of a file, where the file's node graph puts it."""

    file_from_mesh: Float64
    vertices: Float64
    faces: Any
    uvs: Any
    colors: Any
    material: Material

    def scene(self, scene_id: str) -> Scene:
        """Return it in the file's coordinates."""
        mesh = Scene(
            scene_id=scene_id,
            vertices=self.vertices.astype(np.float32),
            faces=self.faces.astype(np.int32),
            uvs=self.uvs.astype(np.float32),
            vertex_colors=self.colors,
            face_materials=np.zeros(len(self.faces), np.int32),
            materials=(self.material,),
        )
        return transformed(mesh, self.file_from_mesh[:3, :3], self.file_from_mesh[:3, 3])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever is said of a bad file, here or by trimesh, into a SceneError."""
    try:
        yield
    except (SceneError, MemoryError):
        raise
    except Exception as error:
        kind = path.suffix[1:].upper()
        hint = " or has it both triangles and quads?" if kind == "PLY" else "?"
        raise SceneError(
            f"{path}: cannot be read as a {kind} mesh; is it truncated{hint} "
            f"({type(error).__name__}: {error})"
        ) from error


def _budget(path: Path) -> Budget:
    return Budget(path, sum(file.stat().st_size for file in files_of_mesh(path)))


def _check_gltf(path: Path, budget: Budget) -> None:
    document = gltf_document(path)
    _check_extensions(path, document)
    check_gltf(document, path, budget)


def _check_extensions(path: Path, document: dict[str, Any]) -> None:
    required = set(document.get("extensionsRequired", ())) - {"KHR_materials_unlit"}
    compressed = {
        name
        for texture in document.get("textures", [])
        if "source" not in texture
        for name in texture.get("extensions", {})
    }
    if (required | compressed) & _BASIS_EXTENSIONS:
        raise SceneError(
            f"{path}: its textures are Basis Universal, which are not decoded here; get the mesh "
            "with JPEG or PNG textures (of HM3D, the archives hm3d-*-glb, not hm3d-*-habitat)"
        )
    if required:
        raise SceneError(
            f"{path}: needs the glTF extension(s) {', '.join(sorted(required))}; "
            "export it again without compression"
        )


def _trimesh_parts(scene: Any, material_of: Any, budget: Budget) -> Iterator[_Part]:
    for node in scene.graph.nodes_geometry:
        file_from_mesh, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
            continue
        budget.take_mesh(len(mesh.vertices), len(mesh.faces))
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


def _gltf_parts(path: Path, budget: Budget) -> Iterator[_Part]:
    """Read glTF through trimesh, which forgets samplers: materials carry their index as a name."""
    document, rewritten = _numbered_materials(path)
    materials: dict[int, Material] = {}
    textures: dict[tuple[int, str, str], Texture] = {}

    def material_of(visual: Any) -> Material:
        name = getattr(visual.material, "name", None)
        if name is None or not document.get("materials"):
            return Material()
        index = int(name)
        if index not in materials:
            image = visual.material.baseColorTexture
            materials[index] = _gltf_material(document, index, image, path, textures, budget)
        return materials[index]

    scene = trimesh.load_scene(
        trimesh.util.wrap_as_stream(rewritten),
        file_type=path.suffix[1:].lower(),
        resolver=trimesh.resolvers.FilePathResolver(str(path)),
        process=False,
        merge_primitives=False,
    )
    yield from _trimesh_parts(scene, material_of, budget)


def _numbered_materials(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a glTF document and the file's bytes with each material named by its index."""
    document = gltf_document(path)
    for index, material in enumerate(document.get("materials", [])):
        material["name"] = str(index)
    text = json.dumps(document).encode()
    if path.suffix.lower() == ".gltf":
        return document, text
    text += b" " * (-len(text) % 4)
    data = path.read_bytes()
    (json_length,) = struct.unpack_from("<I", data, 12)
    rest = data[20 + json_length :]
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    return document, header + struct.pack("<I4s", len(text), b"JSON") + text + rest


def _gltf_material(
    document: dict[str, Any],
    index: int,
    image: Any,
    path: Path,
    textures: dict[tuple[int, str, str], Texture],
    budget: Budget,
) -> Material:
    """Return base colour factor times texture, with the wrap modes of the texture's sampler.

    textures holds those of materials read before, by image and wrap modes, and is added to.
    """
    named = document["materials"][index]
    if "KHR_materials_pbrSpecularGlossiness" in named.get("extensions", {}):
        raise SceneError(f"{path}: material {index} has no base colour but specular-glossiness")
    surface = named.get("pbrMetallicRoughness", {})
    red, green, blue = (float(c) for c in surface.get("baseColorFactor", (1.0, 1.0, 1.0))[:3])
    if not np.isfinite([red, green, blue]).all():
        raise SceneError(f"{path}: material {index} has a base colour that is NaN or infinite")
    if "baseColorTexture" not in surface:
        return Material(base_color=(red, green, blue))
    if "KHR_texture_transform" in surface["baseColorTexture"].get("extensions", {}):
        raise SceneError(f"{path}: material {index} transforms its texture; bake that first")
    if surface["baseColorTexture"].get("texCoord", 0) != 0:
        raise SceneError(
            f"{path}: material {index} has its colours in a second UV map; expected one"
        )
    slot = document["textures"][surface["baseColorTexture"]["index"]]
    sampler = document["samplers"][slot["sampler"]] if "sampler" in slot else {}
    wrap_u = _GLTF_WRAP_MODES[sampler.get("wrapS", 10497)]
    wrap_v = _GLTF_WRAP_MODES[sampler.get("wrapT", 10497)]
    key = (slot["source"], wrap_u, wrap_v)
    if key not in textures:
        pixels = _pixels(image, f"{path}: texture of material {index}", budget)
        textures[key] = Texture(image=pixels, wrap_u=wrap_u, wrap_v=wrap_v)
    return Material(base_color=(red, green, blue), texture=textures[key])


def _pixels(image: Any, what: str, budget: Budget) -> UInt8:
    """Return an image's (H, W, 3) pixels. Raises SceneError where it cannot be decoded."""
    try:
        if image.format not in IMAGE_FORMATS:
            raise ValueError(f"{image.format} is none of {', '.join(IMAGE_FORMATS)}")
        budget.take_image(*image.size)
        return np.asarray(image.convert("RGB"))
    except SceneError:
        raise
    except (AttributeError, OSError, SyntaxError, ValueError) as error:  # None where trimesh failed
        raise SceneError(f"{what}: the image cannot be decoded") from error


def _obj_parts(path: Path, budget: Budget) -> Iterator[_Part]:
    _, images = _libraries_and_images(path)
    yield from _plain_parts(path, images, budget)


def _ply_parts(path: Path, budget: Budget) -> Iterator[_Part]:
    yield from _plain_parts(path, _files_of_ply(path), budget)


def _plain_parts(path: Path, images: list[Path], budget: Budget) -> Iterator[_Part]:
    """Read an OBJ or PLY. Raises SceneError where an image is none: trimesh would leave it out."""
    for image in images:
        try:
            Image.open(image).close()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise SceneError(f"{image}: the image cannot be decoded") from error
    scene = trimesh.load_scene(path, process=False)
    material_of = partial(_plain_material, path=path, budget=budget)
    yield from _trimesh_parts(scene, material_of, budget)


def _plain_material(visual: Any, path: Path, budget: Budget) -> Material:
    """Return an OBJ or PLY material: diffuse colour times image."""
    simple = visual.material
    if not hasattr(simple, "diffuse"):
        return Material()
    red, green, blue = (float(c) / 255 for c in np.asarray(simple.diffuse)[:3])
    if simple.image is None:
        return Material(base_color=(red, green, blue))
    return Material(
        base_color=(red, green, blue),
        texture=Texture(image=_pixels(simple.image, f"{path}: its texture", budget)),
    )


def _files_of_gltf(path: Path) -> list[Path]:
    document = gltf_document(path)
    items = [*document.get("buffers", []), *document.get("images", [])]
    uris = [item.get("uri", "data:") for item in items]
    return [file_beside(path, unquote(uri)) for uri in uris if not uri.startswith("data:")]


def _files_of_ply(path: Path) -> list[Path]:
    with open(path, "rb") as stream:
        header = stream.read(4096).partition(b"end_header")[0].decode(errors="replace")
    names = re.findall(r"^comment TextureFile (.+?)\s*$", header, re.MULTILINE)
    return [file_beside(path, name) for name in names]


def _files_of_obj(path: Path) -> list[Path]:
    libraries, images = _libraries_and_images(path)
    return libraries + images


def _libraries_and_images(path: Path) -> tuple[list[Path], list[Path]]:
    """Return an OBJ file's library of materials, of which it may name one, and their textures."""
    libraries = list(dict.fromkeys(_files_after(path, "mtllib")))
    if len(libraries) > 1:
        raise SceneError(f"{path}: {len(libraries)} material files; put them into one")
    readable = [library for library in libraries if library.is_file()]
    return libraries, [image for mtl in readable for image in _files_after(mtl, "map_kd")]


def _files_after(path: Path, keyword: str) -> list[Path]:
    """Return the files that lines `keyword FILE` of an OBJ or MTL file name; names may hold spaces.

    Raises SceneError where options stand before one: trimesh takes them for a part of the name, and
    leaves the texture out.
    """
    status = path.stat()
    names = _names_after(path, keyword, status.st_size, status.st_mtime_ns)
    for name in names:
        if name.startswith("-"):
            raise SceneError(
                f"{path}: options are not read, as in `{keyword} {name:.200}`; name the file alone"
            )
    return [file_beside(path, name) for name in names]


@lru_cache(maxsize=1_000)
def _names_after(path: Path, keyword: str, size_bytes: int, modified_ns: int) -> tuple[str, ...]:
    """Return what stands after a keyword; read again where the file has changed."""
    if not size_bytes:
        return ()
    wanted = rf"(?mi)^[ \t]*{keyword}[ \t]+(\S.*)$".encode()
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return tuple(each.decode(errors="replace").strip() for each in re.findall(wanted, data))


def _as_bytes(colors: Any) -> Any:
    """Return (N, 3) colours as uint8; floating ones are taken as 0 to 1."""
    if colors.dtype == np.uint8:
        return colors
    if colors.dtype == np.uint16:
        return (colors // 257).astype(np.uint8)
    return np.rint(np.clip(colors, 0.0, 1.0) * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Format:
    """How mesh files of one ending are read."""

    files: Callable[[Path], list[Path]]
    """Those that a file names."""
    parts: Callable[[Path, Budget], Iterator[_Part]]
    """The file's meshes."""
    check: Callable[[Path, Budget], None] | None = None
    """Raises SceneError where the header tells that the file is no good."""
    has_up: bool = False
    """Whether the format's specification says which axis is up."""


_GLTF = _Format(files=_files_of_gltf, parts=_gltf_parts, check=_check_gltf, has_up=True)
_FORMATS = {
    ".glb": _GLTF,
    ".gltf": _GLTF,
    ".obj": _Format(files=_files_of_obj, parts=_obj_parts),
    ".ply": _Format(files=_files_of_ply, parts=_ply_parts),
}
MESH_ENDINGS = tuple(_FORMATS)
"""Of one mesh in several formats, the first of these is taken."""
ENDINGS_WITHOUT_UP = tuple(ending for ending, each in _FORMATS.items() if not each.has_up)


def _format(path: Path) -> _Format:
    """Return a file's format. Raises SceneError where it is not a mesh's."""
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise SceneError(f"{path}: expected a mesh file ({', '.join(MESH_ENDINGS)})") from None
