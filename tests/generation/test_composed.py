"""Scenes composed of a stage and objects: placing in closed form, and habitat-sim's own renders.

`pytest -rP tests/generation/test_composed.py -k habitat` prints the figures.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from scene_layouts import room_scene

from generation.geometry import Camera
from generation.renderers.choice import open_renderer
from generation.renderers.texturing import SurfaceColors
from generation.scenes.composed import load_composed_scene, read_layout
from generation.scenes.export import export_glb
from generation.scenes.scene import Scene, SceneError

QUARTER_TURN_Y = [0.70710678, 0.0, 0.70710678, 0.0]
"""wxyz: x goes to -z, z to x."""


class Dataset:
    """A dataset of a stage and of boxes, in the making."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("a.scene_dataset_config.json", {
            "stages": {"paths": {".json": ["stages/*.stage_config.json"]}},
            "objects": {"paths": {".json": ["objects"]}},
            "scene_instances": {"paths": {".json": ["scenes/*.scene_instance.json"]}},
        })  # fmt: skip
        self.write("stages/room.stage_config.json", {"render_asset": "room.glb"})
        self.write_box("stages/room.glb", size=(10, 3, 10))
        # A box with a corner at its file's origin: 1 x 2 x 4.
        self.write("objects/box.object_config.json", {"render_asset": "box.glb"})
        self.write_box("objects/box.glb", size=(1, 2, 4))

    def write(self, name: str, values: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return path

    def change(self, name: str, **values: Any) -> None:
        path = self.root / name
        self.write(name, json.loads(path.read_text()) | values)

    def write_box(self, name: str, size: tuple[float, float, float]) -> None:
        mesh = trimesh.creation.box(size)
        mesh.apply_translation(np.array(size) / 2)
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
        mesh.visual = trimesh.visual.TextureVisuals(
            uv=mesh.vertices[:, :2],
            material=trimesh.visual.material.PBRMaterial(baseColorTexture=image),
        )
        mesh.export(self.root / name)

    def instance(self, *objects: dict[str, Any], **scene: Any) -> Path:
        objects = tuple({"template_name": "box", **each} for each in objects)
        stage = {"stage_instance": {"template_name": "room"}}
        values = stage | {"object_instances": objects} | scene
        return self.write("scenes/s.scene_instance.json", values)

    def load(self, *objects: dict[str, Any], **scene: Any) -> Scene:
        return load_composed_scene(self.instance(*objects, **scene), "s")

    def object_bounds(self, *objects: dict[str, Any], **scene: Any) -> np.ndarray:
        """Return the bounds of what is placed, without the stage."""
        scene.setdefault("stage_instance", {"template_name": "NONE"})
        return self.load(*objects, **scene).bounds


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def assert_bounds(bounds: np.ndarray, low: list[float], high: list[float]) -> None:
    np.testing.assert_allclose(bounds, [low, high], atol=1e-5)


class TestPlacing:
    def test_asset_local_places_the_files_origin(self, dataset: Dataset):
        bounds = dataset.object_bounds(
            {"translation_origin": "asset_local", "translation": [5, 0, 5]}
        )
        assert_bounds(bounds, [5, 0, 5], [6, 2, 9])

    def test_com_places_the_centre_of_the_bounding_box(self, dataset: Dataset):
        bounds = dataset.object_bounds({"translation_origin": "COM", "translation": [5, 0, 5]})
        assert_bounds(bounds, [4.5, -1, 3], [5.5, 1, 7])

    def test_a_given_centre_of_mass_goes_before_the_bounding_boxs(self, dataset: Dataset):
        dataset.change("objects/box.object_config.json", COM=[0, 0, 1], scale=[1, 1, 0.5])
        bounds = dataset.object_bounds({"translation_origin": "COM", "uniform_scale": 2.0})
        assert_bounds(bounds, [0, 0, -1], [2, 4, 3])

    def test_the_scenes_origin_holds_where_the_object_says_nothing(self, dataset: Dataset):
        plain = dataset.object_bounds({}, translation_origin="Asset_Local")
        assert_bounds(plain, [0, 0, 0], [1, 2, 4])
        own = dataset.object_bounds({"translation_origin": "com"}, translation_origin="asset_local")
        assert_bounds(own, [-0.5, -1, -2], [0.5, 1, 2])

    def test_without_any_origin_it_is_com(self, dataset: Dataset):
        assert_bounds(dataset.object_bounds({}), [-0.5, -1, -2], [0.5, 1, 2])

    def test_rotation_is_wxyz_about_the_placed_point(self, dataset: Dataset):
        turned = {"rotation": QUARTER_TURN_Y, "translation": [1, 0, 1]}
        local = dataset.object_bounds(turned, translation_origin="asset_local")
        assert_bounds(local, [1, 0, 0], [5, 2, 1])
        central = dataset.object_bounds(turned, translation_origin="COM")
        assert_bounds(central, [-1, -1, 0.5], [3, 1, 1.5])

    def test_scales_multiply(self, dataset: Dataset):
        dataset.change("objects/box.object_config.json", scale=[1, 2, 0.5], units_to_meters=0.5)
        scaled = {"uniform_scale": 3.0, "non_uniform_scale": [1, 0.5, 2]}
        bounds = dataset.object_bounds(scaled, translation_origin="asset_local")
        assert_bounds(bounds, [0, 0, 0], [1.5, 3, 6])

    def test_a_z_up_object_stands_up_and_is_scaled_then(self, dataset: Dataset):
        frame = {"up": [0, 0, 1], "front": [0, 1, 0]}
        dataset.change("objects/box.object_config.json", scale=[1, 3, 1], **frame)
        bounds = dataset.object_bounds({}, translation_origin="asset_local")
        assert_bounds(bounds, [0, 0, -2], [1, 12, 0])

    def test_default_attributes_stand_in_for_what_a_configuration_leaves_out(self, dataset):
        defaults = {"scale": [2, 2, 2], "up": [0, 0, 1], "front": [0, 1, 0]}
        objects = {"paths": {".json": ["objects"]}, "default_attributes": defaults}
        dataset.change("a.scene_dataset_config.json", objects=objects)
        bounds = dataset.object_bounds({}, translation_origin="asset_local")
        assert_bounds(bounds, [0, 0, -4], [2, 8, 0])
        dataset.change("objects/box.object_config.json", up=[0, 1, 0], front=[0, 0, -1])
        bounds = dataset.object_bounds({}, translation_origin="asset_local")
        assert_bounds(bounds, [0, 0, 0], [2, 4, 8])

    def test_a_mirrored_object_is_still_seen_from_outside(self, dataset: Dataset):
        scene = dataset.load(
            {"non_uniform_scale": [-1, 1, 1]}, stage_instance={"template_name": "NONE"}
        )
        a, b, c = np.moveaxis(scene.vertices[scene.faces].astype(float), 1, 0)
        # The signed volume of a closed mesh whose faces look outwards is positive.
        assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(8.0)

    def test_the_stage_stands_where_its_file_puts_it(self, dataset: Dataset):
        assert_bounds(dataset.load().bounds, [0, 0, 0], [10, 3, 10])

    def test_an_invisible_object_is_left_out(self, dataset: Dataset):
        shown = dataset.load({"is_instance_visible": True}, {"is_instance_visible": False})
        assert shown.num_faces == 2 * 12

    def test_bare_meshes_and_folders_can_be_listed(self, dataset: Dataset):
        paths = {"paths": {".glb": ["stages/*.glb", "objects"]}}
        dataset.change("a.scene_dataset_config.json", stages=paths, objects=paths)
        # habitat-sim takes a bare stage as Z-up, a bare object as Y-up.
        scene = dataset.load({"translation": [0, 20, 0]}, translation_origin="asset_local")
        assert_bounds(scene.bounds, [0, 0, -3], [10, 22, 4])

    def test_a_name_may_have_folders_before_it(self, dataset: Dataset):
        dataset.write("more/box.object_config.json", {"render_asset": "../objects/box.glb"})
        listed = {"paths": {".json": ["objects/*", "more/*"]}}
        dataset.change("a.scene_dataset_config.json", objects=listed)
        dataset.load({"template_name": "more/box"})
        with pytest.raises(SceneError, match=r"object 'box': expected one file .* found 2"):
            dataset.load({"template_name": "box"})


class TestSharing:
    def test_an_object_placed_ten_times_has_one_texture(self, dataset: Dataset):
        once = dataset.load({})
        often = dataset.load(*[{"translation": [x, 0, 0]} for x in range(10)])
        assert often.num_faces == 11 * 12
        assert len(often.materials) == len(once.materials) == 2
        texels = [len(SurfaceColors.of_scene(scene).texels) for scene in (once, often)]
        assert texels[0] == texels[1]

    def test_materials_of_one_glb_share_its_images(self, dataset: Dataset):
        room = room_scene()
        (white,) = room.materials
        tinted = replace(white, base_color=(1.0, 0.5, 0.5))
        halves = np.arange(room.num_faces, dtype=np.int32) % 2
        two = replace(room, materials=(white, tinted), face_materials=halves)
        export_glb(two, dataset.root / "stages" / "room.glb")
        first, second = dataset.load().materials
        assert first.base_color != second.base_color
        assert first.texture is second.texture is not None


class TestArticulated:
    def test_they_are_named_as_left_out(self, dataset: Dataset):
        articulated = [{"template_name": "fridge"}, {"template_name": "door"}]
        path = dataset.instance(articulated_object_instances=articulated)
        assert read_layout(path).left_out == ("fridge", "door")
        assert load_composed_scene(path, "s").num_faces == 12


class TestBadFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"translation": [1, 2]}, "not a scene instance"),
            ({"translation": "here"}, "not a scene instance"),
            ({"translation": [float("nan"), 0, 0]}, "NaN"),
            ({"rotation": [0, 0, 0, 0]}, "rotation: expected a quaternion"),
            ({"rotation": [1, 0, 0]}, "not a scene instance"),
            ({"translation_origin": "middle"}, "expected asset_local or COM, got 'middle'"),
            ({"uniform_scale": "big"}, "not a scene instance"),
            ({"template_name": "sofa"}, r"object 'sofa': .*a\.scene_dataset_config\.json.*found 0"),
            ({"template_name": 3}, "not a scene instance"),
        ],
    )
    def test_an_object_that_makes_no_sense_is_told(self, dataset, change: dict, message: str):
        with pytest.raises(SceneError, match=message) as error:
            dataset.load(change)
        assert "s.scene_instance.json" in str(error.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("scenes/s.scene_instance.json", "[]", "expected a JSON object"),
            ("scenes/s.scene_instance.json", "{}", "needs the key 'stage_instance'"),
            ("scenes/s.scene_instance.json", '{"stage_instance": 3}', "not a scene instance"),
            ("scenes/s.scene_instance.json", "[" * 100_000, "not a scene instance"),
            ("a.scene_dataset_config.json", "{", "not a scene dataset configuration"),
            ("a.scene_dataset_config.json", "{}", "no .* in the folders above it lists it"),
            ("a.scene_dataset_config.json", '{"scene_instances": []}', r"scene_instances\.paths"),
            ("objects/box.object_config.json", "{}", "needs the key 'render_asset'"),
            ("objects/box.object_config.json", '{"render_asset": 3}', "not an object"),
            ("objects/box.object_config.json", '{"render_asset": "b.glb"}', r"b\.glb: no such"),
            ("stages/room.glb", "text", r"room\.glb: truncated"),
        ],
    )
    def test_a_file_that_makes_no_sense_is_named(self, dataset, name: str, content, message: str):
        path = dataset.instance({})
        dataset.write(name, content)
        with pytest.raises(SceneError, match=message):
            load_composed_scene(path, "s")

    def test_two_datasets_that_list_it_are_told(self, dataset: Dataset):
        path = dataset.instance()
        text = (dataset.root / "a.scene_dataset_config.json").read_text()
        dataset.write("b.scene_dataset_config.json", text)
        with pytest.raises(SceneError, match=r"both a\..* and b\..* list it"):
            load_composed_scene(path, "s")

    def test_a_scene_of_nothing_is_told(self, dataset: Dataset):
        with pytest.raises(SceneError, match="has no faces"):
            dataset.load(stage_instance={"template_name": "NONE"})


@pytest.mark.parametrize("renderer_name", ["embree", "gl"])
def test_depth_agrees_with_habitat_sims_renders_of_a_composed_scene(
    shared_folder: Path, renderer_name: str, request: pytest.FixtureRequest
):
    if renderer_name == "gl":
        request.getfixturevalue("opengl")
    folder = shared_folder / "habitat_reference" / "furnished" / "views"
    instance = shared_folder / "composed_dataset" / "scenes" / "furnished.scene_instance.json"
    renderer = open_renderer(renderer_name, load_composed_scene(instance, "furnished"))
    depths = np.load(folder / "depth.npz")["depth"]
    poses = json.loads((folder / "poses.json").read_text())
    assert len(poses) == len(depths) == 6
    shares = []
    for pose, depth in zip(poses, depths):
        world_from_camera = np.eye(4)
        world_from_habitat = np.array(pose["R_world_from_habitat_camera"])
        world_from_camera[:3, :3] = world_from_habitat @ np.diag([1.0, -1.0, -1.0])
        world_from_camera[:3, 3] = pose["position"]
        view = renderer.render(Camera.from_hfov(60.0, (256, 256), world_from_camera))
        shares.append((np.abs(view.depth_m - depth) <= 0.01).mean())
    print(f"furnished, {renderer_name}: worst view {min(shares):.3%} within 1 cm")
    assert min(shares) >= (0.999 if renderer_name == "gl" else 0.995)
