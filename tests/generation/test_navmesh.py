"""Navigation meshes as places to stand."""

from pathlib import Path

import numpy as np
import pytest

from generation.scenes.navmesh import navmesh_beside, places_on


def test_a_floor_of_two_triangles_has_a_place_in_every_square():
    a, b, c, d = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 2], [0, 0, 2]], float)
    places = places_on(np.array([[a, b, c], [a, c, d]]), 0.1)
    assert places.shape == (200, 3)
    expected = {(i, j) for i in range(10) for j in range(20)}
    assert {tuple(each) for each in np.floor(places[:, [0, 2]] / 0.1).astype(int)} == expected


def test_places_on_a_slope_lie_on_it():
    slope = np.array([[[0, 0, 0], [0, 0, -3], [3, 3, 0]]], float)  # as high as x
    places = places_on(slope, 0.25)
    assert len(places) > 50
    np.testing.assert_allclose(places[:, 1], places[:, 0])


def test_floors_above_each_other_have_places_of_their_own():
    triangle = np.array([[0, 0, 0], [2, 0, 0], [0, 0, 2]], float)
    storeys = np.array([triangle, triangle + [0, 2.5, 0]])
    assert len(places_on(storeys, 0.1)) == 2 * len(places_on(storeys[:1], 0.1))


def test_nobody_stands_on_a_wall_or_on_nothing():
    wall = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]]], float)
    assert places_on(wall, 0.1).shape == (0, 3)
    assert places_on(np.zeros((0, 3, 3)), 0.1).shape == (0, 3)


@pytest.mark.parametrize(
    ("scene", "navmesh"),
    [
        ("ID.glb", "ID.basis.navmesh"),
        ("ID.basis.glb", "ID.basis.navmesh"),
        ("room.glb", "room.navmesh"),
        ("room.stage_config.json", "room.navmesh"),
        ("apt_0.scene_instance.json", "apt_0.navmesh"),
    ],
)
def test_the_navigation_mesh_beside_a_scene_is_found(tmp_path: Path, scene: str, navmesh: str):
    assert navmesh_beside(tmp_path / scene) is None
    (tmp_path / navmesh).touch()
    assert navmesh_beside(tmp_path / scene) == tmp_path / navmesh
