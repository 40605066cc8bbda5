"""Drawing in shares of a sheet's size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from generation.geometry import UInt8
from generation.scenes.procedural.noise import Shape, fractal_noise
from generation.scenes.procedural.palette import (
    Color,
    hsv,
    ink,
    random_color,
    shaded,
    to_bytes,
)


class Sheet:
    """Paper to draw on in shares of its size: x to the right, y down, 0 to 1."""

    def __init__(self, rng: np.random.Generator, ground: UInt8) -> None:
        self._rng = rng
        self._picture = Image.fromarray(ground)
        self._scale = np.array([ground.shape[1], ground.shape[0]], float)
        self.draw = ImageDraw.Draw(self._picture)

    @classmethod
    def of_color(cls, rng: np.random.Generator, shape: Shape, color: Color) -> Sheet:
        """Start from a slightly foxed sheet of one colour."""
        clouds = 1 + 0.08 * fractal_noise(rng, shape, octaves=5, fade=0.8)
        return cls(rng, to_bytes(np.array(color, np.float32) * clouds[..., None]))

    @property
    def image(self) -> UInt8:
        """(H, W, 3)."""
        return np.asarray(self._picture)

    def rectangle(self, box: tuple[float, float, float, float], color: Color) -> None:
        """Fill left, top, right, bottom."""
        self.draw.rectangle(self._pixels(box), fill=ink(color))

    def ellipse(
        self, centre: tuple[float, float], radius: tuple[float, float], color: Color
    ) -> None:
        """Fill an ellipse."""
        (x, y), (a, b) = centre, radius
        self.draw.ellipse(self._pixels((x - a, y - b, x + a, y + b)), fill=ink(color))

    def text(self, box: tuple[float, float, float, float], *, lines: int, color: Color) -> None:
        """Print lines of made-up letters, each a few strokes."""
        left, top, right, bottom = self._pixels(box)
        step = (bottom - top) / lines
        wide = max(2.0, 0.45 * step)
        for line in range(lines):
            x, y = left, top + line * step
            end = left + (right - left) * self._rng.uniform(0.6, 1.0)
            while x + wide < end:
                if self._rng.random() > 0.15:
                    strokes = self._rng.random(6) * ([wide, 0.7 * step] * 3) + ([x, y] * 3)
                    self.draw.line(strokes.tolist(), fill=ink(color), width=max(1, int(step / 9)))
                x += 1.35 * wide

    def random_shape(
        self, color: Color, region: tuple[float, float, float, float] = (0, 0, 1, 1)
    ) -> None:
        """Draw an ellipse, a bar, a polygon or a ring somewhere in a region."""
        low, high = np.array(region[:2]), np.array(region[2:])
        centre = (low + self._rng.random(2) * (high - low)) * self._scale
        size = self._rng.uniform(0.06, 0.28, 2) * self._scale * (high - low)
        corners = [*(centre - size), *(centre + size)]
        kind = self._rng.random()
        if kind < 0.3:
            self.draw.ellipse(corners, fill=ink(color))
        elif kind < 0.5:
            self.draw.ellipse(corners, outline=ink(color), width=int(3 + size[0] / 8))
        elif kind < 0.7:
            self.draw.line(corners, fill=ink(color), width=int(self._rng.integers(2, 14)))
        else:
            points = centre + self._rng.uniform(-1, 1, (4, 2)) * size
            self.draw.polygon([tuple(p) for p in points.tolist()], fill=ink(color))

    def tree(self, x: float, foot: float, size: float) -> None:
        """Draw a trunk and a crown of leaves."""
        green = hsv(self._rng.uniform(0.05, 0.42), 0.6, self._rng.uniform(0.25, 0.6))
        self.rectangle((x - 0.1 * size, foot - size, x + 0.1 * size, foot), (90, 65, 45))
        for _ in range(5):
            dx, dy = self._rng.uniform(-0.45, 0.45, 2) * size
            tone = shaded(green, self._rng.uniform(0.7, 1.35))
            self.ellipse((x + dx, foot - 1.3 * size + dy), (0.45 * size, 0.45 * size), tone)

    def house(self, x: float, foot: float, size: float) -> None:
        """Draw a front with windows under a roof."""
        self.rectangle((x - size, foot - size, x + size, foot), random_color(self._rng))
        roof = np.array([[x - 1.2 * size, foot - size], [x + 1.2 * size, foot - size]])
        peak = np.array([[x, foot - 1.8 * size]])
        points = np.concatenate([roof, peak]) * self._scale
        self.draw.polygon([tuple(p) for p in points.tolist()], fill=(140, 60, 45))
        for dx in (-0.55, 0.0, 0.55):
            left = x + (dx - 0.15) * size
            self.rectangle(
                (left, foot - 0.75 * size, left + 0.3 * size, foot - 0.35 * size), (70, 80, 110)
            )

    def _pixels(self, box: tuple[float, float, float, float]) -> list[float]:
        scaled: NDArray[np.floating] = np.array(box) * np.tile(self._scale, 2)
        return scaled.tolist()
