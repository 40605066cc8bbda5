"""Mesh files as users have them, written here by hand or by trimesh."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from generation.scenes.asset_config import AssetConfig
from generation.scenes.mesh_files import MESH_ENDINGS, load_mesh_scene
from generation.scenes.scene import Scene, SceneError, transformed
from generation.scenes.sets import scene_files_among
from generation.scenes.sources import SceneSource, resolve_scenes, tell_of_assumed_up
from generation.scenes.untrusted import unlikely_extent
from pipelines.scene_sets import scene_sets

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)  # one row: left red, right green

QUAD_PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 1
property list uchar int vertex_indices
end_header
0 0 0 10 20 30
1 0 0 40 50 60
1 1 0 70 80 90
0 1 0 100 110 120
4 0 1 2 3
"""


def write_glb(
    path: Path, *, sampler: dict | None = None, node: dict | None = None, texture=(), primitive=()
) -> Path:
    """Write one textured triangle, by the glTF 2.0 specification; with more fields of its parts."""
    positions = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0]], "<f4")
    uvs = np.array([[0, 0], [2.5, 0], [0, 1]], "<f4")
    Image.fromarray(RED_GREEN).save(path.with_suffix(".png"))
    png = path.with_suffix(".png").read_bytes()
    path.with_suffix(".png").unlink()
    chunks = [positions.tobytes(), uvs.tobytes(), np.array([0, 1, 2], "<u4").tobytes(), png]
    offsets = np.cumsum([0] + [len(chunk) for chunk in chunks])
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **(node or {})}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "TEXCOORD_0": 1},
                        "indices": 2,
                        "material": 0,
                        **dict(primitive),
                    }
                ]
            }
        ],
        "materials": [
            {
                "pbrMetallicRoughness": {
                    "baseColorFactor": [0.5, 0.25, 1.0, 1.0],
                    "baseColorTexture": {"index": 0, **dict(texture)},
                }
            }
        ],
        "textures": [{"source": 0} | ({"sampler": 0} if sampler else {})],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 3,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [2, 3, 0],
            },
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5125, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": int(offset), "byteLength": len(chunk)}
            for offset, chunk in zip(offsets, chunks)
        ],
        "buffers": [{"byteLength": int(offsets[-1])}],
    }
    if sampler:
        document["samplers"] = [sampler]
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(chunks)
    binary += b"\0" * (-len(binary) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
    path.write_bytes(
        header
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(binary), b"BIN\0")
        + binary
    )
    return path


def test_a_glb_keeps_positions_texture_coordinates_and_base_colour(tmp_path: Path):
    scene = load_mesh_scene(write_glb(tmp_path / "a.glb"), "a")
    np.testing.assert_allclose(scene.vertices, [[0, 0, 0], [2, 0, 0], [0, 3, 0]])
    np.testing.assert_allclose(scene.uvs, [[0, 0], [2.5, 0], [0, 1]], atol=1e-6)
    (material,) = scene.materials
    assert material.base_color == (0.5, 0.25, 1.0)
    assert material.texture is not None
    np.testing.assert_array_equal(material.texture.image, RED_GREEN)
    assert (material.texture.wrap_u, material.texture.wrap_v) == ("repeat", "repeat")


@pytest.mark.parametrize(("code", "mode"), [(10497, "repeat"), (33071, "clamp"), (33648, "mirror")])
def test_a_glb_keeps_its_wrap_modes(tmp_path: Path, code: int, mode: str):
    scene = load_mesh_scene(write_glb(tmp_path / "a.glb", sampler={"wrapS": code}), "a")
    texture = scene.materials[0].texture
    assert texture is not None
    assert (texture.wrap_u, texture.wrap_v) == (mode, "repeat")


def test_node_transforms_are_applied(tmp_path: Path):
    node = {"translation": [1, 2, 3], "scale": [2, 1, 1]}
    scene = load_mesh_scene(write_glb(tmp_path / "a.glb", node=node), "a")
    np.testing.assert_allclose(scene.vertices, [[1, 2, 3], [5, 2, 3], [1, 5, 3]])


def test_a_mirroring_transform_keeps_the_front_in_front(tmp_path: Path):
    plain = load_mesh_scene(write_glb(tmp_path / "a.glb"), "a")
    mirrored = load_mesh_scene(write_glb(tmp_path / "b.glb", node={"scale": [1, 1, -1]}), "b")

    def normal_z(scene):
        a, b, c = scene.vertices[scene.faces[0]]
        return np.cross(b - a, c - a)[2]

    assert normal_z(plain) > 0 > normal_z(mirrored)


def test_a_ply_quad_becomes_two_triangles_with_vertex_colours(tmp_path: Path):
    (tmp_path / "quad.ply").write_text(QUAD_PLY)
    scene = load_mesh_scene(tmp_path / "quad.ply", "quad")
    assert scene.num_faces == 2
    a, b, c = np.moveaxis(scene.vertices[scene.faces], 1, 0)
    np.testing.assert_allclose(np.cross(b - a, c - a), [[0, 0, 1], [0, 0, 1]])
    order = np.lexsort(scene.vertices.T[:2])
    np.testing.assert_array_equal(
        scene.vertex_colors[order], [[10, 20, 30], [40, 50, 60], [100, 110, 120], [70, 80, 90]]
    )


def write_obj(folder: Path) -> Path:
    Image.fromarray(RED_GREEN).save(folder / "wood.png")
    (folder / "room.mtl").write_text("newmtl wood\nKd 1.0 0.5 0.0\nmap_Kd wood.png\n")
    (folder / "room.obj").write_text(
        "mtllib room.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
        "usemtl wood\nf 1/1 2/2 3/3\n"
    )
    return folder / "room.obj"


def test_an_obj_has_its_material_and_v_upwards(tmp_path: Path):
    scene = load_mesh_scene(write_obj(tmp_path), "room")
    (material,) = scene.materials
    np.testing.assert_allclose(material.base_color, (1.0, 0.5, 0.0), atol=1 / 255)
    assert material.texture is not None
    np.testing.assert_array_equal(material.texture.image, RED_GREEN)
    # OBJ's v grows upwards, ours downwards.
    by_vertex = {tuple(v): tuple(uv) for v, uv in zip(scene.vertices.tolist(), scene.uvs.tolist())}
    assert by_vertex == {(0, 0, 0): (0, 1), (1, 0, 0): (1, 1), (0, 1, 0): (0, 0)}


@pytest.mark.parametrize("ending", ["ply", "glb", "obj"])
def test_a_mesh_without_colours_is_white(tmp_path: Path, ending: str):
    path = tmp_path / f"plain.{ending}"
    trimesh.Trimesh(np.eye(3), [[0, 1, 2]], process=False).export(path)
    scene = load_mesh_scene(path, "plain")
    assert (scene.vertex_colors == 255).all()
    assert all(m.texture is None for m in scene.materials)


class TestStageConfig:
    def test_beside_a_mesh_it_turns_scales_and_converts_units(self, tmp_path: Path):
        write_glb(tmp_path / "a.glb")
        (tmp_path / "a.stage_config.json").write_text(
            json.dumps(
                {
                    "render_asset": "a.glb",
                    "up": [0, 0, 1],
                    "front": [0, 1, 0],
                    "units_to_meters": 0.5,
                    "scale": [1, 2, 3],
                }
            )
        )
        scene = load_mesh_scene(tmp_path / "a.glb", "a")
        # (x, y, z) of the file becomes (x, z, -y), as habitat-sim takes a Z-up file, then scaled.
        np.testing.assert_allclose(scene.vertices, [[0, 0, 0], [1, 0, 0], [0, 0, -4.5]], atol=1e-6)
        named = load_mesh_scene(tmp_path / "a.stage_config.json", "a")
        np.testing.assert_array_equal(scene.vertices, named.vertices)

    def test_an_up_axis_turns_a_mesh_without_one(self, tmp_path: Path):
        scene = load_mesh_scene(write_glb(tmp_path / "a.glb"), "a", up="z")
        np.testing.assert_allclose(scene.vertices, [[0, 0, 0], [2, 0, 0], [0, 0, -3]], atol=1e-6)

    @pytest.mark.parametrize("up", ["x", "-x", "y", "-y", "z", "-z"])
    def test_every_up_axis_points_up_and_nothing_is_mirrored(self, up: str):
        turn = AssetConfig.with_up(Path("a.glb"), up).world_from_file
        axis = np.eye(3)["xyz".index(up[-1])] * (-1 if up[0] == "-" else 1)
        np.testing.assert_allclose(turn @ axis, [0, 1, 0], atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{}", "needs the key 'render_asset'"),
            ("{", "not a stage configuration"),
            ('{"render_asset": "a.glb", "up": [0, 1]}', "not a stage configuration"),
            ('{"render_asset": "a.glb", "up": [0, 1, 0], "front": [0, 1, 0]}', "right angles"),
            ('{"render_asset": "gone.glb"}', "gone.glb: no such file"),
        ],
    )
    def test_a_bad_one_is_named(self, tmp_path: Path, text: str, message: str):
        write_glb(tmp_path / "a.glb")
        (tmp_path / "b.stage_config.json").write_text(text)
        with pytest.raises(SceneError, match=message):
            load_mesh_scene(tmp_path / "b.stage_config.json", "b")


class TestBadFiles:
    def load(self, path: Path) -> None:
        load_mesh_scene(path, "bad")

    def test_missing(self, tmp_path: Path):
        with pytest.raises(SceneError, match=r"gone\.glb: no such file"):
            self.load(tmp_path / "gone.glb")

    def test_empty(self, tmp_path: Path):
        (tmp_path / "a.ply").touch()
        with pytest.raises(SceneError, match=r"a\.ply: the file is empty"):
            self.load(tmp_path / "a.ply")

    def test_not_a_mesh_file(self, tmp_path: Path):
        (tmp_path / "a.txt").write_text("hello")
        with pytest.raises(SceneError, match="expected a mesh file"):
            self.load(tmp_path / "a.txt")

    @pytest.mark.parametrize("ending", MESH_ENDINGS)
    def test_garbage_under_a_mesh_ending(self, tmp_path: Path, ending: str):
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"this is not a mesh, whatever its name says" * 20)
        with pytest.raises(SceneError, match=f"a\\{ending}"):
            self.load(path)

    @pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
    def test_a_truncated_glb(self, tmp_path: Path, keep: float):
        path = write_glb(tmp_path / "a.glb")
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        with pytest.raises(SceneError, match=r"a\.glb: truncated"):
            self.load(path)

    def test_a_truncated_ply(self, tmp_path: Path):
        path = tmp_path / "a.ply"
        trimesh.creation.icosphere().export(path)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(SceneError, match=r"a\.ply: cannot be read"):
            self.load(path)

    def test_no_faces(self, tmp_path: Path):
        path = tmp_path / "a.ply"
        trimesh.PointCloud(np.eye(3)).export(path)
        with pytest.raises(SceneError, match="no triangles"):
            self.load(path)

    def test_nans(self, tmp_path: Path):
        (tmp_path / "a.ply").write_text(QUAD_PLY.replace("0 1 0 100", "nan 1 0 100"))
        with pytest.raises(SceneError, match=r"a\.ply.*NaN"):
            self.load(tmp_path / "a.ply")

    def test_nans_in_texture_coordinates(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        data = path.read_bytes().replace(np.float32(2.5).tobytes(), np.float32("nan").tobytes())
        path.write_bytes(data)
        with pytest.raises(SceneError, match=r"a\.glb.*texture coordinates are NaN"):
            self.load(path)

    def test_a_texture_that_cannot_be_decoded(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        data = path.read_bytes()
        start = data.index(b"\x89PNG") + 1
        path.write_bytes(data[:start] + b"XXX" + data[start + 3 :])
        with pytest.raises(SceneError, match="image cannot be decoded"):
            self.load(path)

    def test_a_missing_texture_of_a_ply(self, tmp_path: Path):
        text = QUAD_PLY.replace("format ascii 1.0", "format ascii 1.0\ncomment TextureFile a.png")
        (tmp_path / "a.ply").write_text(text)
        with pytest.raises(SceneError, match=r"texture file 'a\.png' is missing"):
            self.load(tmp_path / "a.ply")

    def test_a_missing_texture_whose_name_has_spaces(self, tmp_path: Path):
        path = write_obj(tmp_path)
        library = tmp_path / "room.mtl"
        library.write_text(library.read_text().replace("wood.png", "old wood.png"))
        with pytest.raises(SceneError, match=r"texture file 'old wood\.png' is missing"):
            self.load(path)

    @pytest.mark.parametrize("keyword", ["map_Kd", "map_kd", "MAP_KD"])
    def test_a_missing_texture_however_its_keyword_is_spelt(self, tmp_path: Path, keyword: str):
        path = write_obj(tmp_path)
        (tmp_path / "room.mtl").write_text(f"newmtl wood\n{keyword} gone.png\n")
        with pytest.raises(SceneError, match=r"texture file 'gone\.png' is missing"):
            self.load(path)

    def test_a_library_of_materials_may_have_any_ending(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "room.mtl").rename(tmp_path / "room.materials")
        path.write_text(path.read_text().replace("room.mtl", "room.materials"))
        (material,) = load_mesh_scene(path, "good").materials
        assert material.texture is not None

    def test_a_texture_with_options(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "room.mtl").write_text("newmtl wood\nmap_Kd -s 1 1 1 wood.png\n")
        with pytest.raises(SceneError, match=r"room\.mtl: options are not read.*wood\.png"):
            self.load(path)

    def test_two_material_files(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "other.mtl").write_text("newmtl stone\n")
        path.write_text("mtllib other.mtl\n" + path.read_text())
        with pytest.raises(SceneError, match="2 material files; put them into one"):
            self.load(path)

    @pytest.mark.parametrize("damage", [b"no image", None])
    def test_a_texture_of_an_obj_that_cannot_be_decoded(self, tmp_path: Path, damage: bytes | None):
        path = write_obj(tmp_path)
        image = tmp_path / "wood.png"
        image.write_bytes(damage or image.read_bytes()[:-30])
        with pytest.raises(SceneError, match=r"(wood\.png|\.obj).*image cannot be decoded"):
            self.load(path)

    def test_a_missing_texture_of_an_obj(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "wood.png").unlink()
        with pytest.raises(SceneError, match=r"texture file 'wood\.png' is missing"):
            self.load(path)

    def test_a_missing_material_library_of_an_obj(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "room.mtl").unlink()
        with pytest.raises(SceneError, match=r"material file 'room\.mtl' is missing"):
            self.load(path)

    def test_a_missing_texture_of_a_gltf(self, tmp_path: Path):
        mesh = trimesh.creation.box()
        files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(mesh))
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "model.gltf"
        document = json.loads(path.read_text())
        document["images"] = [{"uri": "wood.png"}]
        path.write_text(json.dumps(document))
        with pytest.raises(SceneError, match=r"texture file 'wood\.png' is missing"):
            self.load(path)

    def test_a_triangle_fan(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb", primitive={"mode": 6})
        with pytest.raises(SceneError, match="it has a triangle fan"):
            self.load(path)

    def test_colours_in_a_second_uv_map(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb", texture={"texCoord": 1})
        with pytest.raises(SceneError, match="its colours in a second UV map"):
            self.load(path)

    def test_a_ply_of_triangles_and_quads(self, tmp_path: Path):
        header = (
            "ply\nformat binary_little_endian 1.0\nelement vertex 5\nproperty float x\n"
            "property float y\nproperty float z\nelement face 2\n"
            "property list uchar int vertex_indices\nend_header\n"
        )
        faces = struct.pack("<B4iB3i", 4, 0, 1, 2, 3, 3, 0, 1, 4)
        path = tmp_path / "a.ply"
        path.write_bytes(header.encode() + np.zeros((5, 3), "<f4").tobytes() + faces)
        with pytest.raises(SceneError, match="or has it both triangles and quads"):
            self.load(path)

    def test_a_compressed_gltf_extension(self, tmp_path: Path):
        path = tmp_path / "a.gltf"
        path.write_text('{"extensionsRequired": ["KHR_draco_mesh_compression"]}')
        with pytest.raises(SceneError, match="without compression"):
            self.load(path)


class TestResolving:
    def test_a_mesh_and_its_stage_configuration_are_one_scene(self, tmp_path: Path):
        write_glb(tmp_path / "a.glb")
        (tmp_path / "a.stage_config.json").write_text('{"render_asset": "a.glb"}')
        (source,) = resolve_scenes([str(tmp_path / "*")])
        assert source.scene_id == "a"

    def test_rooms_and_files_keep_their_order_and_come_once(self, tmp_path: Path):
        for name in ("b", "a"):
            write_glb(tmp_path / f"{name}.glb")
        sources = resolve_scenes(["procedural:3-4", str(tmp_path), str(tmp_path / "b.glb")])
        assert [s.scene_id for s in sources] == ["procedural-000003", "procedural-000004", "a", "b"]

    def test_names_have_no_dots_and_are_told_apart_by_their_folders(self, tmp_path: Path):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            write_glb(tmp_path / folder / "mesh.v2.glb")
        sources = resolve_scenes([str(tmp_path / "**" / "*.glb")])
        assert [s.scene_id for s in sources] == ["one-mesh_v2", "two-mesh_v2"]

    def test_files_of_one_stem_are_told_apart_by_their_ending(self, tmp_path: Path):
        write_glb(tmp_path / "room.glb")
        write_glb(tmp_path / "other.glb")
        (tmp_path / "room.stage_config.json").write_text('{"render_asset": "other.glb"}')
        sources = resolve_scenes([str(tmp_path / "room.*")])
        assert [s.scene_id for s in sources] == ["room-glb", "room-json"]

    @pytest.mark.parametrize("endings", [("glb", "obj", "PLY"), ("obj", "ply"), ("GLB", "gltf")])
    def test_a_room_in_several_formats_is_one_scene(self, tmp_path: Path, caplog, endings):
        caplog.set_level("INFO")
        first, *others = (tmp_path / f"room.{ending}" for ending in endings)
        for path in (first, *others):
            path.touch()
        for patterns in ([tmp_path], [tmp_path / "*"], [f"my_scans:{tmp_path}"], [first, *others]):
            caplog.clear()
            (source,) = resolve_scenes([str(each) for each in patterns], sets=scene_sets())
            assert (source.scene_id, source.path) == ("room", str(first))
            (line,) = caplog.messages
            assert line.endswith(f"another format: {', '.join(map(str, sorted(others)))}")
        (source,) = resolve_scenes([str(others[0])])
        assert source.path == str(others[0])

    def test_the_format_that_stands_first_is_taken_whatever_its_ending(self, monkeypatch):
        monkeypatch.setattr("generation.scenes.sets.MESH_ENDINGS", (".ply", ".glb"))
        names = [Path("room.glb"), Path("room.ply"), Path("room.stage_config.json")]
        assert scene_files_among(names) == names[1:]

    def test_names_do_not_tell_where_the_scans_lie(self, tmp_path: Path):
        ids = []
        for root in ("here", "there"):
            for folder in ("one", "two"):
                (tmp_path / root / folder).mkdir(parents=True)
                (tmp_path / root / folder / "mesh.ply").touch()
            sources = resolve_scenes([str(tmp_path / root / "*" / "mesh.ply")])
            ids.append([s.scene_id for s in sources])
        assert ids[0] == ids[1] == ["one-mesh", "two-mesh"]

    def test_names_too_much_alike_are_refused(self, tmp_path: Path):
        for name in ("a b.ply", "a_b.ply"):
            (tmp_path / name).touch()
        with pytest.raises(SceneError, match="too much alike"):
            resolve_scenes([str(tmp_path)])

    def test_a_file_with_a_generated_rooms_name_is_refused(self, tmp_path: Path):
        (tmp_path / "procedural-000000.glb").touch()
        with pytest.raises(SceneError, match="rename it"):
            resolve_scenes(["procedural:0", str(tmp_path)])

    def test_a_file_name_with_glob_characters_is_that_file(self, tmp_path: Path):
        (tmp_path / "scan[1].ply").touch()
        (source,) = resolve_scenes([str(tmp_path / "scan[1].ply")])
        assert source.path.endswith("scan[1].ply")

    def test_basis_textures_are_left_where_there_are_plain_ones(self, tmp_path: Path):
        for name in ("a.glb", "a.basis.glb", "b.basis.glb"):
            (tmp_path / name).touch()
        sources = resolve_scenes([str(tmp_path / "*.glb")])
        assert [Path(s.path).name for s in sources] == ["a.glb", "b.basis.glb"]

    def test_meshes_that_do_not_say_which_axis_is_up_are_told(self, tmp_path: Path, caplog):
        for name in ("a.OBJ", "b.ply", "c.glb", "d.ply", "d.stage_config.json"):
            (tmp_path / name).touch()
        caplog.set_level("INFO")
        url = "https://localhost/e.ply"
        for up in ("y", "z"):
            tell_of_assumed_up(resolve_scenes(["procedural:0", str(tmp_path), url], up=up))
        assert caplog.messages == ["a.OBJ, b.ply, e.ply: no axis is said to be up; taken: y (--up)"]

    @pytest.mark.parametrize(
        "pattern", ["procedural:", "procedural:5-2", "procedural:a", "nothing-*.glb"]
    )
    def test_a_pattern_that_names_nothing_is_refused(self, pattern: str):
        with pytest.raises(SceneError, match=r"procedural|no mesh file"):
            resolve_scenes([pattern])


def gltf_of(document: dict, path: Path) -> Path:
    """Write a glTF file of one triangle, whose document is changed before."""
    buffer = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0]], "<f4").tobytes()
    (path.parent / "mesh.bin").write_bytes(buffer)
    plain = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(buffer)}],
        "buffers": [{"byteLength": len(buffer), "uri": "mesh.bin"}],
    }
    path.write_text(json.dumps(plain | document))
    return path


class TestHostileFiles:
    """Kinds of files that once did something else than give a scene or a SceneError."""

    def load(self, path: Path) -> None:
        load_mesh_scene(path, "hostile")

    def test_the_plain_file_is_fine(self, tmp_path: Path):
        self.load(gltf_of({}, tmp_path / "a.gltf"))

    @pytest.mark.parametrize(
        "name",
        ["../outside.bin", "/etc/passwd", "sub/../../outside.bin", "%2e%2e/outside.bin", "."],
    )
    def test_a_buffer_outside_of_the_folder(self, tmp_path: Path, name: str):
        (tmp_path / "outside.bin").write_bytes(bytes(36))
        (tmp_path / "scene").mkdir()
        path = gltf_of(
            {"buffers": [{"byteLength": 36, "uri": name}]}, tmp_path / "scene" / "a.gltf"
        )
        with pytest.raises(SceneError, match="not in its folder"):
            self.load(path)

    @pytest.mark.parametrize("library", ["../out.mtl", "in.mtl"])
    def test_a_material_or_its_texture_outside_of_the_folder(self, tmp_path: Path, library: str):
        path = write_obj(tmp_path)
        (tmp_path / "in.mtl").write_text("newmtl wood\nmap_Kd ../wood.png\n")
        path.write_text(path.read_text().replace("room.mtl", library))
        with pytest.raises(SceneError, match="not in its folder"):
            self.load(path)

    def test_a_texture_of_a_ply_outside_of_the_folder(self, tmp_path: Path):
        text = QUAD_PLY.replace(
            "format ascii 1.0", "format ascii 1.0\ncomment TextureFile ../a.png"
        )
        (tmp_path / "a.ply").write_text(text)
        with pytest.raises(SceneError, match="not in its folder"):
            self.load(tmp_path / "a.ply")

    def test_a_texture_in_a_folder_below(self, tmp_path: Path):
        path = write_obj(tmp_path)
        (tmp_path / "images").mkdir()
        (tmp_path / "wood.png").rename(tmp_path / "images" / "wood.png")
        (tmp_path / "room.mtl").write_text("newmtl wood\nmap_Kd images/wood.png\n")
        self.load(path)

    def test_a_stage_configuration_that_names_no_mesh(self, tmp_path: Path):
        config = tmp_path / "a.stage_config.json"
        config.write_text('{"render_asset": "/etc/passwd"}')
        with pytest.raises(SceneError, match="expected a mesh file"):
            SceneSource(scene_id="a", path=str(config)).files()

    def test_a_json_chunk_of_gigabytes(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        data = bytearray(path.read_bytes())
        data[12:16] = struct.pack("<I", 2**32 - 1)
        path.write_bytes(data)
        with pytest.raises(SceneError, match=r"a\.glb: truncated"):
            self.load(path)

    @pytest.mark.parametrize("count", [10**12, -1, 1.5, None])
    def test_an_accessor_without_data_of_any_size(self, tmp_path: Path, count: object):
        accessor = {"componentType": 5126, "count": count, "type": "VEC3"}
        path = gltf_of({"accessors": [accessor]}, tmp_path / "a.gltf")
        with pytest.raises(SceneError, match="array"):
            self.load(path)

    def test_many_primitives_that_share_an_accessor(self, tmp_path: Path):
        zeros = {"componentType": 5126, "count": 1_000_000, "type": "VEC3"}
        mesh = {"primitives": [{"attributes": {"POSITION": 0}}] * 100}
        path = gltf_of({"accessors": [zeros], "meshes": [mesh]}, tmp_path / "a.gltf")
        with pytest.raises(SceneError, match=r"arrays it declares .* need more than 1\.1 GB"):
            self.load(path)

    def test_a_mesh_that_many_nodes_place(self, tmp_path: Path):
        mesh = trimesh.creation.icosphere(subdivisions=6)
        (glb := tmp_path / "a.glb").write_bytes(trimesh.Scene(mesh).export(file_type="glb"))
        data = glb.read_bytes()
        (length,) = struct.unpack_from("<I", data, 12)
        document = json.loads(data[20 : 20 + length])
        document["nodes"] = [{"mesh": 0}] * 3000
        document["scenes"] = [{"nodes": list(range(3000))}]
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        rest = data[20 + length :]
        header = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
        glb.write_bytes(header + struct.pack("<I4s", len(text), b"JSON") + text + rest)
        with pytest.raises(SceneError, match="its meshes need more than"):
            self.load(glb)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_images_that_unfold_to_gigabytes(self, tmp_path: Path):
        path = write_obj(tmp_path)
        Image.new("L", (13_000, 13_000)).save(tmp_path / "wood.png")
        assert (tmp_path / "wood.png").stat().st_size < 1e6
        with pytest.raises(SceneError, match=r"its images .* need more than"):
            self.load(path)

    def test_an_image_that_another_program_would_draw(self, tmp_path: Path):
        path = write_obj(tmp_path)
        Image.fromarray(RED_GREEN).save(tmp_path / "wood.png", "eps")
        with pytest.raises(SceneError, match="image cannot be decoded"):
            self.load(path)

    @pytest.mark.parametrize(
        ("nodes", "roots"),
        [
            ([{"children": [1]}, {"children": [0], "mesh": 0}], [0]),
            ([{"children": [1, 2]}, {"children": [2]}, {"mesh": 0}], [0]),
            ([{"children": [0], "mesh": 0}], [0]),
        ],
    )
    def test_nodes_that_are_no_tree(self, tmp_path: Path, nodes: list, roots: list):
        path = gltf_of({"nodes": nodes, "scenes": [{"nodes": roots}]}, tmp_path / "a.gltf")
        with pytest.raises(SceneError, match="parents; its nodes are no tree"):
            self.load(path)

    def test_nodes_nested_without_end(self, tmp_path: Path):
        nodes = [{"children": [i + 1], "mesh": 0} for i in range(20_000)] + [{"mesh": 0}]
        with pytest.raises(SceneError, match="nested deeper than"):
            self.load(gltf_of({"nodes": nodes}, tmp_path / "a.gltf"))

    def test_texture_coordinates_beyond_what_shading_can_follow(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        data = path.read_bytes().replace(np.float32(2.5).tobytes(), np.float32(3e38).tobytes())
        path.write_bytes(data)
        with pytest.raises(SceneError, match=r"texture coordinates are .* beyond 1e\+09"):
            self.load(path)

    def test_texture_coordinates_for_other_vertices(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        path.write_bytes(path.read_bytes().replace(b'"count": 3, "type": "VEC2"',
                                                   b'"count": 2, "type": "VEC2"'))  # fmt: skip
        with pytest.raises(SceneError, match="uvs have the shape"):
            self.load(path)

    def test_a_base_colour_that_is_not_a_number(self, tmp_path: Path):
        path = write_glb(tmp_path / "a.glb")
        path.write_bytes(path.read_bytes().replace(b"[0.5, 0.25", b"[NaN, 0.25"))
        with pytest.raises(SceneError, match=r"a\.glb"):
            self.load(path)

    def test_a_texture_slot_that_is_no_object(self, tmp_path: Path):
        with pytest.raises(SceneError, match="cannot be read as a GLTF mesh"):
            self.load(gltf_of({"textures": ["wood"]}, tmp_path / "a.gltf"))

    def test_vertices_with_one_coordinate(self, tmp_path: Path):
        path = tmp_path / "a.obj"
        path.write_text("v 0\nv 1\nv 2\nf 1 2 3\n")
        with pytest.raises(SceneError, match=r"a\.obj"):
            self.load(path)

    def test_a_scene_that_spans_a_country(self, tmp_path: Path):
        (tmp_path / "a.ply").write_text(QUAD_PLY.replace("1 1 0 70", "1e30 1 0 70"))
        with pytest.raises(SceneError, match=r"spans 1e\+30 m"):
            SceneSource(scene_id="a", path=str(tmp_path / "a.ply")).load()

    def test_a_scene_that_lies_far_from_its_origin(self, tmp_path: Path):
        path = tmp_path / "a.obj"
        path.write_text("v 500000 0 4649776\nv 500001 0 4649776\nv 500000 0 4649777\nf 1 2 3\n")
        with pytest.raises(SceneError, match=r"lies 4\.65e\+06 m from its origin, .* move it"):
            SceneSource(scene_id="a", path=str(path)).load()


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (1000, "it spans 5000.00 x 2600.00 x 4000.00 m"),
        (100, "it spans 500.00 x 260.00 x 400.00 m"),
        (0.01, "it spans 0.05 x 0.03 x 0.04 m"),
        (1, ""),
        (0.3048, ""),
        (30, ""),
    ],
)
def test_a_size_that_no_indoor_scan_has_is_told(box_room: Scene, scale: float, said: str):
    text = unlikely_extent(transformed(box_room, scale * np.eye(3)))
    assert text.startswith(said)
    assert bool(text) == bool(said)
