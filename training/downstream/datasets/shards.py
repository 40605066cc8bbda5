"""Our own shards: every truth that their depth and cameras imply."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from generation.geometry import Bool, Float32
from generation.shards.reader import SampleError, ShardIndex
from generation.shards.schema import DEPTHS, MEND
from generation.view import View
from generation.visibility import seen_pixels
from training.correspondence import places_in
from training.data import DataConfig, open_split, without_rooms_of
from training.downstream.example import Example, Examples, Splits
from training.pair_reader import PairReader


def open_shards(root: Path, *, val_root: Path | None = None) -> Splits:
    """Open a folder or URL of shards with depth; the views of a pair are an example's images.

    The same scenes are held out as in pre-training on the same folder, where data.val_scenes was
    not set. With val_root, all of that folder is judged on, and its scenes are left out of
    training, which may leave none. Raises CrossviewError where there are no shards, or none with
    depth.
    """
    config = DataConfig(path=root, val_path=val_root)
    split = open_split(config)
    train = without_rooms_of(split.val.scenes, split.train)
    return Splits(train=_Pairs(train, config), val=_Pairs(split.val, config))


def open_all(root: Path) -> Examples:
    """Open all scenes of a folder or URL of shards, as open_shards does."""
    return open_shards(root, val_root=root).val


class _Pairs:
    """The pairs of some shards. Cheap to pickle and fork.

    Remote shards are kept on a local disk where there is room for all of them; else they are asked
    for what is needed of each pair: here, unlike in pre-training, that may be any pair.
    """

    def __init__(self, index: ShardIndex, config: DataConfig) -> None:
        num_bytes = sum(e.size_bytes for i, e in enumerate(index.shards) if index.is_remote(i))
        fits = num_bytes <= config.cache.max_bytes
        self._pairs = PairReader(index, 1, config.cache if fits else None)
        if len(self):
            self._pairs.members(0, DEPTHS)  # rendered without depth: better said now

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pairs) and self._pairs.index == other._pairs.index

    def __len__(self) -> int:
        return self._pairs.num_pairs

    def __getitem__(self, number: int) -> Example:
        images = self._pairs.views(number)
        depth1_m, depth2_m = self._pairs.depths(number)
        camera1, camera2 = self._pairs.cameras(number)
        sizes = {array.shape[:2] for array in (*images, depth1_m, depth2_m)}
        if sizes != {camera1.image_size}:
            listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
            raise SampleError(
                f"{self._pairs.where(number)}: images and depth of {listed} pixels, but its "
                f"cameras' have {camera1.image_size[0]} x {camera1.image_size[1]}; {MEND}"
            )
        flow, occluded = reprojected(
            View(camera=camera1, color=images[0], depth_m=depth1_m),
            View(camera=camera2, color=images[1], depth_m=depth2_m),
        )
        return Example(
            name=self._name(number),
            images=images,
            truth={
                "depth_m": np.where(depth1_m > 0, depth1_m, np.float32("nan")),
                "depth2_m": np.where(depth2_m > 0, depth2_m, np.float32("nan")),
                "flow": flow,
                "occluded": occluded,
                "intrinsics1": camera1.intrinsics,
                "intrinsics2": camera2.intrinsics,
                "camera2_from_camera1": camera2.camera_from_world @ camera1.world_from_camera,
            },
        )

    def _name(self, number: int) -> str:
        path, key = self._pairs.key(number)
        return f"{path.stem}/{key}"


def reprojected(view1: View, view2: View) -> tuple[Float32, Bool]:
    """Return flow, (H, W, 2) pixels from the first view to the second, and (H, W) occluded.

    Flow is NaN where the first view has no depth, where its point lies behind the second camera,
    and where it is wider or higher than the image: nothing that the second view shows moves so far,
    and near the plane of its camera flow has no bound (9e6 pixels, once, in rooms of 96 x 96; the
    median is 17). Occluded is what has depth and is not co-visible.
    """
    height, width = view1.depth_m.shape
    pixels = places_in(view2.camera, view1.camera.unproject(view1.depth_m))
    own = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
    hit = view1.depth_m > 0
    flow = pixels.reshape(height, width, 2) - own
    known = hit & (np.abs(flow) <= (width, height)).all(-1)
    flow = np.where(known[..., None], flow, np.nan).astype(np.float32)
    return flow, hit & ~seen_pixels(view1, view2)
