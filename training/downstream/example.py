"""What every dataset gives and every task takes: images, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from generation.geometry import UInt8

UNKNOWN_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image, or two of one scene, and the truth about them.

    Unknown pixels are NaN in maps of floats and UNKNOWN_LABEL in maps of labels, whatever the
    dataset's files say. Maps are of the first image unless they say otherwise; H, W are its size.
    """

    name: str
    """Of the example in its dataset, for messages and pictures."""
    images: tuple[UInt8, ...]
    """(H, W, 3) sRGB bytes of each view; two views have one size."""
    truth: dict[str, NDArray[Any]]
    """By name, as far as the dataset has it:
    depth_m, depth2_m: (H, W) float32, along the optical axis, of the first and second image.
    flow: (H, W, 2) float32, (x, y) in pixels from the first image to the second.
    disparity: (H, W) float32 pixels, by which a point lies further left in the second image.
    full_width_px: () int64, of the images as their owners judge them, where smaller ones are read.
    occluded: (H, W) bool, where the second image does not show what the first does.
    labels: (H, W) int64 classes. label: () int64 class of the image.
    intrinsics1, intrinsics2: (3, 3) float64 in pixels, OpenCV axes, the middle of the top left
    pixel at (0.5, 0.5).
    camera2_from_camera1: (4, 4) float64, rigid, metres.
    Taskonomy's targets by their own names: (H, W, C) float32."""


def one_view(example: Example) -> Example:
    """Return an example without its second image, for tasks of a single one."""
    truth = {
        name: value
        for name, value in example.truth.items()
        if name not in ("depth2_m", "flow", "disparity", "occluded", "intrinsics2")
        and not name.startswith("camera")
    }
    return replace(example, images=example.images[:1], truth=truth)


class Examples(Protocol):
    """The examples of one split, read from disk when they are asked for.

    Two that are equal hold the same examples.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Example:
        """Read one. Raises CrossviewError naming a file that is damaged or does not fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A dataset."""

    train: Examples
    val: Examples
    classes: tuple[str, ...] = ()
    """Names of the classes, where there are any."""


@dataclass(frozen=True)
class Chosen:
    """Some of the examples of a split, in another order."""

    examples: Examples
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Example:
        return self.examples[self.numbers[number]]


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Return up to count numbers below total, evenly spread."""
    count = min(count, total)
    return np.arange(count) * total // max(1, count)


def at_most(examples: Examples, count: int | None) -> Examples:
    """Return the examples, or count of them, evenly spread."""
    if count is None or count >= len(examples):
        return examples
    return Chosen(examples, [int(n) for n in spread(len(examples), count)])
