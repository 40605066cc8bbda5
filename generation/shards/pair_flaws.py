"""What can be wrong with one pair of a shard: its images, depth, cameras and numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from generation.covisibility import covisibility_a_in_b, official_covisibility
from generation.geometry import Camera, intrinsics_from_hfov
from generation.overlap import OverlapBand
from generation.shards.cameras import cameras_of
from generation.shards.images import FARTHEST_M, decode_depth_png, decode_jpeg
from generation.shards.schema import DEPTHS, META, VIEWS, ShardError
from generation.view import View
from generation.visibility import seen_pixels

REMEASURED_TOLERANCE = 0.01
"""How far a co-visibility measured again from stored millimetres may be from the recorded one, over
what rounding explains. Of 6,000 pairs of 24 rooms and scans half were within 0.0002 and 999 of
1,000 within 0.0055, and rounding explained the rest, up to 0.028. Depth beyond the 65.5 m that
images hold may count either way, and adds its share of the pixels.
"""

_MEASURED = ("covisibility_1_in_2", "covisibility_2_in_1", "covisibility_official")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the index says of every pair."""

    band: OverlapBand | None = None
    """The co-visibility that pairs must have; None: the index does not say."""
    image_size: tuple[int, int] | None = None
    """(height, width) in pixels; None: the index does not say."""
    depth: bool | None = None
    """Whether depth is stored; None: the index does not say."""

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Expected:
        """Read an index's configuration. Raises ShardError where it makes no sense."""
        try:
            pairs, shards = config.get("pairs", {}), config.get("shards", {})
            size, band = pairs.get("image_size"), pairs.get("overlap")
            return cls(
                band=OverlapBand(**band) if band else None,
                image_size=(int(size[0]), int(size[1])) if size else None,
                depth=shards.get("depth"),
            )
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ShardError(f"its configuration makes no sense ({error})") from error


def pair_flaws(
    key: str, members: dict[str, bytes], scene: str, expected: Expected
) -> Iterator[str]:
    """Yield what is wrong with one pair, given its members by ending; each names the key."""
    needed = {META, *VIEWS} | (set(DEPTHS) if expected.depth else set())
    missing = sorted(needed - set(members))
    if missing:
        yield f"{key}: no {', '.join(missing)}"
        return
    try:
        meta = json.loads(members[META])
        cameras = cameras_of(meta)
        numbers = {name: float(meta[name]) for name in ("covisibility", *_MEASURED)}
        flaws = [*_meta_flaws(meta, numbers, cameras, scene, expected)]
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        yield f"{key}: {META} is not as the schema says ({error!r})"
        return
    for view in VIEWS:
        flaws += _image_flaws(view, members[view], cameras[0].image_size)
    if set(DEPTHS) <= set(members):
        flaws += _depth_flaws(members, cameras, numbers)
    for flaw in flaws:
        yield f"{key}: {flaw}"


def _meta_flaws(
    meta: dict[str, Any],
    numbers: dict[str, float],
    cameras: tuple[Camera, Camera],
    scene: str,
    expected: Expected,
) -> Iterator[str]:
    if meta["scene"] != scene:
        yield f"of scene {meta['scene']!r}, in a shard of {scene!r}"
    if not meta["renderer"] or not isinstance(meta["renderer"], str):
        yield f"no renderer is named, but {meta['renderer']!r}"
    camera = cameras[0]
    if expected.image_size and camera.image_size != expected.image_size:
        yield f"image_size is {camera.image_size}, the index says {expected.image_size}"
    if not np.allclose(
        camera.intrinsics, intrinsics_from_hfov(float(meta["hfov_deg"]), camera.image_size)
    ):
        yield f"intrinsics are not those of hfov_deg {meta['hfov_deg']}"
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            yield f"{name} is {number}, expected 0 to 1"
    both = numbers["covisibility_1_in_2"], numbers["covisibility_2_in_1"]
    if numbers["covisibility"] != min(both):
        yield f"covisibility {numbers['covisibility']} is not the smaller of {both[0]}, {both[1]}"
    band = expected.band
    if band:
        name = "covisibility_official" if band.official else "covisibility"
        if not band.low <= numbers[name] <= band.high:
            yield f"{name} is {numbers[name]:.4f}, outside {band.low:g}-{band.high:g}"


def plain_flaws(key: str, members: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong with a pair of a tar from elsewhere, two images; each names the key."""
    for view in VIEWS:
        for flaw in _image_flaws(view, members[view], None):
            yield f"{key}: {flaw}"


def _image_flaws(name: str, data: bytes, expected_size: tuple[int, int] | None) -> Iterator[str]:
    try:
        size = decode_jpeg(data).shape[:2]
    except ValueError as error:
        yield f"{name} cannot be decoded ({error})"
        return
    if expected_size and size != expected_size:
        yield f"{name} has {size} pixels, meta.json says {expected_size}"


def _depth_flaws(
    members: dict[str, bytes], cameras: tuple[Camera, Camera], numbers: dict[str, float]
) -> Iterator[str]:
    """Yield what is wrong with the depth maps, and with the co-visibility measured from them."""
    views = []
    for name, camera in zip(DEPTHS, cameras):
        try:
            with Image.open(io.BytesIO(members[name])) as image:
                mode, size = image.mode, (image.height, image.width)
            if not mode.startswith("I;16") or size != camera.image_size:
                yield f"{name} has {size} pixels of kind {mode}, expected 16 bits a pixel"
                return
            depth_m = decode_depth_png(members[name])
        except (OSError, ValueError, SyntaxError) as error:
            yield f"{name} cannot be decoded ({error})"
            return
        views.append(View(camera=camera, color=np.zeros((0, 0, 3), np.uint8), depth_m=depth_m))
    for name, (low, high) in remeasured(views[0], views[1], numbers).items():
        if not low <= numbers[name] <= high:
            measured = f"{low:.4f} to {high:.4f} measured from its depth"
            yield f"{name} is {numbers[name]:.4f}, but {measured}"


def remeasured(
    view1: View, view2: View, numbers: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the (lowest, highest) value of each number that rounding the views' depth explains.

    Rounding changes almost nothing, except where one view sees edge-on what the other sees from the
    front, or where two surfaces are 5 cm apart. Which pixels may count either way takes long to
    find, so this is done only for numbers that are off.
    """
    far = max(float((view.depth_m >= FARTHEST_M - 0.001).mean()) for view in (view1, view2))
    margin = REMEASURED_TOLERANCE + far
    bounds: dict[str, tuple[float, float]] = {}
    for name, one, other in (
        ("covisibility_1_in_2", view1, view2),
        ("covisibility_2_in_1", view2, view1),
    ):
        low = high = float(covisibility_a_in_b(one, other))
        if abs(numbers[name] - low) > margin:
            seen = np.stack([seen_pixels(nudged, other) for nudged in _nudged(one)])
            valid = max(1, int(np.count_nonzero(one.depth_m)))
            low = int(np.count_nonzero(seen.all(axis=0))) / valid
            high = int(np.count_nonzero(seen.any(axis=0))) / valid
        bounds[name] = low - margin, high + margin
    name = "covisibility_official"
    low = high = official_covisibility(view1, view2)
    if abs(numbers[name] - low) > margin:
        nudged_too = [official_covisibility(nudged, view2) for nudged in _nudged(view1)]
        low, high = min(nudged_too), max(nudged_too)
    bounds[name] = low - margin, high + margin
    return bounds


def _nudged(view: View) -> list[View]:
    """Return copies of a view whose depths all round to the stored ones, from least to most."""
    steps_m = np.linspace(-0.0005, 0.0005, 9, dtype=np.float32)
    hit = view.depth_m > 0
    return [replace(view, depth_m=np.where(hit, view.depth_m + step, 0)) for step in steps_m]
