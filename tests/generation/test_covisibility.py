from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial import KDTree

from generation.covisibility import (
    OFFICIAL_RADIUS_M,
    covisibility_a_in_b,
    estimate_a_in_b,
    official_covisibility,
    surface_points,
)
from generation.geometry import Camera, look_at, transform_points
from generation.raycast import RayCaster
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.scene import Scene
from generation.view import View


def plane_view(x: float, *, depth_m: float = 2.0, turn: float = 0.0) -> View:
    """Return what a camera at (x, 0, 0) sees of the plane z = depth_m."""
    world_from_camera = look_at(np.array([x, 0.0, 0.0]), np.array([x + turn, 0.0, 1.0]))
    camera = Camera.from_hfov(90.0, (64, 64), world_from_camera)
    along = transform_points(world_from_camera, camera.rays())[:, 2]
    return View(
        camera=camera,
        color=np.zeros((64, 64, 3), np.uint8),
        depth_m=(depth_m / along).reshape(64, 64).astype(np.float32),
    )


def test_a_view_sees_all_of_itself():
    view = plane_view(0.0)
    assert covisibility_a_in_b(view, view) == 1.0
    assert official_covisibility(view, view) == 1.0


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_covisibility_of_a_shifted_plane_is_the_overlap_of_the_two_windows(shift: float):
    view1, view2 = plane_view(0.0), plane_view(shift)
    assert covisibility_a_in_b(view1, view2) == pytest.approx(1 - shift / 4, abs=1 / 64)


def test_all_of_a_slanted_plane_inside_the_other_image_is_seen():
    view1, view2 = plane_view(0.0, turn=1.0), plane_view(0.3, turn=1.0)
    # Its far end lies at a grazing angle, where neighbouring pixels differ by metres.
    pixels, _ = view2.camera.project(surface_points(view1.camera, view1.depth_m))
    inside = ((pixels >= 0) & (pixels < 64)).all(axis=1).mean()
    assert 0.5 < inside < 1.0
    assert covisibility_a_in_b(view1, view2) == pytest.approx(inside, abs=0.01)


def test_what_lies_behind_the_other_view_is_not_seen():
    view = plane_view(0.0)
    behind = Camera.from_hfov(90.0, (64, 64), look_at(np.zeros(3), np.array([0.0, 0.0, -1.0])))
    turned = View(camera=behind, color=view.color, depth_m=view.depth_m)
    assert covisibility_a_in_b(view, turned) == 0.0


def test_an_occluder_hides_what_is_behind_it():
    view1, view2 = plane_view(0.0), plane_view(0.0)
    depth_m = view2.depth_m.copy()
    depth_m[:, :32] = 1.0  # something stands before the left half of the second view
    occluded = View(camera=view2.camera, color=view2.color, depth_m=depth_m)
    assert covisibility_a_in_b(view1, occluded) == 0.5


def test_pixels_without_depth_do_not_count_as_seeable():
    view = plane_view(0.0)
    depth_m = view.depth_m.copy()
    depth_m[:16] = 0.0
    holes = View(camera=view.camera, color=view.color, depth_m=depth_m)
    assert covisibility_a_in_b(holes, view) == 1.0
    assert covisibility_a_in_b(view, holes) == 0.75
    assert official_covisibility(holes, view) < 0.8, "the official number counts all pixels"


def test_a_view_without_depth_sees_and_shows_nothing():
    view = plane_view(0.0)
    empty = View(camera=view.camera, color=view.color, depth_m=np.zeros((64, 64), np.float32))
    assert covisibility_a_in_b(empty, view) == covisibility_a_in_b(view, empty) == 0.0
    assert official_covisibility(view, empty) == 0.0


def random_views(scene: Scene, count: int, size: int) -> list[View]:
    renderer = EmbreeRenderer(scene)
    rng = np.random.default_rng(1)
    low, high = scene.bounds + np.array([[0.3], [-0.3]])
    return [
        renderer.render(
            Camera.from_hfov(
                60.0, (size, size), look_at(rng.uniform(low, high), rng.uniform(low, high))
            )
        )
        for _ in range(count)
    ]


def test_the_official_number_is_that_of_a_nearest_neighbour_search(box_room: Scene):
    views = random_views(box_room, 8, 48)
    for view1, view2 in pairwise(views):
        points1, points2 = (
            surface_points(view1.camera, view1.depth_m),
            surface_points(view2.camera, view2.depth_m),
        )
        ratios = [
            (KDTree(b).query(a)[0] <= OFFICIAL_RADIUS_M).sum() / (48 * 48)
            for a, b in ((points1, points2), (points2, points1))
        ]
        assert official_covisibility(view1, view2) == pytest.approx(min(ratios), abs=1e-3)


def test_an_estimate_by_rays_is_close_to_the_full_measurement(box_room: Scene):
    caster = RayCaster(box_room)
    views = random_views(box_room, 20, 128)
    renderer = EmbreeRenderer(box_room, caster=caster)
    errors = []
    for view1, view2 in pairwise(views):
        probe = renderer.render(view1.camera.resized((24, 24)))
        estimate = estimate_a_in_b(
            caster, surface_points(probe.camera, probe.depth_m), view2.camera
        )
        errors.append(estimate - covisibility_a_in_b(view1, view2))
    assert np.abs(errors).max() < 0.05
    assert np.abs(errors).mean() < 0.015


def test_nothing_is_seen_through_a_lens_without_a_focal_length():
    view = plane_view(0.0)
    intrinsics = view.camera.intrinsics.copy()
    intrinsics[0, 0] = intrinsics[0, 2] = np.nan
    blind = replace(view, camera=replace(view.camera, intrinsics=intrinsics))
    assert covisibility_a_in_b(view, blind) == 0.0
