"""Geometry of two views of which depth and cameras are known, or predicted.

Shapes: H, W pixels of both views, N points. Pixels are (x, y), the middle of the top left one at
(0.5, 0.5); points are metres in the first camera's frame.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from generation.geometry import Bool, Camera, Float32, Float64, UInt8, invert_rigid
from training.downstream.colours import error_panel
from training.downstream.example import Example
from training.downstream.task import Panels
from training.downstream.transforms import seen_twice, size_of
from training.pictures import colours_of_places

PNP_ERROR = 0.01
"""Share of the longer side by which an inlier's pixel may be off; one pixel at least."""
PNP_ROUNDS = 200
MIN_PNP_POINTS = 6
_NOWHERE = np.full((4, 4), np.nan)


def cameras_in_first(
    example: Example, camera2_from_camera1: Float64 | None = None
) -> tuple[Camera, ...]:
    """Return both cameras in the first one's frame, the second one where it is, or as given."""
    if camera2_from_camera1 is None:
        camera2_from_camera1 = example.truth["camera2_from_camera1"]
    poses = np.eye(4), invert_rigid(camera2_from_camera1)
    return tuple(
        Camera(
            intrinsics=example.truth[f"intrinsics{view}"],
            world_from_camera=pose,
            image_size=size_of(example),
        )
        for view, pose in enumerate(poses, 1)
    )


def true_points(example: Example) -> Float32:
    """Return the (2, H, W, 3) points of both views' pixels, NaN where depth is unknown."""
    depths = example.truth["depth_m"], example.truth["depth2_m"]
    points = [camera.unproject(depth) for camera, depth in zip(cameras_in_first(example), depths)]
    return np.stack(points).reshape(2, *size_of(example), 3).astype(np.float32)


def pixel_middles(size: tuple[int, int]) -> Float64:
    """Return the (H, W, 2) middles of the pixels of (height, width)."""
    height, width = size
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def true_pixels(example: Example) -> Float64:
    """Return (H, W, 2) where the second view shows the first one's pixels, NaN where it does not.

    From flow and, where it is known, occluded.
    """
    size = size_of(example)
    pixels: Float64 = pixel_middles(size) + example.truth["flow"]
    pixels[~(_inside(pixels, size) & seen_twice(example))] = np.nan
    return pixels


def _inside(pixels: Float64, size: tuple[int, int]) -> Bool:
    """Return (...): whether (..., 2) pixels lie in an image of (height, width); NaN does not."""
    return np.asarray(((pixels >= 0) & (pixels < size[::-1])).all(-1))


def true_pairs(example: Example, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw up to count pixels of the first view that the second one shows too, all as likely.

    Returns (n, 2): their numbers and those of their pixels in the second view, row by row. No pixel
    of the second view comes twice.
    """
    width = size_of(example)[1]
    pixels = true_pixels(example).reshape(-1, 2)
    first = random.permutation(np.flatnonzero(np.isfinite(pixels).all(1)))
    column, row = pixels[first].astype(np.int64).T
    second, drawn = np.unique(row * width + column, return_index=True)
    chosen = random.permutation(len(second))[:count]
    return np.stack([first[drawn[chosen]], second[chosen]], 1)


def pose_of_points(points: NDArray[Any], intrinsics: Float64) -> Float64:
    """Return the (4, 4) camera_from_points of a camera whose pixels show (H, W, 3) points.

    By PnP and RANSAC, the same for the same input; all NaN where no pose is found. Points that are
    not finite do not count. Source: Lepetit et al., EPnP, IJCV 2009.
    """
    size = points.shape[0], points.shape[1]
    finite = np.isfinite(points).all(-1)
    points, pixels = points[finite].astype(np.float64), pixel_middles(size)[finite]
    if len(points) < MIN_PNP_POINTS:
        return _NOWHERE.copy()
    found, turn, shift, _ = cv2.solvePnPRansac(
        points,
        pixels,
        intrinsics,
        None,
        iterationsCount=PNP_ROUNDS,
        reprojectionError=max(1.0, PNP_ERROR * max(size)),
        flags=cv2.SOLVEPNP_EPNP,  # SQPNP stops at an assertion where points are all but one
    )
    if not found:
        return _NOWHERE.copy()
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(turn)[0]
    pose[:3, 3] = shift[:, 0]
    return pose if np.isfinite(pose).all() else _NOWHERE.copy()


# Pictures


def place_colours(pixels: Float64, size: tuple[int, int]) -> UInt8:
    """Return (N, 3) colours of (N, 2) pixels: neighbours look alike."""
    shares = torch.from_numpy(pixels / (size[1], size[0]))[:, [1, 0]].float()
    colours: UInt8 = (colours_of_places(shares - 0.5, 1).numpy() * 255).astype(np.uint8)
    return colours


def dotted(image: UInt8, pixels: Float64, colours: UInt8) -> UInt8:
    """Return a dim grey copy of an image with a dot at each of (N, 2) pixels that is in it."""
    height, width = image.shape[:2]
    picture = np.repeat(image.mean(-1, keepdims=True) / 2, 3, -1).astype(np.uint8)
    reach = max(height, width) // 160
    inside = _inside(pixels, (height, width))
    for (x, y), colour in zip(pixels[inside].astype(int), colours[inside]):
        rows = slice(max(0, y - reach), y + reach + 1)
        picture[rows, max(0, x - reach) : x + reach + 1] = colour
    return picture


def pose_pictures(example: Example, camera2_from_camera1: Float64) -> Panels:
    """Show points of the first view, and where the second shows them, by true and found pose.

    The error is the distance of both places in the second view. No points where depth is unknown or
    there is no pose.
    """
    size = size_of(example)
    step = max(1, max(size) // 16)
    chosen = np.zeros(size, bool)
    chosen[step // 2 :: step, step // 2 :: step] = True
    chosen &= np.isfinite(example.truth["depth_m"])
    points = true_points(example)[0].astype(float)
    own = pixel_middles(size)[chosen]
    colours = place_colours(own, size)
    true = _shown(cameras_in_first(example)[1], points)
    found = _shown(cameras_in_first(example, camera2_from_camera1)[1], points)
    error = np.linalg.norm(found - true, axis=-1)
    return [
        ("first", dotted(example.images[0], own, colours)),
        ("truth in the second", dotted(example.images[1], true[chosen], colours)),
        ("prediction", dotted(example.images[1], found[chosen], colours)),
        error_panel(error, "px"),
    ]


def _shown(camera: Camera, points: Float64) -> Float64:
    """Return (H, W, 2) where a camera shows (H, W, 3) points, NaN behind it."""
    pixels, depth_m = camera.project(points.reshape(-1, 3))
    in_front: Bool = np.asarray(depth_m > 0)
    pixels[~in_front] = np.nan
    return pixels.reshape(*points.shape[:2], 2)
