"""OpenGL against the ray caster and closed forms, on whatever device EGL gives."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from generation.covisibility import measure_pair
from generation.errors import RendererError
from generation.geometry import Camera, look_at
from generation.renderers import choice
from generation.renderers.choice import chosen_renderer, open_renderer
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.supersampling import supersampled
from generation.scenes.procedural import make_room
from generation.scenes.scene import Material, Scene, SceneError, Texture
from generation.view import View

pytestmark = pytest.mark.usefixtures("opengl")


def cameras_in(room: Scene, count: int, size: tuple[int, int] = (96, 128)) -> list[Camera]:
    rng = np.random.default_rng(0)
    low, high = room.bounds.astype(float)
    middle = (low + high) / 2
    cameras = []
    for _ in range(count):
        target = middle + rng.uniform(-1, 1, 3) * [2, 0.5, 2]
        cameras.append(Camera.from_hfov(70.0, size, look_at(middle + [0.01, 0.2, 0.02], target)))
    return cameras


def agreement(one: View, other: View) -> tuple[float, float]:
    """Return the share of pixels with the same depth, and the PSNR of their colours in dB."""
    error = np.abs(one.depth_m - other.depth_m)
    mean_square = ((one.color.astype(float) - other.color) ** 2).mean()
    return float((error < 0.005).mean()), 10 * np.log10(255**2 / max(mean_square, 1e-9))


def test_a_generated_room_looks_as_the_ray_caster_sees_it():
    room = make_room(0)
    gl, embree = open_renderer("gl", room), EmbreeRenderer(room)
    for camera in cameras_in(room, 6):
        share, psnr = agreement(gl.render(camera), embree.render(camera))
        assert share > 0.999
        assert psnr > 30


@pytest.mark.parametrize("wrap", ["repeat", "mirror", "clamp"])
def test_texture_coordinates_wrap_as_the_texture_says(box_room: Scene, wrap: str):
    ramp = np.zeros((32, 32, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 32)[None]
    ramp[..., 1] = np.linspace(0, 255, 32)[:, None]
    texture = Texture(image=ramp, wrap_u=wrap, wrap_v=wrap)
    scene = replace(box_room, uvs=box_room.uvs * 3 - 1, materials=(Material(texture=texture),))
    gl, embree = open_renderer("gl", scene), EmbreeRenderer(scene)
    for camera in cameras_in(scene, 3):
        share, psnr = agreement(gl.render(camera), embree.render(camera))
        assert share > 0.999
        assert psnr > 30


def test_colour_is_base_colour_times_vertex_colour(box_room: Scene):
    scene = replace(
        box_room,
        vertex_colors=np.full_like(box_room.vertex_colors, [255, 128, 64]),
        materials=(Material(base_color=(0.5, 1.0, 1.0)),),
    )
    view = open_renderer("gl", scene).render(cameras_in(scene, 1)[0])
    np.testing.assert_allclose(
        view.color.reshape(-1, 3), [[128, 128, 64]] * view.depth_m.size, atol=1
    )


def test_depth_is_along_the_optical_axis_and_back_faces_are_not_drawn(box_room: Scene):
    outside = look_at(np.array([2.5, 1.3, -3.0]), np.array([2.5, 1.3, 2.0]))
    camera = Camera.from_hfov(30.0, (64, 64), outside)
    view = open_renderer("gl", box_room).render(camera)
    # The near wall faces inwards; the far one, 4 m behind it, is seen through it.
    np.testing.assert_allclose(view.depth_m[20:40, 20:40], 7.0, atol=1e-3)


def test_views_in_flight_are_the_views_one_by_one(box_room: Scene):
    renderer = open_renderer("gl", box_room)
    cameras = cameras_in(box_room, 8)
    cameras[3] = cameras[3].resized((40, 60))
    views = list(renderer.render_each(cameras))
    assert [view.camera for view in views] == cameras
    for view, camera in zip(views, cameras):
        alone = renderer.render(camera)
        np.testing.assert_array_equal(view.color, alone.color)
        np.testing.assert_array_equal(view.depth_m, alone.depth_m)


def test_nothing_where_nothing_is():
    triangle = Scene(
        scene_id="triangle",
        vertices=np.array([[-0.1, -0.1, -2], [0.1, -0.1, -2], [0, 0.1, -2]], np.float32),
        faces=np.array([[0, 1, 2]], np.int32),
        uvs=np.zeros((3, 2), np.float32),
        vertex_colors=np.full((3, 3), 200, np.uint8),
        face_materials=np.zeros(1, np.int32),
    )
    camera = Camera.from_hfov(60.0, (64, 64), np.diag([1.0, -1.0, -1.0, 1.0]))
    view = open_renderer("gl", triangle).render(camera)
    empty = view.depth_m == 0
    assert 0.9 < empty.mean() < 1
    assert (view.color[empty] == 0).all()
    np.testing.assert_allclose(view.depth_m[~empty], 2.0, atol=1e-4)


def test_covisibility_is_the_ray_casters(box_room: Scene):
    cameras = cameras_in(box_room, 2)
    gl = measure_pair(*open_renderer("gl", box_room).render_each(cameras))
    embree = measure_pair(*EmbreeRenderer(box_room).render_each(cameras))
    assert gl.covisibility == pytest.approx(embree.covisibility, abs=0.003)


def test_supersampling_averages_colour_and_keeps_depth():
    room = make_room(1)
    (camera,) = cameras_in(room, 1)
    plain = open_renderer("gl", room)
    fine = supersampled(plain, 3)
    np.testing.assert_array_equal(plain.render(camera).depth_m, fine.render(camera).depth_m)
    exact = EmbreeRenderer(room).render(camera.resized((96 * 8, 128 * 8))).color
    exact = exact.reshape(96, 8, 128, 8, 3).mean(axis=(1, 3))

    def error(view: View) -> float:
        return float(np.abs(view.color - exact).mean())

    assert error(fine.render(camera)) < error(plain.render(camera))


def test_a_texture_beyond_the_device_is_refused(box_room: Scene):
    wide = Texture(image=np.zeros((1, 100_000, 3), np.uint8))
    with pytest.raises(SceneError, match="100000 x 1 pixels; this OpenGL device takes at most"):
        open_renderer("gl", replace(box_room, materials=(Material(texture=wide),)))


@pytest.mark.parametrize(
    ("device", "chosen"),
    [("NVIDIA H200/PCIe/SSE2", "gl"), ("llvmpipe (LLVM 15.0.6, 256 bits)", "embree")],
)
def test_auto_is_opengl_on_a_gpu_and_never_a_software_driver(device, chosen, monkeypatch):
    from generation.renderers import gl

    monkeypatch.setattr(choice, "has_gpu", lambda: True)
    monkeypatch.setattr(gl, "device_name", lambda: device)
    assert chosen_renderer("auto") == chosen
    monkeypatch.setattr(choice, "has_gpu", lambda: False)
    assert chosen_renderer("auto") == "embree"


def test_an_unknown_renderer_is_refused():
    with pytest.raises(RendererError, match="expected one of auto, embree, gl, habitat, got 'gpu'"):
        chosen_renderer("gpu")


@pytest.mark.parametrize(
    ("hidden", "environment", "message"),
    [
        ("moderngl", {}, "pip install 'crossview[gl]'"),
        ("", {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}, "no OpenGL context through EGL"),
    ],
)
def test_what_is_missing_is_said(hidden: str, environment: dict[str, str], message: str):
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {hidden!r} else find(name, *rest)
from generation.renderers.choice import open_renderer
from generation.errors import RendererError
from generation.renderers.supersampling import supersampled
from generation.scenes.procedural import make_room
try:
    open_renderer("gl", make_room(0))
except RendererError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert message in done.stdout
