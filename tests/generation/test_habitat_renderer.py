"""What habitat-sim is told; what it then renders is in test_habitat_parity.py."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from generation.errors import RendererError
from generation.geometry import Camera, intrinsics_from_hfov, rotation_from_wxyz
from generation.renderers.choice import open_renderer
from generation.renderers.egl import current_device, has_cuda_device
from generation.renderers.gpu import has_gpu, is_gpu
from generation.renderers.habitat import Lens, habitat_pose, lens_of, simulated_files
from generation.scenes.export import export_glb
from generation.scenes.mesh_files import load_mesh_scene
from generation.scenes.scene import Scene
from generation.scenes.sources import SceneSource


@pytest.mark.parametrize("hfov_deg", [45.0, 58.7, 60.0, 90.0])
@pytest.mark.parametrize("size", [(256, 256), (448, 448), (240, 320)])
def test_the_lens_is_the_one_that_a_camera_was_made_with(hfov_deg: float, size: tuple[int, int]):
    camera = Camera.from_hfov(hfov_deg, size, np.eye(4))
    assert lens_of(camera) == Lens(image_size=size, hfov_deg=hfov_deg)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 1), (0, 2), (1, 2), (0, 1)])
def test_a_camera_that_habitat_sim_does_not_have_is_refused(row: int, column: int):
    intrinsics = intrinsics_from_hfov(60.0, (256, 256))
    intrinsics[row, column] += 1.0
    camera = Camera(intrinsics=intrinsics, world_from_camera=np.eye(4), image_size=(256, 256))
    with pytest.raises(RendererError, match="principal point in the middle"):
        lens_of(camera)


def test_a_camera_that_looks_along_minus_z_is_not_turned():
    world_from_camera = np.diag([1.0, -1.0, -1.0, 1.0])
    world_from_camera[:3, 3] = 1.0, 2.0, 3.0
    position, xyzw = habitat_pose(Camera.from_hfov(60.0, (64, 64), world_from_camera))
    np.testing.assert_array_equal(position, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(np.abs(xyzw), [0.0, 0.0, 0.0, 1.0])


def test_position_and_quaternion_are_those_of_the_camera():
    for rotation in Rotation.random(50, random_state=0).as_matrix():
        world_from_camera = np.eye(4)
        world_from_camera[:3, :3] = rotation
        _, (x, y, z, w) = habitat_pose(Camera.from_hfov(60.0, (64, 64), world_from_camera))
        world_from_habitat = rotation_from_wxyz([w, x, y, z])
        np.testing.assert_allclose(
            world_from_habitat @ np.diag([1.0, -1.0, -1.0]), rotation, atol=1e-14
        )


@pytest.mark.parametrize("up", ["x", "-x", "y", "-y", "z", "-z"])
def test_a_mesh_without_a_configuration_gets_one_with_our_axes(
    box_room: Scene, tmp_path: Path, up: str
):
    export_glb(box_room, tmp_path / "scan.glb")
    source = SceneSource(
        scene_id="scan", path=str(tmp_path / "scan.glb"), up=up, units_to_meters=0.01
    )
    (tmp_path / "written").mkdir()
    files = simulated_files(source.load(), source, tmp_path / "written")
    assert files.dataset == "default"
    # The configuration alone says how the file is to be read; we read those as habitat-sim does.
    read = load_mesh_scene(Path(files.scene), "scan")
    np.testing.assert_array_equal(read.vertices, source.load().vertices)
    np.testing.assert_array_equal(read.faces, source.load().faces)


def test_a_configuration_beside_a_mesh_is_used_as_it_is(box_room: Scene, tmp_path: Path):
    export_glb(box_room, tmp_path / "scan.glb")
    config = tmp_path / "scan.stage_config.json"
    config.write_text('{"render_asset": "scan.glb", "up": [0, 0, 1], "front": [0, 1, 0]}')
    for path in (tmp_path / "scan.glb", config):
        source = SceneSource(scene_id="scan", path=str(path))
        assert simulated_files(box_room, source, tmp_path).scene == str(config)


@pytest.mark.parametrize("path", ["", "s3://bucket/box.glb"])
def test_a_scene_without_a_file_is_written_for_it(box_room: Scene, tmp_path: Path, path: str):
    source = SceneSource(scene_id="box", path=path, room_seed=3)
    files = simulated_files(box_room, source, tmp_path)
    read = load_mesh_scene(Path(files.scene), "box")
    np.testing.assert_array_equal(read.vertices, box_room.vertices)


def test_a_scene_instance_goes_in_with_its_dataset(
    shared_folder: Path, box_room: Scene, tmp_path: Path
):
    root = (shared_folder / "composed_dataset").absolute()
    path = root / "scenes" / "furnished.scene_instance.json"
    files = simulated_files(box_room, SceneSource(scene_id="f", path=str(path)), tmp_path)
    assert files.scene == str(path)
    assert files.dataset == str(root / "composed.scene_dataset_config.json")


@pytest.mark.skipif(
    importlib.util.find_spec("habitat_sim") is not None, reason="habitat_sim is installed"
)
def test_without_habitat_sim_the_error_says_what_to_do(box_room: Scene):
    with pytest.raises(RendererError, match=r"docs/pairs.md says how.* or take --renderer"):
        open_renderer("habitat", box_room)


@pytest.mark.usefixtures("opengl")
def test_the_device_of_the_current_context_is_read_back():
    from generation.renderers.gl import device_name

    assert current_device() == device_name()
    # CUDA devices are GPUs; the other way round, a GPU need not be a CUDA device.
    assert not has_cuda_device() or has_gpu()


def test_software_drivers_are_no_gpus():
    assert not is_gpu("llvmpipe (LLVM 15.0.6, 256 bits)")
    assert is_gpu("NVIDIA H200/PCIe/SSE2")


@pytest.mark.habitat
@pytest.mark.usefixtures("habitat_sim")
def test_a_room_can_be_walked_where_rays_find_its_floor(box_room: Scene):
    from generation.renderers.habitat import HabitatRenderer

    source = SceneSource(scene_id="box")  # generated: no file, no navigation mesh beside it
    floors = HabitatRenderer(box_room, source).floors(0.1)
    low, high = box_room.bounds.astype(float)
    assert (floors.positions[:, [0, 2]] > low[[0, 2]]).all()
    assert (floors.positions[:, [0, 2]] < high[[0, 2]]).all()
    assert 0.7 < len(floors.positions) * 0.1**2 / (5.0 * 4.0) < 1.0
