import numpy as np
import pytest

from generation.raycast import RayCaster
from generation.scenes.scene import Scene, SceneError


def make_walls(distances_and_facing: list[tuple[float, bool]]) -> Scene:
    """Return triangles across the z axis, each facing the origin or turned away from it."""
    vertices, faces = [], []
    for distance, is_facing in distances_and_facing:
        first = len(vertices)
        vertices += [[-5, -5, distance], [5, -5, distance], [0, 9, distance]]
        faces.append([first, first + 2, first + 1] if is_facing else [first, first + 1, first + 2])
    return Scene(
        scene_id="walls",
        vertices=np.array(vertices, np.float32),
        faces=np.array(faces, np.int32),
        uvs=np.zeros((len(vertices), 2), np.float32),
        vertex_colors=np.full((len(vertices), 3), 255, np.uint8),
        face_materials=np.zeros(len(faces), np.int32),
    )


def cast_forward(scene: Scene, **options: bool):
    return RayCaster(scene).cast(np.zeros((1, 3)), np.array([[0.0, 0.0, 2.0]]), **options)


def test_a_ray_passes_through_back_faces_to_the_first_front_face():
    hits = cast_forward(make_walls([(1.0, False), (2.0, False), (3.0, True), (4.0, True)]))
    assert hits.faces[0] == 2
    assert hits.distances[0] == pytest.approx(1.5), "distances are in units of the direction"


def test_a_ray_meets_back_faces_where_that_is_asked_for():
    hits = cast_forward(make_walls([(1.0, False), (3.0, True)]), cull_back_faces=False)
    assert hits.faces[0] == 0


def test_a_ray_through_nothing_but_back_faces_hits_nothing():
    hits = cast_forward(make_walls([(1.0, False), (2.0, False)]))
    assert not hits.hit[0]
    assert hits.distances[0] == 0


def test_barycentrics_give_the_hit_point(box_room: Scene):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(100, 3)).astype(np.float32)
    origin = np.array([2.0, 1.0, 1.5], np.float32)
    hits = RayCaster(box_room).cast(origin, directions)
    assert hits.hit.all()
    a, b, c = np.moveaxis(box_room.vertices[box_room.faces[hits.faces]], 1, 0)
    u, v = hits.barycentric_u[:, None], hits.barycentric_v[:, None]
    np.testing.assert_allclose(
        (1 - u - v) * a + u * b + v * c, origin + hits.distances[:, None] * directions, atol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.zeros((0, 3), np.int32)}, "no faces"),
        ({"vertices": np.full((3, 3), np.nan, np.float32)}, "NaN"),
        ({"faces": np.array([[0, 1, 7]], np.int32)}, "faces index"),
    ],
)
def test_a_scene_that_cannot_be_traced_is_refused(change: dict, message: str):
    fields = vars(make_walls([(1.0, True)])) | change
    with pytest.raises(SceneError, match=message):
        Scene(**fields)
