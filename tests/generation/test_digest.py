"""An edit of any file that a scene is made of makes another digest; moving them does not."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from scene_layouts import write_json, write_replica_cad, write_room_glb

from generation.errors import MachineError
from generation.scenes.digest import UNREADABLE, load_digested, navmesh_digest, scene_digest
from generation.scenes.sources import SceneSource


def write_gltf(root: Path) -> Path:
    Image.new("RGB", (4, 4)).save(root / "old wood.png")
    (root / "mesh.bin").write_bytes(bytes(36))
    buffers, images = [{"uri": "mesh.bin", "byteLength": 36}], [{"uri": "old%20wood.png"}]
    document = {"asset": {"version": "2.0"}, "buffers": buffers, "images": images}
    return write_json(root / "room.gltf", document)


def write_obj(root: Path) -> Path:
    Image.new("RGB", (4, 4)).save(root / "wood.png")
    (root / "room.mtl").write_text("newmtl wood\nmap_Kd wood.png\n")
    (root / "room.obj").write_text(
        "mtllib room.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl wood\nf 1/1 2/1 3/1\n"
    )
    return root / "room.obj"


def write_stage(root: Path) -> Path:
    write_room_glb(root / "meshes" / "a.glb", z_up=False)
    return write_json(root / "a.stage_config.json", {"render_asset": "meshes/a.glb"})


def write_composed(root: Path) -> Path:
    return write_replica_cad(root) / "configs" / "scenes" / "apt_0.scene_instance.json"


CASES = [
    (write_gltf, ["room.gltf", "mesh.bin", "old wood.png"]),
    (write_obj, ["room.obj", "room.mtl", "wood.png"]),
    (write_stage, ["a.stage_config.json", "meshes/a.glb"]),
    (
        write_composed,
        [
            "replicaCAD.scene_dataset_config.json",
            "configs/scenes/apt_0.scene_instance.json",
            "configs/stages/*.json",
            "configs/objects/*.json",
            "stages/*.glb",
            "objects/*.glb",
        ],
    ),
]


def digest(path: Path) -> str:
    return scene_digest(SceneSource(scene_id="a", path=str(path)))


@pytest.mark.parametrize(
    ("write", "part"), [(write, part) for write, parts in CASES for part in parts]
)
def test_an_edit_of_any_part_is_noticed(tmp_path: Path, write, part: str):
    scene = write(tmp_path)
    before = digest(scene)
    (edited,) = tmp_path.glob(part)
    if edited.suffix in (".json", ".gltf"):
        edited.write_text(json.dumps(json.loads(edited.read_text()) | {"note": "edited"}))
    else:
        data = bytearray(edited.read_bytes())
        data[-1] ^= 1
        edited.write_bytes(data)
    assert digest(scene) != before != UNREADABLE


@pytest.mark.parametrize("write", [write for write, _ in CASES])
def test_a_scene_that_moved_as_a_whole_is_the_same(tmp_path: Path, write):
    (tmp_path / "here").mkdir()
    scene = write(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = tmp_path / "there" / scene.relative_to(tmp_path / "here")
    assert digest(scene) == digest(there) != "unreadable"


def test_a_file_that_the_scene_does_not_use_does_not_matter(tmp_path: Path):
    scene = write_composed(tmp_path)
    before = digest(scene)
    (tmp_path / "configs" / "objects" / "lamp.object_config.json").write_text("{")
    assert digest(scene) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"buffers": [3]}'])
def test_a_scene_that_cannot_be_read_has_a_digest_too(tmp_path: Path, text: str):
    (tmp_path / "a.gltf").write_text(text)
    assert digest(tmp_path / "a.gltf") == "unreadable"
    assert digest(tmp_path / "gone.glb") == "unreadable"


def test_a_navigation_mesh_has_a_digest_of_its_own(tmp_path: Path):
    scene = write_gltf(tmp_path)
    source, before = SceneSource(scene_id="a", path=str(scene)), digest(scene)
    assert navmesh_digest(source) == "computed"
    scene.with_suffix(".navmesh").write_bytes(b"one")
    first = navmesh_digest(source)
    scene.with_suffix(".navmesh").write_bytes(b"other")
    assert "" != first != navmesh_digest(source)
    assert digest(scene) == before


def test_a_generated_room_has_none():
    assert scene_digest(SceneSource(scene_id="procedural-000000")) == ""


def test_names_need_not_be_utf8(tmp_path: Path):
    """As old archives leave them behind."""
    path = write_obj(tmp_path)
    old = Path(os.fsdecode(os.fsencode(tmp_path) + b"/k\xfcche.obj"))
    path.rename(old)
    assert digest(old) != UNREADABLE


def test_a_scene_is_loaded_as_it_was_when_the_run_began(tmp_path: Path):
    write_room_glb(tmp_path / "a.glb", z_up=False)
    source = SceneSource(scene_id="a", path=str(tmp_path / "a.glb"))
    began = scene_digest(source)
    assert load_digested(source, began).scene_id == "a"
    assert load_digested(source, UNREADABLE).scene_id == "a"  # where the run began, nobody saw it
    write_room_glb(tmp_path / "a.glb", z_up=True)
    with pytest.raises(MachineError, match=r"a\.glb: this is not the file that the run began"):
        load_digested(source, began)
    (tmp_path / "a.glb").unlink()
    with pytest.raises(MachineError, match="or cannot be read"):
        load_digested(source, began)


def test_a_scenes_navigation_mesh_is_as_it_was_when_the_run_began(tmp_path: Path):
    write_room_glb(tmp_path / "a.glb", z_up=False)
    (tmp_path / "a.navmesh").write_bytes(b"as it was")
    source = SceneSource(scene_id="a", path=str(tmp_path / "a.glb"))
    began = (scene_digest(source), navmesh_digest(source))
    load_digested(source, *began)
    (tmp_path / "a.navmesh").write_bytes(b"as it is")
    load_digested(source, began[0])  # for a renderer that does not stand on it
    with pytest.raises(MachineError, match="this or its navigation mesh is not the file"):
        load_digested(source, *began)
