"""What every renderer is: a camera in, a view out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from generation.geometry import Camera
from generation.view import View

NEAR_M = 0.01
"""Nothing nearer is drawn: habitat-sim's near plane."""
FAR_M = 1000.0
"""Nothing further is drawn by renderers with a depth buffer: habitat-sim's far plane."""


class Renderer(Protocol):
    """Renders one scene. Not to be shared between threads."""

    name: str
    """Recorded with every pair that it renders."""
    device: str
    """What really does the work, for example "CPU", or a GPU's name as its driver gives it."""

    def render(self, camera: Camera) -> View:
        """Render colour and depth at the camera's image size."""
        ...

    def render_each(self, cameras: Iterable[Camera]) -> Iterator[View]:
        """Render views in the cameras' order; faster than one by one where a device can queue."""
        ...
