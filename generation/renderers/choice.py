"""The renderers, and which one does the work: by name, or the fastest that this machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generation.errors import RendererError
from generation.renderers.gpu import has_gpu, is_gpu

if TYPE_CHECKING:
    from generation.renderers.protocol import Renderer
    from generation.scenes.scene import Scene
    from generation.scenes.sources import SceneSource


@dataclass(frozen=True, kw_only=True)
class RendererKind:
    """A renderer, and what is to be known of it before there is one."""

    open: Callable[[Scene, SceneSource | None], Renderer]
    """Of a scene, and where it is from, for a renderer that loads it itself. Raises RendererError
    where it cannot run here, SceneError where the scene is not for it."""
    opengl: bool = False
    """Draws by OpenGL, which without a GPU is a software driver's."""
    has_floors: bool = False
    """Says where a person can stand (HasFloors), by the navigation mesh beside a scene's file."""
    needs_fresh_process: bool = False
    """Keeps memory of every scene: each is to have a process of its own."""


def _open_embree(scene: Scene, source: SceneSource | None) -> Renderer:
    from generation.renderers.embree import EmbreeRenderer

    return EmbreeRenderer(scene)


def _open_gl(scene: Scene, source: SceneSource | None) -> Renderer:
    if importlib.util.find_spec("moderngl") is None:
        raise RendererError(
            "renderer gl: the package moderngl is missing; pip install 'crossview[gl]'"
        )
    from generation.renderers.gl import GlRenderer

    return GlRenderer(scene)


def _open_habitat(scene: Scene, source: SceneSource | None) -> Renderer:
    from generation.renderers.habitat import HabitatRenderer

    return HabitatRenderer(scene, source)


KINDS = {
    "embree": RendererKind(open=_open_embree),
    "gl": RendererKind(open=_open_gl, opengl=True),
    "habitat": RendererKind(
        open=_open_habitat, opengl=True, has_floors=True, needs_fresh_process=True
    ),
}
"""A new renderer is a file beside this one and a line here."""
AUTO = "auto"
RENDERERS = (AUTO, *KINDS)
"""auto is gl on a GPU, else embree."""


def chosen_renderer(name: str) -> str:
    """Return the renderer that a user's choice means on this machine.

    auto is never a software driver. Raises RendererError for an unknown name.
    """
    if name not in RENDERERS:
        raise RendererError(f"renderer: expected one of {', '.join(RENDERERS)}, got {name!r}")
    if name == AUTO:
        return "gl" if _gl_runs_on_a_gpu() else "embree"
    return name


def open_renderer(name: str, scene: Scene, source: SceneSource | None = None) -> Renderer:
    """Return a scene's renderer, by the name that chosen_renderer gave. Raises as its open does."""
    return KINDS[name].open(scene, source)


def _gl_runs_on_a_gpu() -> bool:
    if not has_gpu() or importlib.util.find_spec("moderngl") is None:
        return False
    from generation.renderers.gl import device_name

    try:
        return is_gpu(device_name())
    except RendererError:
        return False
