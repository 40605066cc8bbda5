import numpy as np
import pytest

from generation.geometry import Camera, look_at
from generation.raycast import RayCaster
from generation.scenes.scene import Scene, SceneError
from generation.viewpoints import (
    FloorConfig,
    Floors,
    ViewpointConfig,
    ViewpointSampler,
    find_floors,
)


def joined(*scenes: Scene) -> Scene:
    offsets = np.cumsum([0] + [len(scene.vertices) for scene in scenes])
    return Scene(
        scene_id="joined",
        vertices=np.concatenate([scene.vertices for scene in scenes]),
        faces=np.concatenate([s.faces + o for s, o in zip(scenes, offsets)]).astype(np.int32),
        uvs=np.concatenate([scene.uvs for scene in scenes]),
        vertex_colors=np.concatenate([scene.vertex_colors for scene in scenes]),
        face_materials=np.concatenate([scene.face_materials for scene in scenes]),
        materials=scenes[0].materials,
    )


def solid(room: Scene, low: tuple[float, ...], high: tuple[float, ...]) -> Scene:
    """Return a box seen from outside: the room, shrunk and turned inside out."""
    size = np.array(high) - np.array(low)
    fields = vars(room) | {
        "vertices": (room.vertices / room.vertices.max(axis=0) * size + low).astype(np.float32),
        "faces": np.ascontiguousarray(room.faces[:, ::-1]),
    }
    return Scene(**fields)


def floors_of(scene: Scene) -> np.ndarray:
    return find_floors(scene, RayCaster(scene), ViewpointConfig()).positions


def within(positions: np.ndarray, low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    flat = positions[:, [0, 2]]
    return ((flat > low) & (flat < high)).all(axis=1)


def test_an_empty_room_is_free_up_to_its_walls(box_room: Scene):
    positions = floors_of(box_room)
    np.testing.assert_allclose(positions[:, 1], 0.0, atol=1e-4)
    assert positions[:, [0, 2]].min() >= 0.15
    expected_area_m2 = (5.0 - 0.3) * (4.0 - 0.3)
    assert len(positions) * 0.01 == pytest.approx(expected_area_m2, rel=0.05)


def test_nobody_stands_on_a_table_a_bed_or_inside_a_wardrobe(box_room: Scene):
    table = solid(box_room, (1.0, 0.7, 1.0), (2.6, 0.75, 1.9))
    bed = solid(box_room, (3.0, 0.0, 0.5), (4.8, 0.5, 2.5))
    wardrobe = solid(box_room, (0.0, 0.0, 3.0), (1.0, 2.0, 3.8))
    positions = floors_of(joined(box_room, table, bed, wardrobe))
    np.testing.assert_allclose(positions[:, 1], 0.0, atol=1e-4)
    for low, high in (((1.0, 1.0), (2.6, 1.9)), ((3.0, 0.5), (4.8, 2.5)), ((0.0, 3.0), (1.0, 3.8))):
        assert not within(positions, low, high).any()


def test_a_step_that_can_be_climbed_is_floor(box_room: Scene):
    platform = solid(box_room, (3.0, 0.0, 0.0), (5.0, 0.15, 4.0))
    positions = floors_of(joined(box_room, platform))
    assert (np.abs(positions[:, 1] - 0.15) < 1e-3).mean() > 0.3


def test_neither_the_roof_nor_the_ground_around_a_building_is_floor(box_room: Scene):
    building = solid(box_room, (-0.2, -0.1, -0.2), (5.2, 2.8, 4.2))
    ground = solid(box_room, (-150.0, -0.3, -150.0), (150.0, -0.11, 150.0))
    positions = floors_of(joined(box_room, building, ground))
    assert within(positions, (0.0, 0.0), (5.0, 4.0)).all()
    assert len(positions) * 0.01 > 10.0, "the coarse search still finds the whole room"


def test_a_room_without_a_ceiling_has_a_floor(box_room: Scene):
    is_ceiling = (box_room.vertices[box_room.faces][:, :, 1] > 2.5).all(axis=1)
    fields = vars(box_room) | {
        "faces": box_room.faces[~is_ceiling],
        "face_materials": box_room.face_materials[~is_ceiling],
    }
    assert len(floors_of(Scene(**fields))) > 1000


def test_a_scene_too_small_to_stand_in_says_so(box_room: Scene):
    fields = vars(box_room) | {"vertices": box_room.vertices * np.float32(0.1)}
    with pytest.raises(SceneError, match=r"no place to stand in 0\.50 x 0\.26 x 0\.40 m"):
        floors_of(Scene(**fields))


def test_a_scene_without_upward_surfaces_says_so(box_room: Scene):
    is_floor = (box_room.vertices[box_room.faces][:, :, 1] < 0.1).all(axis=1)
    fields = vars(box_room) | {
        "faces": box_room.faces[~is_floor],
        "face_materials": box_room.face_materials[~is_floor],
    }
    with pytest.raises(SceneError, match="no upward surface"):
        floors_of(Scene(**fields))


def sampler_of(scene: Scene, **options: float) -> ViewpointSampler:
    config = ViewpointConfig(floor=FloorConfig(), **options)
    floors = find_floors(scene, RayCaster(scene), config)
    return ViewpointSampler(floors, config, hfov_deg=60.0, image_size=(64, 64))


def test_first_viewpoints_are_as_high_and_as_tilted_as_configured(box_room: Scene):
    sampler = sampler_of(box_room)
    rng = np.random.default_rng(0)
    cameras = [sampler.first(rng) for _ in range(500)]
    heights = np.array([camera.centre[1] for camera in cameras])
    assert 1.2 <= heights.min() < 1.22
    assert 1.78 < heights.max() <= 1.8
    elevation_deg = np.degrees(np.arcsin([c.world_from_camera[1, 2] for c in cameras]))
    assert 9.5 < np.abs(elevation_deg).max() <= 10.0 + 1e-6
    yaws = np.arctan2(
        [c.world_from_camera[0, 2] for c in cameras], [c.world_from_camera[2, 2] for c in cameras]
    )
    assert (np.histogram(yaws, bins=8, range=(-np.pi, np.pi))[0] > 30).all()


def test_second_viewpoints_look_at_the_target_to_within_the_noise(box_room: Scene):
    sampler = sampler_of(box_room)
    rng = np.random.default_rng(0)
    target = np.array([2.5, 1.0, 2.0])
    for path in sampler.paths(sampler.first(rng), target, 200, rng):
        camera = sampler.camera_at(path, 1.0)
        assert abs(camera.centre[1] - 1.5) <= 0.3
        to_target = target - camera.centre
        cosine = to_target @ camera.world_from_camera[:3, 2] / np.linalg.norm(to_target)
        assert np.degrees(np.arccos(cosine)) <= np.hypot(3, 10) + 0.1


def test_viewpoints_are_drawn_as_the_published_generator_draws_them():
    """Heights, noise and the walk, by what comes out on a floor far wider than the walk."""
    grid = np.arange(-20, 20, 0.1)
    positions = np.stack(np.meshgrid(grid, [0.0], grid), -1).reshape(-1, 3)
    config = ViewpointConfig()
    sampler = ViewpointSampler(Floors(positions, 0.1), config, hfov_deg=60.0, image_size=(64, 64))
    rng = np.random.default_rng(0)
    first = Camera.from_hfov(60.0, (64, 64), look_at(np.array([0, 1.5, 0]), np.array([0, 1.5, 9])))
    target = np.array([0.0, 1.0, 100.0])
    paths = list(sampler.paths(first, target, 4000, rng))
    ends = np.array([path.positions[1] for path in paths])
    np.testing.assert_allclose(ends[:, [0, 2]].std(axis=0), 2 * np.sqrt(5), rtol=0.05)
    heights = np.array([path.heights_m[1] for path in paths])
    assert 1.2 <= heights.min() < 1.21
    assert 1.79 < heights.max() <= 1.8
    turns_deg = np.degrees([path.turns_rad[1] for path in paths])
    for turn_deg, most in zip(turns_deg.T, (3, 10, 5)):  # pan, tilt, roll
        assert 0.99 * most < np.abs(turn_deg).max() <= most
        assert turn_deg.std() == pytest.approx(most / np.sqrt(3), rel=0.05)


def test_without_noise_the_target_is_in_the_middle_of_the_image(box_room: Scene):
    sampler = sampler_of(box_room, pan_noise_deg=0.0, tilt_noise_deg=0.0, roll_noise_deg=0.0)
    rng = np.random.default_rng(0)
    target = np.array([2.5, 1.0, 2.0])
    for path in sampler.paths(sampler.first(rng), target, 20, rng):
        camera = sampler.camera_at(path, 1.0)
        np.testing.assert_allclose(camera.project(target[None])[0], [[32.0, 32.0]], atol=1e-6)


def test_the_same_generator_gives_the_same_cameras(box_room: Scene):
    def draw() -> list[Camera]:
        sampler, rng = sampler_of(box_room), np.random.default_rng(7)
        first = sampler.first(rng)
        paths = sampler.paths(first, np.zeros(3), 8, rng)
        return [first, *(sampler.camera_at(path, 0.3) for path in paths)]

    for one, other in zip(draw(), draw()):
        np.testing.assert_array_equal(one.world_from_camera, other.world_from_camera)


def test_a_path_begins_at_the_first_camera_and_stays_on_the_floor(box_room: Scene):
    sampler = sampler_of(box_room)
    rng = np.random.default_rng(3)
    for _ in range(20):
        first = sampler.first(rng)
        (path,) = sampler.paths(first, np.array([2.5, 1.0, 2.0]), 1, rng)
        begin = sampler.camera_at(path, 0.0)
        np.testing.assert_allclose(begin.world_from_camera, first.world_from_camera, atol=1e-3)
        for progress in (0.2, 0.5, 0.8):
            centre = sampler.camera_at(path, progress).centre
            assert 1.2 - 1e-3 <= centre[1] <= 1.8 + 1e-3
            assert within(centre[None], (0.0, 0.0), (5.0, 4.0)).all()
