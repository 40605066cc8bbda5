"""Examples cut, mirrored and resized, with what is true of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import Bool, Float64, UInt8
from training.downstream.example import Example
from training.downstream.recipe import Recipe

Truth = dict[str, NDArray[Any]]


def size_of(example: Example) -> tuple[int, int]:
    """Return (height, width)."""
    height, width = example.images[0].shape[:2]
    return height, width


def _is_map(name: str, value: NDArray[Any]) -> bool:
    return value.ndim >= 2 and not name.startswith(("intrinsics", "camera"))


def cropped(example: Example, row: int, column: int, size: tuple[int, int]) -> Example:
    """Cut the same (height, width) window out of all images and maps."""
    rows, columns = slice(row, row + size[0]), slice(column, column + size[1])
    truth: Truth = {}
    for name, value in example.truth.items():
        if name.startswith("intrinsics"):
            value = value.copy()
            value[:2, 2] -= (column, row)
        elif _is_map(name, value):
            value = value[rows, columns]
        truth[name] = value
    images = tuple(image[rows, columns] for image in example.images)
    return replace(example, images=images, truth=truth)


def randomly_cropped(
    example: Example, size: tuple[int, int], random: np.random.Generator
) -> Example:
    """Cut a window of (height, width) out, every place as likely; enlarge what is smaller."""
    example = resized(example, enlarged_size(size_of(example), size))
    height, width = size_of(example)
    row = int(random.integers(height - size[0] + 1))
    column = int(random.integers(width - size[1] + 1))
    return cropped(example, row, column, size)


def mirrored(example: Example) -> Example:
    """Mirror one or both views, left to right, and the space that they show.

    Raises CrossviewError for stereo pairs, whose left and right image change places in a mirror.
    """
    width = size_of(example)[1]
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])  # of x
    truth: Truth = {}
    for name, value in example.truth.items():
        if name == "disparity":
            raise CrossviewError(f"{example.name}: {name} cannot be mirrored; take flip = false")
        if name == "camera2_from_camera1":
            value = mirror @ value @ mirror
        elif name.startswith("intrinsics"):
            value = value.copy()
            value[0, 2] = width - value[0, 2]
        elif _is_map(name, value):
            value = value[:, ::-1].copy()
            if name in ("flow", "normal"):
                value[..., 0] *= -1
        truth[name] = value
    images = tuple(np.ascontiguousarray(image[:, ::-1]) for image in example.images)
    return replace(example, images=images, truth=truth)


def seen_twice(example: Example) -> Bool:
    """Return (H, W): not known to be occluded in the second image."""
    return ~example.truth.get("occluded", np.zeros(size_of(example), bool))


def seen_only(example: Example, name: str) -> Example:
    """Return an example of which a map of floats is unknown where that is known to be occluded."""
    value = example.truth[name].copy()
    value[~seen_twice(example)] = np.nan
    return replace(example, truth={**example.truth, name: value})


def resized(example: Example, size: tuple[int, int]) -> Example:
    """Bring an example to (height, width): images filtered, maps by their nearest pixel.

    Flow, disparity and intrinsics are scaled, so that they stay true in the new pixels.
    """
    old = size_of(example)
    if size == old:
        return example
    scale = np.array([size[1] / old[1], size[0] / old[0]])  # x, y
    truth: Truth = {}
    for name, value in example.truth.items():
        if name.startswith("intrinsics"):
            value = np.diag([*scale, 1.0]) @ value
        elif _is_map(name, value):
            value = nearest(value, size)
            if name == "flow":
                value = (value * scale).astype(np.float32)
            elif name == "disparity":
                value = (value * scale[0]).astype(np.float32)
        truth[name] = value
    images = tuple(_filtered(image, size) for image in example.images)
    return replace(example, images=images, truth=truth)


def covering(example: Example, size: tuple[int, int] | None) -> Example:
    """Bring an example, in its own shape, to the least size that covers (height, width), if any."""
    if size is None:
        return example
    return resized(example, _covering_size(size_of(example), size))


def _covering_size(old: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    factor = max(size[0] / old[0], size[1] / old[1])
    return max(size[0], round(old[0] * factor)), max(size[1], round(old[1] * factor))


def enlarged_size(old: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) as it is or, where it is below least, what covers least."""
    covers = old[0] >= least[0] and old[1] >= least[1]
    return old if covers else _covering_size(old, least)


def middle(example: Example, size: tuple[int, int]) -> Example:
    """Return the middle (height, width) of an example, brought to the least size that covers it."""
    return central(covering(example, size), size)


def hfov_deg(example: Example, size: tuple[int, int]) -> float | None:
    """Return what middle shows of the first view from left to right, in degrees, where known."""
    if "intrinsics1" not in example.truth:
        return None
    focal_px = example.truth["intrinsics1"][0, 0]
    width_px = size[1] * min(old / new for old, new in zip(size_of(example), size))
    return math.degrees(2 * math.atan(width_px / 2 / focal_px))


def central(example: Example, size: tuple[int, int]) -> Example:
    """Return the middle (height, width) of an example, pixel by pixel."""
    height, width = size_of(example)
    return cropped(example, (height - size[0]) // 2, (width - size[1]) // 2, size)


def nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return (H, W, ...) values at the nearest pixel of each of (height, width)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, values.shape)
    )
    return values[rows[:, None], columns]


def _filtered(image: UInt8, size: tuple[int, int]) -> UInt8:
    resample = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample))


def jittered(example: Example, strength: float, random: np.random.Generator) -> Example:
    """Change brightness, contrast and saturation of all views alike, in this order.

    The factors are uniform in 1 - strength to 1 + strength.
    """
    if not strength:
        return example
    brightness, contrast, saturation = 1 + strength * random.uniform(-1, 1, 3)

    def change(image: UInt8) -> UInt8:
        colours: Float64 = np.clip(image * brightness, 0, 255)
        colours = np.clip(_blend(_grey(colours).mean(), colours, contrast), 0, 255)
        colours = np.clip(_blend(_grey(colours)[..., None], colours, saturation), 0, 255)
        return colours.astype(np.uint8)

    return replace(example, images=tuple(change(image) for image in example.images))


def _grey(colours: Float64) -> Float64:
    return colours @ (0.2989, 0.587, 0.114)


def _blend(from_: Any, to: Float64, factor: float) -> Float64:
    return from_ + (to - from_) * factor


def augmented(example: Example, recipe: Recipe, random: np.random.Generator) -> Example:
    """Return an example as it is trained on: cropped, mirrored every other time, jittered."""
    return altered(randomly_cropped(example, recipe.crop_size, random), recipe, random)


def altered(example: Example, recipe: Recipe, random: np.random.Generator) -> Example:
    """Return an example mirrored every other time, where the recipe says so, and jittered."""
    if recipe.flip and random.random() < 0.5:
        example = mirrored(example)
    return jittered(example, recipe.jitter, random)
