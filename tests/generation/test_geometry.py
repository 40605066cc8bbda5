import numpy as np
import pytest

from generation.geometry import (
    Camera,
    invert_rigid,
    look_at,
    rotation_about_axis,
    rotation_from_wxyz,
)


def make_camera() -> Camera:
    world_from_camera = look_at(np.array([1.0, 1.5, -2.0]), np.array([3.0, 0.5, 4.0]))
    return Camera.from_hfov(70.0, (48, 64), world_from_camera)


def test_projecting_what_was_unprojected_gives_the_pixel_centres_back():
    camera = make_camera()
    depth_m = np.random.default_rng(0).uniform(0.5, 9.0, camera.image_size)
    pixels, depths = camera.project(camera.unproject(depth_m))
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([columns.ravel(), rows.ravel()], 1), atol=1e-9)
    np.testing.assert_allclose(depths, depth_m.ravel(), atol=1e-9)


def test_looking_at_a_point_puts_it_in_the_middle_of_the_image_with_the_world_up():
    camera = make_camera()
    pixels, _ = camera.project(np.array([[3.0, 0.5, 4.0], [3.0, 1.0, 4.0]]))
    np.testing.assert_allclose(pixels[0], [32, 24])
    assert pixels[1, 1] < 24, "higher in the world is higher in the image"
    assert pixels[1, 0] == pytest.approx(32), "an upright camera keeps verticals vertical"


def test_look_at_is_a_proper_rotation():
    rotation = make_camera().world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_look_at_refuses_to_look_straight_down():
    with pytest.raises(ValueError, match="no upright camera"):
        look_at(np.zeros(3), np.array([0.0, -1.0, 0.0]))


def test_a_field_of_view_of_90_degrees_has_a_focal_length_of_half_the_width():
    camera = Camera.from_hfov(90.0, (100, 200), np.eye(4))
    np.testing.assert_allclose(camera.intrinsics, [[100, 0, 100], [0, 100, 50], [0, 0, 1]])


def test_a_resized_camera_sees_the_same_directions():
    camera = make_camera()
    corner = np.array([[2.0, 1.0, 1.0]])
    small, large = camera.project(corner)[0], camera.resized((96, 128)).project(corner)[0]
    np.testing.assert_allclose(2 * small, large)


def test_rays_have_unit_depth():
    assert (make_camera().rays()[:, 2] == 1).all()


def test_invert_rigid_undoes_a_transform():
    transform = make_camera().world_from_camera
    np.testing.assert_allclose(invert_rigid(transform) @ transform, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quaternions_and_axis_rotations_agree(axis: int):
    angle = 0.7
    wxyz = [np.cos(angle / 2), 0.0, 0.0, 0.0]
    wxyz[1 + axis] = np.sin(angle / 2)
    np.testing.assert_allclose(
        rotation_from_wxyz(wxyz), rotation_about_axis(axis, angle), atol=1e-12
    )
