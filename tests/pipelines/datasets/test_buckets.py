"""Datasets and scenes behind URLs, on a real S3 server on loopback."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_worker import SERIAL
from s3_store import reached_as_s3, s3_server

from generation.errors import CrossviewError
from generation.locations import filesystem, location
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.scenes.sources import resolve_scenes
from generation.shards.reader import ShardIndex, ShardReader
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from pipelines.executors.choice import make_executor
from pipelines.scene_sets import scene_sets

SMALL = {
    "scenes": ["procedural:0-1"],
    "num_pairs": 6,
    "pairs": {"image_size": [48, 48]},
    "shards": {"pairs_per_shard": 2, "depth": True},
    "renderer": "embree",
}


def config_of(**changes) -> RenderPairsConfig:
    return build(RenderPairsConfig, SMALL | changes, source="test")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the URL of an empty bucket of moto's server, which other processes reach as well."""
    with s3_server() as server, reached_as_s3(*server):
        # A worker that is there already has the environment of its own start.
        SERIAL.close()
        location("s3://pairs").mkdir()
        yield "s3://pairs"
        SERIAL.close()


def local_digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".tar", ".json")
    }


def remote_digests(url: str) -> dict[str, str]:
    store, key = filesystem(location(url))
    store.invalidate_cache()
    return {
        path.rpartition("/")[2]: hashlib.sha256(store.cat_file(path)).hexdigest()
        for path in store.find(key)
        if path.endswith((".tar", ".json"))
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    render_pairs(config_of(), folder, SERIAL)
    return folder


@pytest.fixture(scope="module")
def remote(bucket: str) -> str:
    with make_executor("ray", num_workers=2) as executor:
        result = render_pairs(config_of(), location(f"{bucket}/pairs"), executor)
    assert result.num_pairs == 6
    return f"{bucket}/pairs"


def test_a_bucket_gets_the_bytes_that_a_folder_gets(remote: str, local: Path):
    assert remote_digests(remote) == local_digests(local)


def test_pairs_are_read_by_offset_from_a_bucket(remote: str, local: Path):
    there, here = ShardReader(ShardIndex.open(remote)), ShardReader(ShardIndex.open(local))
    for shard in range(len(here.index.shards)):
        endings = ("view1.jpg", "meta.json", "depth2.png")
        assert there.read(shard, 0, endings) == here.read(shard, 0, endings)


def test_only_what_is_missing_in_a_bucket_is_made_again(remote: str, local: Path):
    store, key = filesystem(location(remote))
    store.rm_file(f"{key}/procedural-000001-000002.tar")
    store.rm_file(f"{key}/procedural-000000-000000.json")
    result = render_pairs(config_of(), location(remote), SERIAL)
    assert len(result.reports) == 2
    assert remote_digests(remote) == local_digests(local)


@pytest.mark.slow
def test_a_run_into_a_bucket_that_was_killed_goes_on(bucket: str, local: Path, tmp_path: Path):
    url = f"{bucket}/killed"
    (tmp_path / "config.yaml").write_text(json.dumps(SMALL))
    command = [
        sys.executable, "-m", "pipelines.cli", "render-pairs", "--config",
        str(tmp_path / "config.yaml"), "--executor", "serial", "--out", url,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 180
    while not [name for name in remote_digests(url) if name.endswith(".tar")]:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert remote_digests(url) == local_digests(local)


def test_scenes_are_read_from_a_bucket(bucket: str, tmp_path: Path):
    for seed in (0, 1):
        export_glb(make_room(seed), tmp_path / f"scan{seed}.glb")
    (tmp_path / "scan1.stage_config.json").write_text(
        json.dumps({"render_asset": "scan1.glb", "up": [0, 1, 0], "front": [0, 0, -1]})
    )
    store, _ = filesystem(location(bucket))
    for path in tmp_path.iterdir():
        store.put_file(str(path), f"pairs/scans/{path.name}")
    config = config_of(scenes=[f"{bucket}/scans/*.glb"], num_pairs=2)
    assert [source.scene_id for source in resolve_scenes(list(config.scenes))] == ["scan0", "scan1"]
    remote = render_pairs(config, tmp_path / "remote", SERIAL)
    here = config_of(scenes=[str(tmp_path / "*.glb")], num_pairs=2)
    there = render_pairs(here, tmp_path / "here", SERIAL)
    assert [e.sha256 for e in remote.index.shards] == [e.sha256 for e in there.index.shards]
    # An edited scan is rendered anew.
    assert render_pairs(config, tmp_path / "remote", SERIAL).reports == []
    export_glb(make_room(2), tmp_path / "scan0.glb")
    store.put_file(str(tmp_path / "scan0.glb"), "pairs/scans/scan0.glb")
    assert len(render_pairs(config, tmp_path / "remote", SERIAL).reports) == 1


def test_a_set_is_found_in_a_bucket(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    store, _ = filesystem(location(bucket))
    for seed in (0, 1):
        name = f"room000000{seed}"
        export_glb(make_room(seed), tmp_path / "room.glb")
        store.put_file(str(tmp_path / "room.glb"), f"pairs/hm3d/train/0080{seed}-{name}/{name}.glb")
    store.put_file(str(tmp_path / "room.glb"), "pairs/hm3d/train/00900-empty/notes.txt")
    assert main(["scenes", "--set", "hm3d", "--root", f"{bucket}/hm3d", "--split", "train"]) == 0
    said = capsys.readouterr().out
    assert "there is no" in said
    assert f"--scenes hm3d/train:{bucket}/hm3d" in said
    sources = resolve_scenes([f"hm3d:{bucket}/hm3d"], sets=scene_sets())
    assert sources[0].path == f"{bucket}/hm3d/train/00800-room0000000/room0000000.glb"
    assert [source.load().num_faces for source in sources[:2]] == [
        make_room(seed).num_faces for seed in (0, 1)
    ]


def test_pairs_are_rendered_again_from_a_bucket_into_one(remote: str, bucket: str):
    out = f"{bucket}/again"
    words = ["--metadata", remote, "--resolution", "32", "--executor", "serial", "--out", out]
    assert main(["regenerate", *words]) == 0
    index = ShardIndex.open(out)
    assert index.num_pairs == 6
    _, (data,) = ShardReader(index).read(0, 0, ("meta.json",))
    _, (before,) = ShardReader(ShardIndex.open(remote)).read(0, 0, ("meta.json",))
    assert json.loads(data)["image_size"] == [32, 32]
    assert json.loads(data)["world_from_camera1"] == json.loads(before)["world_from_camera1"]


def test_published_metadata_and_its_scenes_are_read_from_a_bucket(
    bucket: str, shared_folder: Path, tmp_path: Path
):
    metadata = shared_folder / "habitat_reference" / "living-room" / "pairs" / "metadata.json"
    store, _ = filesystem(location(bucket))
    with tarfile.open(tmp_path / "metadata.tar.gz", "w:gz") as tar:
        tar.add(metadata, "living-room/metadata.json")
    store.put_file(str(tmp_path / "metadata.tar.gz"), "pairs/record/metadata.tar.gz")
    for name in ("living-room.glb", "living-room.stage_config.json"):
        store.put_file(str(shared_folder / "scenes" / name), f"pairs/real/{name}")
    words = ["--metadata", f"{bucket}/record/metadata.tar.gz", "--root", f"{bucket}/real"]
    words += ["--resolution", "32", "--out", str(tmp_path / "out")]
    assert main(["regenerate", *words, "--executor", "serial"]) == 0
    assert ShardIndex.open(tmp_path / "out").num_pairs > 0


def test_a_missing_scene_in_a_bucket_fails_alone(bucket: str, tmp_path: Path):
    config = config_of(scenes=[f"{bucket}/gone.glb", "procedural:0"], num_pairs=2)
    result = render_pairs(config, tmp_path, SERIAL)
    assert result.num_pairs == 1
    (failure,) = result.failures
    assert failure == "gone: s3://pairs/gone.glb: no such file"


def test_a_scheme_that_nothing_opens_is_refused():
    with pytest.raises(CrossviewError, match="nowhere://x: cannot be opened here"):
        location("nowhere://x")
