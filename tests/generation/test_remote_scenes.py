"""Scenes behind URLs, in fsspec's store in memory."""

import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generation import retries
from generation.locations import filesystem, location
from generation.scenes.digest import UNREADABLE, scene_digest
from generation.scenes.remote import fetched
from generation.scenes.scene import SceneError
from generation.scenes.sources import SceneSource

TRIANGLE = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 0 1\nvt 0 0\nusemtl red\nf 1/1 2/1 3/1\n"
PLY = """ply
format ascii 1.0
comment TextureFile red.png
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 0 1
3 0 1 2
"""


@pytest.fixture
def store(tmp_path: Path):
    found, _ = filesystem(location("memory://scans"))
    if found.exists("/scans"):
        found.rm("/scans", recursive=True)
    Image.fromarray(np.full((2, 2, 3), (255, 0, 0), np.uint8)).save(tmp_path / "red.png")
    found.pipe_file("/scans/textures/red.png", (tmp_path / "red.png").read_bytes())
    found.pipe_file("/scans/red.png", (tmp_path / "red.png").read_bytes())
    found.pipe_file("/scans/a.obj", TRIANGLE.encode())
    found.pipe_file("/scans/a.mtl", b"newmtl red\nmap_Kd textures/red.png\n")
    found.pipe_file("/scans/b.ply", PLY.encode())
    found.pipe_file("/scans/unrelated.obj", b"v 0 0 0\n" * 1000)
    return found


def source_of(name: str) -> SceneSource:
    return SceneSource(scene_id="a", path=f"memory://scans/{name}")


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_scene_brings_what_it_names_and_nothing_else(store):
    with fetched("memory://scans/a.obj") as here:
        assert names_of(here.parent) == {"a.obj", "a.mtl", "red.png"}
    with fetched("memory://scans/b.ply") as here:
        assert names_of(here.parent) == {"b.ply", "red.png"}
    (material,) = source_of("a.obj").load().materials
    assert (material.texture.image == (255, 0, 0)).all()


def test_a_stage_configuration_brings_its_mesh_from_another_folder(store):
    config = b'{"render_asset": "../../a.obj", "up": [0, 0, 1], "front": [0, 1, 0]}'
    store.pipe_file("/scans/configs/stages/a.stage_config.json", config)
    scene = source_of("configs/stages/a.stage_config.json").load()
    assert scene.num_faces == 1
    assert np.ptp(scene.vertices[:, 1]) == 1.0  # z is up


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        ("a.obj", "a.obj"),
        ("a.obj", "a.mtl"),
        ("a.obj", "textures/red.png"),
        ("b.ply", "b.ply"),
        ("b.ply", "red.png"),
    ],
)
def test_an_edit_is_noticed(store, name: str, edited: str):
    before = scene_digest(source_of(name))
    assert scene_digest(source_of(name)) == before
    store.pipe_file(f"/scans/{edited}", store.cat_file(f"/scans/{edited}") + b"\n")
    assert scene_digest(source_of(name)) != before


def test_an_edit_of_another_scene_changes_nothing(store):
    before = scene_digest(source_of("a.obj"))
    store.pipe_file("/scans/unrelated.obj", b"v 1 1 1\n")
    store.pipe_file("/scans/pairs/shard-0.tar", b"made of a.obj")
    assert scene_digest(source_of("a.obj")) == before


def test_a_store_that_is_busy_hides_no_configuration(store, monkeypatch):
    config = b'{"render_asset": "a.obj", "up": [0, 0, 1], "front": [0, 1, 0]}'
    store.pipe_file("/scans/a.stage_config.json", config)
    answers = store.info
    busy = iter(range(100))

    def info(key: str):
        if key.endswith("config.json") and next(busy) % 3:
            raise OSError(errno.EBUSY, "slow down")
        return answers(key)

    monkeypatch.setattr(store, "info", info)
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.0)
    for _ in range(3):
        assert np.ptp(source_of("a.obj").load().vertices[:, 1]) == 1.0  # z is up


def test_a_store_is_asked_once_whether_a_scene_is_there(store, monkeypatch):
    asked = []
    answers = store.info
    monkeypatch.setattr(store, "info", lambda key: asked.append(key) or answers(key))
    monkeypatch.setattr(store, "get_file", lambda key, path: Path(path).write_bytes(store.cat(key)))
    with fetched("memory://scans/a.obj"):
        assert Counter(asked)["/scans/a.obj"] == 1


def test_who_may_not_list_is_told_that_what_is_missing_is_forbidden(store, monkeypatch):
    answers = store.info

    def info(key: str):
        if not store.exists(key):
            raise PermissionError(key)
        return answers(key)

    monkeypatch.setattr(type(store), "exists", lambda self, key: key in self.store)
    monkeypatch.setattr(store, "info", info)
    assert source_of("b.ply").load().num_faces == 1


def test_a_scene_that_cannot_be_had_has_no_digest(store, monkeypatch):
    assert scene_digest(source_of("gone.obj")) == UNREADABLE

    def forbidden(key: str):
        raise PermissionError(key)

    monkeypatch.setattr(store, "info", forbidden)
    assert scene_digest(source_of("a.obj")) == UNREADABLE
    with pytest.raises(SceneError, match=r"memory://scans/a.obj: cannot be fetched"):
        source_of("a.obj").load()


def test_a_name_that_leaves_a_folder_that_is_not_there_is_fetched_once(store):
    store.pipe_file("/scans/a.obj", TRIANGLE.replace("a.mtl", "gone/../a.mtl").encode())
    with pytest.raises(SceneError, match=r"material file 'a\.mtl' is missing"):
        source_of("a.obj").load()


def test_errors_name_urls(store):
    store.rm("/scans/textures/red.png")
    with pytest.raises(SceneError) as caught:
        source_of("a.obj").load()
    assert "'red.png' is missing from memory://scans/textures" in str(caught.value)
    with pytest.raises(SceneError, match=r"^memory://scans/gone\.glb: no such file$"):
        source_of("gone.glb").load()
