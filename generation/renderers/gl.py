"""Rasterising with OpenGL on headless EGL: on a GPU through its driver, else on Mesa's CPU driver.

The one door to moderngl. Depth comes from a 24-bit buffer whose near plane is 1 cm and takes the
same float32 operations as habitat-sim's, so that most pixels have its very bits; its step is
0.15 mm at 5 m and 15 mm at 50 m. Vertices and mip-mapped textures stay on the device, back faces
are culled, and pictures are fetched a few views late, so that the device draws while earlier views
travel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import moderngl
import numpy as np

from generation.errors import RendererError
from generation.geometry import Camera, Float32, Float64
from generation.renderers.protocol import FAR_M, NEAR_M
from generation.scenes.scene import WRAP_MODES, Scene, SceneError, Texture
from generation.view import View

ANISOTROPY = 1.0
"""Samples along a grazing footprint. habitat-sim takes one: with 8 the colour PSNR against its
renders fell from 67 to 52 dB (living-room) and from 62 to 39 (bathroom)."""
IN_FLIGHT = 3
"""Views on their way at a time: one drawn, one copied, one read."""

_VERTEX_SHADER = """
#version 330
uniform mat4 camera_from_world;
uniform mat4 clip_from_camera;
in vec3 position;
in vec2 uv;
in vec3 tint;
out vec2 texture_uv;
out vec3 surface_tint;
void main() {
    gl_Position = clip_from_camera * (camera_from_world * vec4(position, 1.0));
    texture_uv = uv;
    surface_tint = tint;
}
"""

# Mirrored repetition is folded by hand (moderngl knows the other two); the mip level still follows
# from the unfolded coordinates.
_FRAGMENT_SHADER = """
#version 330
uniform vec3 base_color;
uniform bool is_textured;
uniform bvec2 is_mirrored;
uniform sampler2D image;
in vec2 texture_uv;
in vec3 surface_tint;
out vec4 color;
void main() {
    vec3 surface = base_color * surface_tint;
    vec2 folded = 1.0 - abs(mod(texture_uv, 2.0) - 1.0);
    vec2 at = mix(texture_uv, folded, is_mirrored);
    vec3 texel = textureGrad(image, at, dFdx(texture_uv), dFdy(texture_uv)).rgb;
    color = vec4(is_textured ? surface * texel : surface, 1.0);
}
"""


@lru_cache(maxsize=1)
def _context() -> Any:
    """Return this process's one context. Raises RendererError where EGL gives none."""
    try:
        context: Any = moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]
    except Exception as error:  # glcontext raises bare Exceptions
        raise RendererError(
            f"gl: no OpenGL context through EGL ({error}); install the GPU's driver, or Mesa "
            "(Debian: libegl1 libgl1-mesa-dri), or take --renderer embree"
        ) from error
    context.gc_mode = "context_gc"  # what Python drops is kept until gc()
    context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
    return context


def device_name() -> str:
    """Return what OpenGL renders on, for example "NVIDIA H200/PCIe/SSE2"."""
    name: str = _context().info["GL_RENDERER"]
    return name


class GlRenderer:
    """Renders a scene's unlit colour and depth with OpenGL."""

    name = "gl"

    def __init__(self, scene: Scene) -> None:
        """Upload a scene.

        Raises RendererError where there is no OpenGL, SceneError where a texture is larger than the
        device takes.
        """
        context = _context()
        context.gc()
        self.device = device_name()
        self._program = context.program(
            vertex_shader=_VERTEX_SHADER, fragment_shader=_FRAGMENT_SHADER
        )
        self._textures = _upload_textures(scene)
        self._materials = scene.materials
        self._batches = _upload_triangles(scene, self._program)
        self._targets: dict[tuple[int, int], list[_Target]] = {}

    def render(self, camera: Camera) -> View:
        """Render colour and depth at the camera's image size."""
        return next(self.render_each([camera]))

    def render_each(self, cameras: Iterable[Camera]) -> Iterator[View]:
        """Render views in the cameras' order, several in flight."""
        waiting: deque[tuple[Camera, _Target]] = deque()
        for number, camera in enumerate(cameras):
            if len(waiting) == IN_FLIGHT:
                yield _fetch(*waiting.popleft())
            target = self._targets_of(camera.image_size)[number % IN_FLIGHT]
            self._draw(camera, target)
            waiting.append((camera, target))
        while waiting:
            yield _fetch(*waiting.popleft())

    def _targets_of(self, image_size: tuple[int, int]) -> list[_Target]:
        if image_size not in self._targets:
            self._targets[image_size] = [_Target(image_size) for _ in range(IN_FLIGHT)]
        return self._targets[image_size]

    def _draw(self, camera: Camera, target: _Target) -> None:
        target.framebuffer.use()
        target.framebuffer.clear()
        for name, matrix in (
            ("camera_from_world", camera.camera_from_world),
            ("clip_from_camera", clip_from_camera(camera)),
        ):
            self._program[name].write(matrix.astype("f4").T.tobytes())  # OpenGL keeps columns
        for material_index, triangles in self._batches:
            material = self._materials[material_index]
            self._program["base_color"].value = material.base_color
            self._program["is_textured"].value = material.texture is not None
            if material.texture is not None:
                self._textures[id(material.texture)].use()
                modes = (material.texture.wrap_u, material.texture.wrap_v)
                self._program["is_mirrored"].value = tuple(mode == "mirror" for mode in modes)
            triangles.render()
        target.start_copy()


class _Target:
    """A picture on the device, and the buffers through which it is fetched."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        height, width = image_size
        context = _context()
        self.framebuffer = context.framebuffer(
            color_attachments=[context.texture((width, height), 4)],
            depth_attachment=context.depth_texture((width, height)),
        )
        self.color = context.buffer(reserve=4 * height * width)
        self.depth = context.buffer(reserve=4 * height * width)

    def start_copy(self) -> None:
        """Queue the copies of colour and depth; neither is waited for."""
        self.framebuffer.read_into(self.color, components=4)
        self.framebuffer.read_into(self.depth, components=1, attachment=-1, dtype="f4")


def _fetch(camera: Camera, target: _Target) -> View:
    """Wait for a view's copies and return it; OpenGL's rows run upwards."""
    height, width = camera.image_size
    color = np.frombuffer(target.color.read(), np.uint8).reshape(height, width, 4)
    depth = np.frombuffer(target.depth.read(), np.float32).reshape(height, width)
    return View(
        camera=camera,
        color=np.ascontiguousarray(color[::-1, :, :3]),
        depth_m=linear_depth(depth[::-1]),
    )


def linear_depth(depth: Float32) -> Float32:
    """Return metres along the optical axis of a depth buffer's 0..1; 0 where nothing was drawn.

    In float32 and in this order, as habitat-sim's shader does it.
    """
    near, far = np.float32(NEAR_M), np.float32(FAR_M)
    scale = np.float32(0.5)
    offset = ((far + near) / (near - far) - np.float32(1)) * scale
    metres: Float32 = np.float32(2) * far * near / (near - far) * scale / (depth + offset)
    metres[depth == 1] = 0
    return metres


def clip_from_camera(camera: Camera) -> Float64:
    """Return the (4, 4) OpenGL projection of a camera with OpenCV axes.

    Pixel coordinates (x, y) land on 2 x / width - 1 and 1 - 2 y / height, depths from NEAR_M to
    FAR_M on -1 to 1.
    """
    height, width = camera.image_size
    k = camera.intrinsics
    return np.array(
        [
            [2 * k[0, 0] / width, 2 * k[0, 1] / width, 2 * k[0, 2] / width - 1, 0],
            [0, -2 * k[1, 1] / height, 1 - 2 * k[1, 2] / height, 0],
            [0, 0, (FAR_M + NEAR_M) / (FAR_M - NEAR_M), -2 * FAR_M * NEAR_M / (FAR_M - NEAR_M)],
            [0, 0, 1, 0],
        ]
    )


def _upload_textures(scene: Scene) -> dict[int, Any]:
    """Return the device's texture of every texture of a scene, by its identity."""
    textures = {id(m.texture): m.texture for m in scene.materials if m.texture is not None}
    return {key: _upload_texture(texture, scene) for key, texture in textures.items()}


def _upload_texture(texture: Texture, scene: Scene) -> Any:
    context = _context()
    height, width = texture.image.shape[:2]
    limit = context.info["GL_MAX_TEXTURE_SIZE"]
    if max(height, width) > limit:
        raise SceneError(
            f"scene {scene.scene_id!r}: a texture of {width} x {height} pixels; this OpenGL device "
            f"takes at most {limit}: make it smaller, or take --renderer embree"
        )
    image = np.ascontiguousarray(texture.image)
    uploaded = context.texture((width, height), 3, image.tobytes(), alignment=1)
    assert {texture.wrap_u, texture.wrap_v} <= set(WRAP_MODES)
    uploaded.repeat_x = texture.wrap_u == "repeat"
    uploaded.repeat_y = texture.wrap_v == "repeat"
    uploaded.build_mipmaps()
    uploaded.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
    uploaded.anisotropy = ANISOTROPY
    return uploaded


def _upload_triangles(scene: Scene, program: Any) -> list[tuple[int, Any]]:
    """Return (material, its triangles on the device) of every material that has any."""
    context = _context()
    corners = np.zeros(
        len(scene.vertices), [("position", "f4", 3), ("uv", "f4", 2), ("tint", "u1", 4)]
    )
    corners["position"] = scene.vertices
    corners["uv"] = scene.uvs
    corners["tint"][:, :3] = scene.vertex_colors
    vertices = context.buffer(corners.tobytes())
    batches = []
    for material in np.unique(scene.face_materials):
        faces = scene.faces[scene.face_materials == material]
        indices = context.buffer(np.ascontiguousarray(faces, np.int32).tobytes())
        layout = [(vertices, "3f 2f 3f1 1x1", "position", "uv", "tint")]
        batches.append((int(material), context.vertex_array(program, layout, indices)))
    return batches
