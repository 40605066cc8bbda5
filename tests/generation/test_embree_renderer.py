"""The embedded renderer against closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from generation.geometry import Camera
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.supersampling import Supersampled
from generation.scenes.scene import Material, Scene, Texture

FORWARD = np.diag([1.0, -1.0, -1.0, 1.0])
"""A camera at the origin that looks along the world's -z with y up."""


def make_wall(
    *,
    distance_m: float = 2.0,
    repeats: float = 1.0,
    width_m: float = 8.0,
    texture: Texture | None = None,
    colors: np.ndarray | None = None,
    slant: float = 0.0,
) -> Scene:
    """Return a square wall before the camera; its texture coordinates run 0 to repeats."""
    half = width_m / 2
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    z = -distance_m + slant * half * square[:, 1]
    corners = np.column_stack([half * square, z])
    return Scene(
        scene_id="wall",
        vertices=corners.astype(np.float32),
        faces=np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        uvs=(repeats * (square * [1, -1] + 1) / 2).astype(np.float32),
        vertex_colors=np.full((4, 3), 255, np.uint8) if colors is None else colors,
        face_materials=np.zeros(2, np.int32),
        materials=(Material(texture=texture),),
    )


def camera(size: int = 64, hfov_deg: float = 90.0) -> Camera:
    return Camera.from_hfov(hfov_deg, (size, size), FORWARD)


def render(scene: Scene, size: int = 64, supersampling: int = 1):
    return Supersampled(EmbreeRenderer(scene), supersampling).render(camera(size))


def checkerboard(size: int = 64) -> np.ndarray:
    cells = np.indices((size, size)).sum(axis=0) % 2
    return np.repeat(255 * cells[..., None], 3, axis=2).astype(np.uint8)


def test_depth_of_a_wall_runs_along_the_optical_axis():
    view = render(make_wall(distance_m=3.0))
    assert view.depth_m.dtype == np.float32
    np.testing.assert_allclose(view.depth_m, 3.0, rtol=1e-6)


def test_what_is_not_hit_is_black_and_has_no_depth():
    view = render(make_wall(distance_m=2.0, width_m=2.0))
    np.testing.assert_array_equal(view.depth_m[:16], 0)
    np.testing.assert_array_equal(view.color[:16], 0)
    assert (view.color[24:40, 24:40] == 255).all()


def test_a_wall_seen_from_behind_is_not_there():
    wall = make_wall()
    turned = replace(wall, faces=np.ascontiguousarray(wall.faces[:, ::-1]))
    assert (render(turned).depth_m == 0).all()


def test_a_texture_has_its_first_row_at_v_0_and_its_first_column_at_u_0():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0),
    )  # fmt: skip
    texture = Texture(image=image, wrap_u="clamp", wrap_v="clamp")
    # 4 m wide at 2 m and 90 degrees: the wall fills the image.
    color = render(make_wall(width_m=4.0, texture=texture)).color
    for corner, expected in (((0, 0), image[0, 0]), ((0, -1), image[0, 1]), ((-1, 0), image[1, 0])):
        np.testing.assert_array_equal(color[corner], expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    # Columns of a two-texel texture (black, white) seen over u = 0..3.
    [("repeat", "bwbwbw"), ("mirror", "bwwbbw"), ("clamp", "bwwwww")],
)
def test_wrap_modes(mode: str, expected: str):
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    texture = Texture(image=image, wrap_u=mode, wrap_v=mode)
    color = render(make_wall(width_m=4.0, repeats=3.0, texture=texture), size=96).color
    centres = color[48, 8::16, 0]
    assert "".join("bw"[int(value > 127)] for value in centres) == expected


def test_base_colour_texture_and_vertex_colour_multiply():
    image = np.full((4, 4, 3), 200, np.uint8)
    wall = make_wall(texture=Texture(image=image), colors=np.full((4, 3), 128, np.uint8))
    material = replace(wall.materials[0], base_color=(1.0, 0.5, 0.0))
    color = render(replace(wall, materials=(material,))).color
    expected = np.rint(200 * np.array([1.0, 0.5, 0.0]) * 128 / 255)
    np.testing.assert_array_equal(color[32, 32], expected)


def test_vertex_colours_are_interpolated_linearly():
    colors = np.array([[0] * 3, [255] * 3, [255] * 3, [0] * 3], np.uint8)
    color = render(make_wall(width_m=4.0, colors=colors)).color[..., 0].astype(float)
    np.testing.assert_allclose(color[20], (np.arange(64) + 0.5) / 64 * 255, atol=0.51)


def test_a_fine_pattern_far_away_is_its_mean_and_not_noise():
    texture = Texture(image=checkerboard())
    # 512 cells of the pattern fall on each pixel.
    color = render(make_wall(width_m=4.0, repeats=512.0, texture=texture)).color
    assert np.abs(color.astype(float) - 127.5).max() < 3


def test_a_pattern_at_one_texel_a_pixel_is_kept():
    texture = Texture(image=checkerboard())
    color = render(make_wall(width_m=4.0, texture=texture)).color
    np.testing.assert_array_equal(color, checkerboard())


def test_the_mip_level_follows_from_the_longer_axis_of_a_pixels_footprint():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, np.arange(256) % 64 < 32] = 255
    # The stripes run into the distance: there a pixel covers 11 texels across them and 51 along
    # them, more than the 32 of a stripe.
    texture = Texture(image=stripes)
    wall = make_wall(width_m=4.0, distance_m=2.5, texture=texture, slant=-6.0)
    color = render(wall, size=128).color[55, 54:74, 0].astype(float)
    assert np.abs(color - 127.5).max() < 30


def test_supersampling_smooths_edges_and_keeps_depth():
    wall = make_wall(distance_m=2.0, width_m=2.1)
    plain, smooth = render(wall), render(wall, supersampling=4)
    np.testing.assert_array_equal(plain.depth_m, smooth.depth_m)
    assert set(np.unique(plain.color)) == {0, 255}
    edges = (smooth.color > 0) & (smooth.color < 255)
    assert 0 < edges.mean() < 0.1


def test_degenerate_triangles_and_coordinates_do_no_harm():
    wall = make_wall(texture=Texture(image=checkerboard()))
    flat = replace(wall, uvs=np.full_like(wall.uvs, 1e7))
    assert render(flat).color.shape == (64, 64, 3)
    sliver = replace(wall, vertices=np.concatenate([wall.vertices, wall.vertices[:1]]),
                     uvs=np.concatenate([wall.uvs, wall.uvs[:1]]),
                     vertex_colors=np.concatenate([wall.vertex_colors, wall.vertex_colors[:1]]),
                     faces=np.concatenate([wall.faces, [[0, 4, 1]]]).astype(np.int32),
                     face_materials=np.zeros(3, np.int32))  # fmt: skip
    np.testing.assert_array_equal(render(sliver).color, render(wall).color)
