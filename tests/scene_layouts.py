"""Small datasets in the exact layouts of the published ones, for tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from generation.scenes.export import export_glb
from generation.scenes.scene import Material, Scene, Texture, transformed

ROOM_SIZE = np.array([5.0, 2.6, 4.0])
Z_UP_FROM_WORLD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""The inverse of habitat-sim's (x, z, -y)."""


def quad_room(cells: int = 5, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vertices (V, 3), quads (Q, 4) that are seen from inside, vertex colours (V, 3)."""
    steps = np.linspace(0.0, 1.0, cells + 1)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(steps, steps, indexing="ij"))
    corner = np.arange(cells * (cells + 1)).reshape(cells, cells + 1)[:, :-1].reshape(-1)
    wall = np.stack([corner, corner + cells + 1, corner + cells + 2, corner + 1], axis=1)
    vertices, quads = [], []
    for axis in range(3):
        for side in (0.0, 1.0):
            # With the other axes in cyclic order the quads' normals run along +axis.
            points = np.empty((len(a), 3))
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = side, a, b
            quads.append((wall if side == 0 else wall[:, ::-1]) + len(vertices) * len(a))
            vertices.append(points * ROOM_SIZE)
    colors = np.random.default_rng(seed).integers(0, 256, (6 * len(a), 3)).astype(np.uint8)
    return np.concatenate(vertices), np.concatenate(quads), colors


def room_scene(*, seed: int = 0) -> Scene:
    """Return the same room in triangles, with a random texture."""
    vertices, quads, _ = quad_room(seed=seed)
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return Scene(
        scene_id="room",
        vertices=vertices.astype(np.float32),
        faces=np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32),
        uvs=(vertices[:, :2] + vertices[:, 2:]).astype(np.float32) / 3,
        vertex_colors=np.full((len(vertices), 3), 255, np.uint8),
        face_materials=np.zeros(2 * len(quads), np.int32),
        materials=(Material(texture=Texture(image=image)),),
    )


def write_json(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def write_text(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_room_glb(path: Path, *, z_up: bool, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = room_scene(seed=seed)
    export_glb(transformed(scene, Z_UP_FROM_WORLD) if z_up else scene, path)
    return path


def write_basis_glb(path: Path) -> Path:
    """Write a room whose textures are marked as HM3D's are: .basis images by an old extension."""
    data = write_room_glb(path, z_up=True).read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    for image in document["images"]:
        image["mimeType"] = "image/x-basis"
    for texture in document["textures"]:
        texture["extensions"] = {"GOOGLE_texture_basis": {"source": texture.pop("source")}}
    document["extensionsUsed"] = document["extensionsRequired"] = ["GOOGLE_texture_basis"]
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    path.write_bytes(header + struct.pack("<I4s", len(text), b"JSON") + text + rest)
    return path


def write_hm3d(root: Path) -> Path:
    """Write two whole scenes, one with .basis.glb alone, one without a mesh, and one of val."""
    for number, name in enumerate(["kfPV7w3FaU5", "UVdNNRcVyV1"]):
        folder = root / "train" / f"{number:05d}-{name}"
        write_room_glb(folder / f"{name}.glb", z_up=True, seed=number)
        write_room_glb(folder / f"{name}.semantic.glb", z_up=True)
        write_basis_glb(folder / f"{name}.basis.glb")
        write_text(folder / f"{name}.basis.navmesh")
        write_text(folder / f"{name}.semantic.txt")
    write_basis_glb(root / "train" / "00002-FxCkHAfgh7A" / "FxCkHAfgh7A.basis.glb")
    write_text(root / "train" / "00003-NtVbfPCkBFy" / "NtVbfPCkBFy.basis.navmesh")
    write_room_glb(root / "val" / "00800-TEEsavR23oF" / "TEEsavR23oF.glb", z_up=True)
    return root


def write_scannet(root: Path) -> Path:
    """Write two scenes of scans/ and one of scans_test/, as vertex-coloured binary PLY."""
    vertices, quads, colors = quad_room()
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    alpha = np.full((len(colors), 1), 255, np.uint8)
    mesh = trimesh.Trimesh(
        vertices @ Z_UP_FROM_WORLD.T,
        faces,
        vertex_colors=np.hstack([colors, alpha]),
        process=False,
    )
    for folder, name in (
        ("scans", "scene0000_01"),
        ("scans", "scene0000_00"),
        ("scans_test", "scene0707_00"),
    ):
        write_text(root / folder / name / f"{name}.txt", "axisAlignment = 1 0 0 0\n")
        mesh.export(root / folder / name / f"{name}_vh_clean_2.ply")
        mesh.export(root / folder / name / f"{name}_vh_clean_2.labels.ply")
    return root


def write_replica(root: Path) -> Path:
    """Write one room of vertex-coloured quads, and one whose mesh is missing."""
    vertices, quads, colors = quad_room()
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(quads)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertex_type = np.dtype([("at", "<f4", 3), ("color", "u1", 3)])
    face_type = np.dtype([("count", "u1"), ("corners", "<i4", 4)])
    vertex_rows = np.zeros(len(vertices), vertex_type)
    vertex_rows["at"], vertex_rows["color"] = vertices @ Z_UP_FROM_WORLD.T, colors
    face_rows = np.zeros(len(quads), face_type)
    face_rows["count"], face_rows["corners"] = 4, quads
    room = root / "room_0"
    write_text(room / "habitat" / "mesh_semantic.ply")
    write_text(room / "textures" / "parameters.json", "{}")
    (room / "mesh.ply").write_bytes(header.encode() + vertex_rows.tobytes() + face_rows.tobytes())
    write_text(root / "office_4" / "semantic.json", "{}")
    return root


def write_replica_cad(root: Path) -> Path:
    """Write two apartments of one stage and a box placed twice, and one whose object is missing."""
    write_json(
        root / "replicaCAD.scene_dataset_config.json",
        {
            "stages": {"paths": {".json": ["configs/stages/*"]}},
            "objects": {"paths": {".json": ["configs/objects/*"]}},
            "articulated_objects": {"paths": {".urdf": ["urdf/*"]}},
            "light_setups": {"paths": {".json": ["configs/lighting/*"]}},
            "scene_instances": {"paths": {".json": ["configs/scenes/*"]}},
            "navmesh_instances": {"empty_stage_navmesh": "navmeshes/empty_stage.navmesh"},
        },
    )
    write_room_glb(root / "stages" / "frl_apartment_stage.glb", z_up=False)
    write_json(
        root / "configs" / "stages" / "frl_apartment_stage.stage_config.json",
        {
            "render_asset": "../../stages/frl_apartment_stage.glb",
            "up": [0, 1, 0],
            "front": [0, 0, -1],
        },
    )
    (root / "objects").mkdir()
    trimesh.creation.box((1.0, 1.0, 1.0)).export(root / "objects" / "frl_apartment_box.glb")
    write_json(
        root / "configs" / "objects" / "frl_apartment_box.object_config.json",
        {"render_asset": "../../objects/frl_apartment_box.glb", "mass": 1, "scale": [0.4] * 3},
    )
    write_text(root / "urdf" / "fridge" / "fridge.urdf", "<robot/>")
    for number, box in enumerate(["frl_apartment_box", "frl_apartment_box", "frl_apartment_sofa"]):
        write_json(
            root / "configs" / "scenes" / f"apt_{number}.scene_instance.json",
            {
                "translation_origin": "asset_local",
                "stage_instance": {"template_name": "stages/frl_apartment_stage"},
                "object_instances": [
                    {
                        "template_name": f"objects/{box}",
                        "motion_type": "static",
                        "translation": [x, 0.2, 1.0],
                        "rotation": [1, 0, 0, 0],
                    }
                    for x in (1.0, 4.0)
                ],
                "articulated_object_instances": [
                    {"template_name": "fridge", "translation": [2, 0, 0], "fixed_base": True}
                ],
                "default_lighting": "lighting/frl_apartment_stage",
                "navmesh_instance": "empty_stage_navmesh",
            },
        )
    return root


def write_replica_cad_baked(root: Path) -> Path:
    """Write one apartment with plain and compressed textures, and one with plain ones alone."""
    write_basis_glb(root / "stages" / "Baked_sc0_staging_00.glb")
    write_room_glb(root / "stages_uncompressed" / "Baked_sc0_staging_00.glb", z_up=False)
    write_room_glb(root / "stages" / "Baked_sc0_staging_01.glb", z_up=False)
    for number in range(2):
        write_json(
            root / "configs" / "stages" / f"Baked_sc0_staging_{number:02d}.stage_config.json",
            {"render_asset": f"../../stages/Baked_sc0_staging_{number:02d}.glb"},
        )
    return root


def write_habitat_test_scenes(root: Path) -> Path:
    """Write two of the three scenes."""
    for name in ("apartment_1", "skokloster-castle"):
        write_room_glb(root / f"{name}.glb", z_up=True)
        write_text(root / f"{name}.navmesh")
    return root


def write_my_scans(root: Path) -> Path:
    """Write two scans of one name in different folders."""
    for folder in ("office", "home/upstairs"):
        write_room_glb(root / folder / "scan.glb", z_up=False)
    return root
