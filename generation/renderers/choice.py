"""Which renderer does the work: by name, or the fastest that this machine has."""

from __future__ import annotations

import importlib.util

from generation.renderers.embree import EmbreeRenderer
from generation.renderers.gpu import has_gpu, is_gpu
from generation.renderers.protocol import Renderer, RendererError
from generation.scenes.scene import Scene
from generation.scenes.sources import SceneSource

AUTO = "auto"
RENDERERS = (AUTO, "embree", "gl", "habitat")
"""auto is gl on a GPU, else embree."""
NEEDS_FRESH_PROCESS = frozenset({"habitat"})
"""Renderers that keep memory of every scene: each is to have a process of its own."""


def chosen_renderer(name: str) -> str:
    """Return the renderer that a user's choice means on this machine.

    auto is never a software driver. Raises RendererError for an unknown name.
    """
    if name not in RENDERERS:
        raise RendererError(f"renderer: expected one of {', '.join(RENDERERS)}, got {name!r}")
    if name == AUTO:
        return "gl" if _gl_runs_on_a_gpu() else "embree"
    return name


def open_renderer(
    name: str,
    scene: Scene,
    source: SceneSource | None = None,
    *,
    embree: EmbreeRenderer | None = None,
) -> Renderer:
    """Return a scene's renderer, by the name that chosen_renderer gave.

    source: where the scene is from, for a renderer that loads it itself. embree: the scene's, where
    there is one already. Raises RendererError where it cannot run here, SceneError where the scene
    is not for it.
    """
    renderer: Renderer
    if name == "embree":
        renderer = embree or EmbreeRenderer(scene)
    elif name == "gl":
        renderer = _open_gl(scene)
    else:
        from generation.renderers.habitat import HabitatRenderer

        renderer = HabitatRenderer(scene, source)
    return renderer


def _open_gl(scene: Scene) -> Renderer:
    if importlib.util.find_spec("moderngl") is None:
        raise RendererError(
            "renderer gl: the package moderngl is missing; pip install 'crossview[gl]'"
        )
    from generation.renderers.gl import GlRenderer

    return GlRenderer(scene)


def _gl_runs_on_a_gpu() -> bool:
    if not has_gpu() or importlib.util.find_spec("moderngl") is None:
        return False
    from generation.renderers.gl import device_name

    try:
        return is_gpu(device_name())
    except RendererError:
        return False
