"""Pairs one by one: their images, depth and cameras, scaled, and crops of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generation.errors import CrossviewError
from generation.geometry import Camera, Float32, UInt8
from generation.shards.cache import ShardCache
from generation.shards.reader import MAX_OPEN, ShardIndex, ShardReader
from generation.shards.schema import VIEWS
from training.order import Float64


class PairReader:
    """Reads pairs by their number in an index, large enough for a crop and, if asked, no larger."""

    def __init__(
        self,
        index: ShardIndex,
        crop_size: int,
        cache: ShardCache | None = None,
        *,
        largest: int | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        """Read remote shards through a cache; without one, a request for each member.

        largest: what a longer shorter side is scaled to, of images, depth and cameras. max_open: as
        ShardReader's.
        """
        self.crop_size = crop_size
        self._largest = largest
        self.index = index
        self._reader = ShardReader(index, cache, max_open)
        self.num_pairs = index.num_pairs

    def members(self, sample: int, endings: tuple[str, ...]) -> list[bytes]:
        """Return the bytes of a sample's members. Raises ShardError as ShardReader does."""
        return self._reader.pair(sample, endings)[1]

    def views(self, sample: int) -> tuple[UInt8, UInt8]:
        """Return both images, (H, W, 3) each.

        Raises CrossviewError where an image is damaged or smaller than the crop.
        """
        first, second = self._reader.images(sample)
        for ending, image in zip(VIEWS, (first, second)):
            if min(image.shape[:2]) < self.crop_size:
                height, width = image.shape[:2]
                raise CrossviewError(
                    f"{self.where(sample)}, {ending}: {height} x {width} pixels, but the model "
                    f"takes crops of {self.crop_size}; render larger pairs or take a smaller "
                    "model.image_size"
                )
        return self._scaled(first), self._scaled(second)

    def depths(self, sample: int) -> tuple[Float32, Float32]:
        """Return both depth maps, (H, W) metres each.

        Raises ShardError where one is damaged, or the pairs have none.
        """
        first, second = self._reader.depths(sample)
        return self._scaled(first), self._scaled(second)

    def cameras(self, sample: int) -> tuple[Camera, Camera]:
        """Return both cameras. Raises ShardError where the record is damaged."""
        first, second = self._reader.cameras(sample)
        size = self.size_of(*first.image_size)
        return first.resized(size), second.resized(size)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size comes in."""
        if self._largest is None or min(height, width) <= self._largest:
            return height, width
        scale = self._largest / min(height, width)
        return round(height * scale), round(width * scale)

    def _scaled(self, image: NDArray[Any]) -> NDArray[Any]:
        """Scale (H, W, 3) bytes smoothly, (H, W) metres to the nearest pixel's."""
        height, width = size = self.size_of(*image.shape[:2])
        if size == image.shape[:2]:
            return image
        how = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(image).resize((width, height), how))

    def where(self, sample: int) -> str:
        """Name a sample for an error message."""
        return self._reader.where(sample)

    def key(self, sample: int) -> tuple[Path, str]:
        """Return a sample's shard, and its key there."""
        shard, _ = self.index.place_of(sample)
        return self.index.path(shard), self._reader.pair(sample, ())[0]


def too_many_damaged(damaged: dict[int, str], most: int) -> CrossviewError:
    """Return the error that stops a run: what was wrong with which sample, the last one last."""
    *_, last = damaged.values()
    return CrossviewError(
        f"{last}\n{len(damaged)} damaged pairs, of which data.max_damaged = {most} may be replaced"
    )


def crop_at(image: UInt8, size: int, position: Float64) -> UInt8:
    """Cut (size, size, 3) out of an image; uniform numbers in [0, 1) make every place equal."""
    row, column = (int(position[axis] * (image.shape[axis] - size + 1)) for axis in range(2))
    return image[row : row + size, column : column + size]


def centre_crop(image: NDArray[Any], size: int) -> NDArray[Any]:
    """Cut the middle (size, size, ...) out of an image."""
    row, column = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[row : row + size, column : column + size]


def centre_cropped(camera: Camera, size: int) -> Camera:
    """Return the camera of a centre crop: the principal point moves with the corner."""
    shift = np.zeros((3, 3))
    shift[0, 2] = (camera.image_size[1] - size) // 2
    shift[1, 2] = (camera.image_size[0] - size) // 2
    return Camera(
        intrinsics=camera.intrinsics - shift,
        world_from_camera=camera.world_from_camera,
        image_size=(size, size),
    )
