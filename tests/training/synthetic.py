"""Tiny datasets in closed form: textured planes seen by two cameras side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from generation.geometry import Camera
from generation.shards.images import encode_depth_png, encode_jpeg
from generation.shards.reader import ShardIndex
from generation.shards.schema import Sidecar
from generation.shards.writer import open_shard
from generation.view import View

HFOV_DEG = 60.0


def texture(generator, size):
    """(size, size, 3) smooth random colours plus finer ones, as bytes."""
    image = np.zeros((size, size, 3))
    for cells, weight in ((4, 0.5), (16, 0.35), (size // 4, 0.15)):
        coarse = generator.random((cells, cells, 3))
        index = np.arange(size) * cells // size
        image += weight * coarse[np.ix_(index, index)]
    return (image * 255).astype(np.uint8)


def plane_pair(generator, size, shift_px, depth_m=2.0):
    """A frontal plane at depth_m; camera 2 stands so that the image moves left by shift_px."""
    height = width = size
    wide = texture(generator, width + 2 * size)[:height]
    view1 = wide[:, size : size + width]
    view2 = wide[:, size + shift_px : size + shift_px + width]
    camera = Camera.from_hfov(HFOV_DEG, (height, width), np.eye(4))
    second = np.eye(4)
    second[0, 3] = shift_px * depth_m / camera.intrinsics[0, 0]
    meta = {
        "image_size": [height, width],
        "hfov_deg": HFOV_DEG,
        "intrinsics": camera.intrinsics.tolist(),
        "world_from_camera1": np.eye(4).tolist(),
        "world_from_camera2": second.tolist(),
    }
    depth = np.full((height, width), depth_m, np.float32)
    return view1, view2, depth, meta


def view_of(camera, depth_m):
    """What a camera sees, of which the colours do not matter."""
    return View(camera=camera, color=np.zeros((*depth_m.shape, 3), np.uint8), depth_m=depth_m)


def pair_members(generator, size, shift_px, with_depth):
    view1, view2, depth, meta = plane_pair(generator, size, shift_px)
    members = {
        "view1.jpg": encode_jpeg(np.ascontiguousarray(view1), 95),
        "view2.jpg": encode_jpeg(np.ascontiguousarray(view2), 95),
        "meta.json": json.dumps(meta).encode(),
    }
    if with_depth:
        members |= {"depth1.png": encode_depth_png(depth), "depth2.png": encode_depth_png(depth)}
    return members


def write_dataset(
    folder: Path, scenes=4, pairs=12, size=36, shards=1, with_depth=True, first_scene=0
) -> Path:
    """Write a dataset of this many scenes, each of shards x pairs plane pairs of size x size."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for scene in range(first_scene, first_scene + scenes):
        for shard in range(shards):
            generator = np.random.default_rng([scene, shard])
            path = folder / f"scene{scene}-{shard:04d}.tar"
            with open_shard(path, f"scene{scene}") as writer:
                for i in range(pairs):
                    members = pair_members(generator, size, 6 * i % 25, with_depth)
                    writer.add(f"scene{scene}_{shard}_{i:04d}", members)
            assert writer.entry
            sidecar = Sidecar(
                entry=writer.entry, task={}, samples=writer.samples, attempts=pairs, rejections={}
            )
            sidecar.write(path)
            entries.append(writer.entry)
    ShardIndex(folder=folder, config={"seed": 0}, shards=tuple(entries)).write()
    return folder
