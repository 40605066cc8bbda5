"""Scenes written as GLB and read back."""

import numpy as np
import pytest

from generation.geometry import Camera, look_at
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.export import export_glb
from generation.scenes.mesh_files import load_mesh_scene
from generation.scenes.procedural import make_room
from generation.scenes.scene import Material, Scene, Texture


def quad(texture):
    """A square of 2 m whose texture coordinates leave 0..1 on every side."""
    return Scene(
        scene_id="quad",
        vertices=np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32),
        faces=np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        uvs=np.array([[-1, 2], [2, 2], [2, -1], [-1, -1]], np.float32),
        vertex_colors=np.array([[255, 0, 9], [0, 255, 80], [7, 8, 255], [99, 98, 97]], np.uint8),
        face_materials=np.zeros(2, np.int32),
        materials=(Material(base_color=(1.0, 0.5, 0.25), texture=texture),),
    )


def picture(scene, eye=(0.2, 0.1, 2.0), target=(0.0, 0.0, 0.0)):
    camera = Camera.from_hfov(60, (128, 128), look_at(np.array(eye), np.array(target)))
    return EmbreeRenderer(scene).render(camera).color


def assert_same_picture(first, second):
    difference = np.abs(first.astype(int) - second.astype(int)).max(axis=2)
    assert (difference <= 1).mean() > 0.995


@pytest.mark.parametrize("wrap_u", ["repeat", "clamp", "mirror"])
@pytest.mark.parametrize("wrap_v", ["repeat", "clamp", "mirror"])
def test_wrap_modes_survive_the_round_trip(tmp_path, wrap_u, wrap_v):
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    scene = quad(Texture(image=image, wrap_u=wrap_u, wrap_v=wrap_v))
    export_glb(scene, tmp_path / "quad.glb")
    loaded = load_mesh_scene(tmp_path / "quad.glb", "quad")
    texture = loaded.materials[0].texture
    assert (texture.wrap_u, texture.wrap_v) == (wrap_u, wrap_v)
    assert_same_picture(picture(scene), picture(loaded))


def test_a_scene_without_texture_keeps_its_colours(tmp_path):
    scene = quad(None)
    export_glb(scene, tmp_path / "quad.glb")
    loaded = load_mesh_scene(tmp_path / "quad.glb", "quad")
    assert loaded.materials[0].base_color == (1.0, 0.5, 0.25)
    assert_same_picture(picture(scene), picture(loaded))


def test_a_room_read_back_gives_the_same_picture(tmp_path):
    room = make_room(3)
    export_glb(room, tmp_path / "room.glb")
    loaded = load_mesh_scene(tmp_path / "room.glb", "room")
    assert loaded.num_faces == room.num_faces
    centre = room.bounds.mean(axis=0)
    for turn in range(4):
        direction = np.array([np.cos(1.6 * turn), -0.2, np.sin(1.6 * turn)])
        views = [picture(s, centre, centre + direction) for s in (room, loaded)]
        assert_same_picture(*views)


def test_the_same_room_makes_the_same_bytes(tmp_path):
    for name in ("a.glb", "b.glb"):
        export_glb(make_room(5), tmp_path / name)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.glb", "b.glb"]
