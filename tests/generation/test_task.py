"""The same task gives the same pairs: on another machine, and as it did before."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation.overlap import OverlapBand
from generation.pairs import PairConfig
from generation.render_task import RenderTask, render_shards
from generation.scenes.sources import SceneSource
from generation.shard_task import GENERATION_VERSION, ShardConfig
from generation.shards.images import decode_depth_png, decode_jpeg
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import DEPTHS, META, VIEWS, Sidecar, sidecar_path

RECORDED = Path(__file__).with_name("first_pairs.json")
TOLERANCES = {"poses": 1e-5, "covisibility": 1e-3, "colors": 0.1, "depths_m": 1e-3}
"""Rays that are off by 1e-6 of their length change a hundredth to a third of it."""


def first_pairs(folder: Path) -> dict[str, Any]:
    """Return what the first pairs of a room are, in few enough numbers to be kept."""
    task = RenderTask(
        scene=SceneSource(scene_id="procedural-000000", room_seed=0),
        scene_digest="",
        first_index=0,
        count=5,
        seed=0,
        pairs=PairConfig(image_size=(128, 128)),
        shards=ShardConfig(depth=True),
        renderer="embree",
        supersampling=1,
        outputs=((str(folder), OverlapBand()),),
    )
    render_shards(task)
    entry = Sidecar.read(sidecar_path(task.shard_paths[0])).entry
    assert entry
    reader = ShardReader(ShardIndex(folder=folder, config={}, shards=(entry,)))
    pairs = []
    for number in range(entry.count):
        _, (meta, *views) = reader.pair(number, (META, *VIEWS, *DEPTHS))
        record = json.loads(meta)
        pairs.append(
            {
                "poses": [record["world_from_camera1"], record["world_from_camera2"]],
                "covisibility": [record[name] for name in record if "covisibility" in name],
                "colors": [_quarters(decode_jpeg(view)) for view in views[:2]],
                "depths_m": [_quarters(decode_depth_png(view)) for view in views[2:]],
            }
        )
    return {"generation_version": GENERATION_VERSION, "pairs": pairs}


def _quarters(image: Any) -> Any:
    """Return the means of an image's four quarters."""
    height, width = image.shape[:2]
    blocks = image.reshape(2, height // 2, 2, width // 2, -1)
    return blocks.mean(axis=(1, 3), dtype=float).round(4).tolist()


@pytest.fixture(scope="module")
def now(tmp_path_factory) -> dict[str, Any]:
    return first_pairs(tmp_path_factory.mktemp("pairs"))


def test_a_task_gives_the_pairs_that_it_gave(now: dict[str, Any]):
    before = json.loads(RECORDED.read_text())
    renew = f"let `python {Path(__file__).name}` print {RECORDED.name} anew"
    assert now["generation_version"] == before["generation_version"], renew
    for name, most in TOLERANCES.items():
        found, recorded = ([pair[name] for pair in of["pairs"]] for of in (now, before))
        np.testing.assert_allclose(
            found, recorded, rtol=0, atol=most, err_msg=f"raise GENERATION_VERSION; {renew}"
        )


def test_poses_do_not_depend_on_how_blas_multiplies(now: dict[str, Any]):
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    if "DYNAMIC_ARCH" not in blas.get("openblas configuration", ""):
        pytest.skip("needs a numpy whose OpenBLAS chooses its kernels when it is loaded")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs an x86 processor, for the kernels of one without fused multiply-add")
    environment = os.environ | {"OPENBLAS_CORETYPE": "Prescott"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    there = json.loads(done.stdout)
    for pair, other in zip(now["pairs"], there["pairs"], strict=True):
        assert pair["poses"] == other["poses"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(first_pairs(Path(folder))))
