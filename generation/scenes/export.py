"""Scenes as GLB files, for other tools and for looking at."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generation.files import whole_file
from generation.scenes.scene import Scene, Texture

WRAP_CODES = {"repeat": 10497, "clamp": 33071, "mirror": 33648}
"""glTF 2.0, section 5.26 (sampler)."""
_FLOAT, _UINT, _UBYTE = 5126, 5125, 5121
_LINEAR, _LINEAR_MIPMAP_LINEAR = 9729, 9987
_VERTICES, _INDICES = 34962, 34963
_UNLIT = "KHR_materials_unlit"


def export_glb(scene: Scene, path: Path) -> None:
    """Write a scene as one binary glTF 2.0 file: one primitive a material, textures as PNG.

    Materials are marked as unlit. Vertex colours are written as they are, as factors on the stored
    colours; a viewer that multiplies in linear light shows shadows a little darker. glTF is Y-up in
    metres, as we are. The file appears whole or not at all.
    """
    document = _Document()
    document.add_scene(scene)
    with whole_file(path) as temporary:
        temporary.write_bytes(document.to_bytes())


class _Document:
    """A glTF document and its binary chunk under construction."""

    def __init__(self) -> None:
        self._binary = bytearray()
        self._samplers: dict[tuple[str, str], int] = {}
        self._textures: dict[int, int] = {}
        self._json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "crossview"},
            "extensionsUsed": [_UNLIT],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "materials": [],
            "accessors": [],
            "bufferViews": [],
        }

    def add_scene(self, scene: Scene) -> None:
        """Add every material that is in use, with its faces and their vertices."""
        self._json["nodes"][0]["name"] = scene.scene_id
        for index, material in enumerate(scene.materials):
            faces = scene.faces[scene.face_materials == index]
            if len(faces) == 0:
                continue
            used, corners = np.unique(faces, return_inverse=True)
            alpha = np.full((len(used), 1), 255, np.uint8)
            attributes = {
                "POSITION": self._accessor(scene.vertices[used], _FLOAT, "VEC3", bounds=True),
                "TEXCOORD_0": self._accessor(scene.uvs[used], _FLOAT, "VEC2"),
                "COLOR_0": self._accessor(
                    np.hstack([scene.vertex_colors[used], alpha]), _UBYTE, "VEC4"
                ),
            }
            primitive = {
                "attributes": attributes,
                "indices": self._accessor(corners.astype("<u4").reshape(-1), _UINT, "SCALAR"),
                "material": len(self._json["materials"]),
            }
            self._json["meshes"][0]["primitives"].append(primitive)
            surface: dict[str, Any] = {
                "baseColorFactor": [*material.base_color, 1.0],
                "metallicFactor": 0.0,
            }
            if material.texture is not None:
                surface["baseColorTexture"] = {"index": self._texture(material.texture)}
            self._json["materials"].append(
                {"pbrMetallicRoughness": surface, "extensions": {_UNLIT: {}}}
            )

    def to_bytes(self) -> bytes:
        """Return the GLB: header, JSON chunk, binary chunk."""
        self._json["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(self._json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self._binary)
        return b"".join(
            [
                struct.pack("<4sII", b"glTF", 2, size),
                struct.pack("<I4s", len(text), b"JSON"),
                text,
                struct.pack("<I4s", len(self._binary), b"BIN\0"),
                bytes(self._binary),
            ]
        )

    def _view(self, data: bytes, target: int | None = None) -> int:
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self._binary += data + b"\0" * (-len(data) % 4)
        self._json["bufferViews"].append(view)
        return len(self._json["bufferViews"]) - 1

    def _accessor(
        self, values: NDArray[Any], component: int, kind: str, *, bounds: bool = False
    ) -> int:
        target = _INDICES if kind == "SCALAR" else _VERTICES
        accessor: dict[str, Any] = {
            "bufferView": self._view(np.ascontiguousarray(values).tobytes(), target),
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if component == _UBYTE:
            accessor["normalized"] = True
        if bounds:
            accessor["min"] = values.min(axis=0).tolist()
            accessor["max"] = values.max(axis=0).tolist()
        self._json["accessors"].append(accessor)
        return len(self._json["accessors"]) - 1

    def _texture(self, texture: Texture) -> int:
        """Return the index of a texture, written once however many materials share it."""
        if id(texture) not in self._textures:
            stream = io.BytesIO()
            Image.fromarray(texture.image).save(stream, "PNG", compress_level=4)
            image = {"bufferView": self._view(stream.getvalue()), "mimeType": "image/png"}
            images = self._json.setdefault("images", [])
            textures = self._json.setdefault("textures", [])
            images.append(image)
            textures.append({"source": len(images) - 1, "sampler": self._sampler(texture)})
            self._textures[id(texture)] = len(textures) - 1
        return self._textures[id(texture)]

    def _sampler(self, texture: Texture) -> int:
        key = (texture.wrap_u, texture.wrap_v)
        if key not in self._samplers:
            samplers = self._json.setdefault("samplers", [])
            samplers.append(
                {
                    "wrapS": WRAP_CODES[texture.wrap_u],
                    "wrapT": WRAP_CODES[texture.wrap_v],
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP_LINEAR,
                }
            )
            self._samplers[key] = len(samplers) - 1
        return self._samplers[key]
