"""Finer colour from any renderer: several samples a pixel, averaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from generation.geometry import Camera
from generation.renderers.protocol import Renderer
from generation.view import View


def supersampled(renderer: Renderer, factor: int) -> Renderer:
    """Return a renderer with factor^2 samples a pixel: itself where that is one."""
    return renderer if factor == 1 else Supersampled(renderer, factor)


class Supersampled:
    """A renderer whose colour is the mean of factor^2 samples a pixel.

    Depth stays that of the pixel's centre.
    """

    def __init__(self, renderer: Renderer, factor: int) -> None:
        self._renderer = renderer
        self._factor = factor
        self.name = renderer.name
        self.device = renderer.device

    def render(self, camera: Camera) -> View:
        """Render colour and depth at the camera's image size."""
        return next(self.render_each([camera]))

    def render_each(self, cameras: Iterable[Camera]) -> Iterator[View]:
        """Render views in the cameras' order."""
        both = chain.from_iterable((camera, self._finer(camera)) for camera in cameras)
        views = self._renderer.render_each(both)
        for view, fine in zip(views, views):
            height, width = view.depth_m.shape
            blocks = fine.color.reshape(height, self._factor, width, self._factor, 3)
            color = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
            yield View(camera=view.camera, color=color, depth_m=view.depth_m)

    def _finer(self, camera: Camera) -> Camera:
        height, width = camera.image_size
        return camera.resized((height * self._factor, width * self._factor))
