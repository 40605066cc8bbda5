"""Recorded pairs rendered again, from end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from elsewhere import ElsewhereExecutor
from folders import digests
from one_worker import SERIAL
from scipy.spatial.transform import Rotation

from generation.errors import CrossviewError
from generation.regenerate_task import RegenerateTask
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.scenes.scene import joined, transformed
from generation.shards.reader import ShardIndex
from generation.shards.schema import REGENERATED_NAME, ShardError
from generation.shards.verify import verify_dataset
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets import shard_tasks
from pipelines.datasets.regenerate import (
    RegenerateConfig,
    RegenerateResult,
    agreement_table,
    regenerate,
)
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from training.pair_reader import PairReader

MADE_OF = {
    "scenes": ["procedural:0-1"],
    "num_pairs": 10,
    "pairs": {"image_size": [64, 64], "hfov_deg": 65.0},
    "shards": {"pairs_per_shard": 3, "depth": True, "jpeg_quality": 90},
    "renderer": "embree",
    "supersampling": 2,
}


def again(metadata: Path, out: Path, **changes) -> RegenerateResult:
    config = build(RegenerateConfig, {"metadata": str(metadata), **changes}, source="test")
    return regenerate(config, out, SERIAL)


def metas(folder: Path) -> list[dict]:
    urls = [str(folder / entry.name) for entry in ShardIndex.open(folder).shards]
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    return [json.loads(sample["meta.json"]) for sample in samples]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Ten pairs of two generated rooms, in four shards."""
    out = tmp_path_factory.mktemp("own")
    render_pairs(build(RenderPairsConfig, MADE_OF, source="test"), out, SERIAL)
    return out


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> tuple[Path, Path]:
    """A dataset of two scans in files, and their folder."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(("attic", "cellar")):
        export_glb(make_room(seed), folder / f"{name}.glb")
    out = folder / "pairs"
    scenes = [str(folder / "*.glb")]
    config = build(RenderPairsConfig, {**MADE_OF, "scenes": scenes, "num_pairs": 4}, source="test")
    render_pairs(config, out, SERIAL)
    return out, folder


def test_a_dataset_of_ours_gives_the_same_bytes_again(dataset: Path, tmp_path: Path):
    result = again(dataset / "index.json", tmp_path, depth=True)
    assert result.failures == []
    assert digests(tmp_path, "*.tar") == digests(dataset, "*.tar")
    for scene in result.scenes.values():
        for name in ("covisibility", "covisibility_official"):
            assert scene.to_plain()["differences"][name] == {"mean": 0.0, "largest": 0.0}


def test_what_was_made_again_can_be_made_again(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path / "first", resolution=48)
    again(tmp_path / "first", tmp_path / "second")
    assert digests(tmp_path / "first", "*.tar") == digests(tmp_path / "second", "*.tar")


def test_a_scene_as_large_as_none_is_warned_of_once(tmp_path: Path, caplog):
    above = transformed(make_room(1), np.eye(3), np.array([0.0, 200.0, 0.0]))
    export_glb(joined("tower", [make_room(0), above]), tmp_path / "tower.glb")
    scenes = [str(tmp_path / "tower.glb"), "procedural:0"]
    config = build(RenderPairsConfig, {**MADE_OF, "scenes": scenes}, source="test")
    render_pairs(config, tmp_path / "pairs", SERIAL)  # in two shards a scene
    again(tmp_path / "pairs", tmp_path / "again")
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    for message in told:
        assert re.search(r"^tower: it spans .* x 20\d\.\d\d x .* m.*units_to_meters", message)
    assert len(told) == 2


def test_poses_stay_at_another_resolution_and_field_of_view(dataset: Path, tmp_path: Path):
    result = again(dataset, tmp_path, resolution=96, hfov_deg=80.0)
    assert result.index.num_pairs == 10
    for meta, recorded in zip(metas(tmp_path), metas(dataset), strict=True):
        assert meta["image_size"] == [96, 96]
        assert meta["hfov_deg"] == 80.0
        for name in ("scene", "world_from_camera1", "world_from_camera2"):
            assert meta[name] == recorded[name]
    for sample in webdataset.WebDataset(
        str(tmp_path / result.index.shards[0].name), shardshuffle=False
    ):
        assert "depth1.png" not in sample


def test_pictures_are_stored_in_the_recorded_quality_or_another(dataset: Path, tmp_path: Path):
    recorded = again(dataset, tmp_path / "recorded").index
    assert recorded.config["shards"]["jpeg_quality"] == 90
    options = ["--metadata", str(dataset), "--jpeg-quality", "50", "--executor", "serial"]
    assert main(["regenerate", *options, "--out", str(tmp_path / "small")]) == 0
    small = ShardIndex.open(tmp_path / "small")
    assert small.config["shards"]["jpeg_quality"] == 50
    (before,), (after,) = (
        PairReader(index, 64).members(0, ("view1.jpg",)) for index in (recorded, small)
    )
    assert len(after) < len(before)
    assert "--jpeg-quality=50" in (tmp_path / "small" / "README.md").read_text()
    with pytest.raises(CrossviewError, match=r"shards\.jpeg_quality"):
        again(dataset, tmp_path / "small")


def test_what_comes_out_is_a_dataset_as_any_other(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path, resolution=96)
    assert verify_dataset(tmp_path).problems == ()
    assert PairReader(ShardIndex.open(tmp_path), 96).views(0)[0].shape == (96, 96, 3)
    card = (tmp_path / "README.md").read_text()
    assert f"crossview regenerate --metadata {dataset} --resolution=96 --out pairs" in card


@pytest.mark.parametrize("name", ["living-room", "bathroom"])
def test_the_original_numbers_come_out_again(shared_folder: Path, tmp_path: Path, name: str):
    metadata = shared_folder / "habitat_reference" / name / "pairs" / "metadata.json"
    roots = [str(shared_folder / "scenes")]
    result = again(metadata, tmp_path, roots=roots, renderer="embree")
    assert result.failures == []
    plain = json.loads((tmp_path / REGENERATED_NAME).read_text())["scenes"][name]
    assert plain["pairs"] == plain["asked"] == 8
    assert plain["differences"]["covisibility_official"]["largest"] < 0.01
    assert [meta["image_size"] for meta in metas(tmp_path)] == [[256, 256]] * 8
    row = agreement_table(result).splitlines()[-1].split()
    assert [row[0], row[1], row[2], row[-1]] == [name, "8", "8", "ok"]


def written_metadata(folder: Path, dataset: Path, labels: dict[str, str]) -> Path:
    """Write the scenes of a dataset as the original project would have."""
    for scene, label in labels.items():
        values: dict = {"scene": label, "resolution": [64, 64], "hfov": 65.0, "multiviews": {}}
        recorded = [meta for meta in metas(dataset) if meta["scene"] == scene]
        for number, meta in enumerate(recorded):
            poses = [np.array(meta[f"world_from_camera{view}"]) for view in (1, 2)]
            values["multiviews"][f"{number:08d}"] = {
                "positions": [pose[:3, 3].tolist() for pose in poses],
                "orientations": [wxyz(pose[:3, :3]) for pose in poses],
                "pairwise_visibility_ratios": [[1.0, 1.0], [meta["covisibility_official"], 1.0]],
            }
        path = folder / scene / "metadata.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    return folder


def wxyz(world_from_camera: np.ndarray) -> list[float]:
    world_from_habitat = world_from_camera @ np.diag([1.0, -1.0, -1.0])
    x, y, z, w = Rotation.from_matrix(world_from_habitat).as_quat()
    return [w, x, y, z]


def test_a_tar_of_metadata_and_a_missing_scene(scans, tmp_path: Path, capsys):
    dataset, folder = scans
    labels = {"attic": "set/train/attic.glb", "cellar": "set/train/elsewhere.glb"}
    written = written_metadata(tmp_path / "metadata", dataset, labels)
    archive = tmp_path / "metadata.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(written, "published")
    out = tmp_path / "out"
    status = main(
        ["regenerate", "--metadata", str(archive), "--root", str(folder), "--up", "y",
         "--renderer", "embree", "--executor", "serial", "--out", str(out)]
    )  # fmt: skip
    assert status == 2
    printed = capsys.readouterr()
    assert "elsewhere: set/train/elsewhere.glb was not found below" in printed.err
    report = json.loads((out / REGENERATED_NAME).read_text())["scenes"]
    assert [report["attic"]["pairs"], report["elsewhere"]["pairs"]] == [2, 0]
    assert report["attic"]["failures"] == []
    # One sample a pixel here, four there: the depths, and so the numbers, are the same.
    assert report["attic"]["differences"]["covisibility_official"]["largest"] < 1e-3
    assert ShardIndex.open(out).scenes == ("attic",)
    assert ShardIndex.open(out).config["shards"]["jpeg_quality"] == 75


def test_scenes_that_moved_are_found_below_a_root(scans, tmp_path: Path):
    dataset, folder = scans
    moved = tmp_path / "disk" / "scans" / "deep"
    moved.mkdir(parents=True)
    elsewhere = tmp_path / "pairs"
    elsewhere.mkdir()
    for path in dataset.iterdir():
        if path.suffix in (".tar", ".json") and path.name != "config.json":
            (elsewhere / path.name).write_bytes(path.read_bytes())
    for name in ("attic", "cellar"):
        (moved / f"{name}.glb").write_bytes((folder / f"{name}.glb").read_bytes())
    other = tmp_path / "disk" / "another" / "attic.glb"  # of this name, but not what was recorded
    other.parent.mkdir()
    other.write_bytes((folder / "cellar.glb").read_bytes())
    with pytest.raises(CrossviewError, match="name the folder of the scenes with --root"):
        again(elsewhere, tmp_path / "nowhere")
    again(elsewhere, tmp_path / "out", roots=[str(tmp_path / "disk")], depth=True)
    assert digests(tmp_path / "out", "*.tar") == digests(dataset, "*.tar")


@pytest.fixture(scope="module")
def same_names(tmp_path_factory) -> tuple[Path, Path]:
    """A dataset of scans that all have one file name, and the folder of their folders."""
    folder = tmp_path_factory.mktemp("same_names")
    for seed, name in enumerate(("attic", "cellar")):
        (folder / name).mkdir()
        export_glb(make_room(seed), folder / name / "mesh.glb")
    scenes = [str(folder / name) for name in ("attic", "cellar")]
    values = {**MADE_OF, "scenes": scenes, "num_pairs": 4}
    out = folder / "pairs"
    render_pairs(build(RenderPairsConfig, values, source="test"), out, SERIAL)
    return out, folder


def test_each_of_several_roots_is_looked_into_for_the_recorded_file(same_names, tmp_path: Path):
    dataset, folder = same_names
    (tmp_path / "pairs").mkdir()
    for path in dataset.glob("*.[tj]*"):
        if path.name != "config.json":
            (tmp_path / "pairs" / path.name).write_bytes(path.read_bytes())
    roots = [str(folder / name) for name in ("cellar", "attic")]
    result = again(tmp_path / "pairs", tmp_path / "out", roots=roots, depth=True)
    assert result.failures == []
    assert digests(tmp_path / "out", "*.tar") == digests(dataset, "*.tar")


def test_a_file_of_the_name_of_several_scenes_is_not_taken_for_another_one(
    same_names, tmp_path: Path
):
    dataset, folder = same_names
    root = tmp_path / "scans" / "attic"
    root.mkdir(parents=True)
    (root / "mesh.glb").write_bytes((folder / "attic" / "mesh.glb").read_bytes())
    (tmp_path / "pairs").mkdir()
    for path in dataset.glob("*.[tj]*"):
        (tmp_path / "pairs" / path.name).write_bytes(path.read_bytes())
    roots = [str(tmp_path / "scans")]
    result = again(tmp_path / "pairs", tmp_path / "both", roots=roots)
    assert result.failures == []  # the other is where config.json says
    (tmp_path / "pairs" / "config.json").unlink()
    result = again(tmp_path / "pairs", tmp_path / "one", roots=roots)
    (failure,) = result.failures
    assert f"{root}/mesh.glb is another file than cellar-mesh was recorded from" in failure
    assert [scene.done for scene in result.scenes.values()] == [2, 0]


def test_scenes_are_found_where_they_were_though_others_have_moved(scans, tmp_path: Path):
    dataset, folder = scans
    (tmp_path / "pairs").mkdir()
    for path in dataset.glob("*.[tj]*"):
        (tmp_path / "pairs" / path.name).write_bytes(path.read_bytes())
    config = json.loads((dataset / "config.json").read_text())
    config["config"]["scenes"] = ["/nowhere/*.glb", str(folder / "*.glb")]
    (tmp_path / "pairs" / "config.json").write_text(json.dumps(config))
    again(tmp_path / "pairs", tmp_path / "out", depth=True)
    assert digests(tmp_path / "out", "*.tar") == digests(dataset, "*.tar")


def test_scenes_are_found_where_they_were(scans, tmp_path: Path):
    dataset, _ = scans
    again(dataset, tmp_path, depth=True)
    assert digests(tmp_path, "*.tar") == digests(dataset, "*.tar")


def test_a_broken_scene_is_reported_and_the_others_finish(scans, tmp_path: Path):
    dataset, folder = scans
    root = tmp_path / "scans"
    root.mkdir()
    (root / "attic.glb").write_bytes(b"not a mesh")
    (root / "cellar.glb").write_bytes((folder / "cellar.glb").read_bytes())
    result = again(dataset, tmp_path / "out", roots=[str(root)])
    assert len(result.failures) == 1
    assert "attic" in result.failures[0]
    assert [result.scenes[name].done for name in ("attic", "cellar")] == [0, 2]


def test_the_same_command_again_renders_nothing(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    reports = digests(tmp_path, "*.json")
    again(dataset, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")} == before
    assert digests(tmp_path, "*.json") == reports


def test_only_what_is_missing_is_made_again(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    whole = digests(tmp_path, "*.tar")
    lost = min(before)
    (tmp_path / lost).unlink()
    again(dataset, tmp_path)
    assert digests(tmp_path, "*.tar") == whole
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert {name for name in after if after[name] != before[name]} == {lost}


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path / "undisturbed", resolution=192)
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "pipelines.cli", "regenerate", "--metadata", str(dataset),
        "--resolution", "192", "--executor", "serial", "--out", str(out),
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)
    deadline = time.monotonic() + 180
    while not list(out.glob("*.tar")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("*.tar"))) < 4
    subprocess.run(command, check=True, **quiet)
    assert digests(out, "*.tar") == digests(tmp_path / "undisturbed", "*.tar")
    assert digests(out, "*-*.json") == digests(tmp_path / "undisturbed", "*-*.json")
    assert list(out.glob(".*.partial")) == []


def moved(task: RegenerateTask) -> RegenerateTask:
    folder = Path(f"{task.out}-elsewhere")
    folder.mkdir(exist_ok=True)
    return replace(task, out=str(folder))


def test_shards_that_the_driver_does_not_see_are_told(dataset: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shard_tasks, "VISIBLE_SECONDS", 0.5)
    config = build(RegenerateConfig, {"metadata": str(dataset)}, source="test")
    result = regenerate(config, tmp_path / "out", ElsewhereExecutor(moved=moved))
    assert len(result.failures) == 4
    assert "every machine must see the same folder" in result.failures[0]


def test_a_damaged_record_of_a_finished_shard_is_named(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path)
    tar = min(tmp_path.glob("*.tar"))
    contents = bytearray(tar.read_bytes())
    contents[contents.index(b'"covisibility"')] ^= 0xFF
    tar.write_bytes(contents)
    with pytest.raises(ShardError, match=r"sample '.*', meta.json: damaged"):
        again(dataset, tmp_path)


def test_a_record_of_no_pairs_is_refused(scans, tmp_path: Path):
    written = written_metadata(tmp_path / "metadata", scans[0], {"attic": "attic.glb"})
    path = written / "attic" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "multiviews": {}}))
    with pytest.raises(CrossviewError, match="it records no pairs"):
        again(written, tmp_path / "out")


def test_another_camera_in_the_same_folder_is_refused(dataset: Path, tmp_path: Path):
    again(dataset, tmp_path)
    with pytest.raises(CrossviewError, match=r"pairs\.image_size"):
        again(dataset, tmp_path, resolution=96)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"resolution": 8}, "resolution = 8: expected at least 16"),
        ({"hfov_deg": 200.0}, "hfov_deg = 200.0: expected 1 to 170"),
        ({"renderer": "povray"}, "renderer = 'povray': expected one of"),
        ({"jpeg_quality": 0}, "jpeg_quality = 0: expected 1 to 100"),
        ({"up": "w"}, "up = 'w': expected one of"),
        ({"roots": ["gone"]}, "gone: no such folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    dataset: Path, tmp_path: Path, changes: dict, complaint: str
):
    with pytest.raises(CrossviewError, match=complaint):
        again(dataset, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metadata", [".", "index.json"])
def test_what_is_recorded_is_not_written_over(dataset: Path, metadata: str):
    before = digests(dataset)
    with pytest.raises(CrossviewError, match="holds what is recorded; choose another --out"):
        again(dataset / metadata, dataset, resolution=32)
    assert digests(dataset) == before


def test_pairs_may_go_beside_the_archive_that_records_them(scans, tmp_path: Path):
    dataset, folder = scans
    labels = {"attic": "attic.glb", "cellar": "cellar.glb"}
    written = written_metadata(tmp_path / "metadata", dataset, labels)
    archive = shutil.make_archive(str(tmp_path / "out" / "metadata"), "gztar", written)
    given = {"roots": [str(folder)], "up": "y", "renderer": "embree"}
    assert again(Path(archive), tmp_path / "out", **given).index.num_pairs == 4


def test_a_sidecar_of_another_kind_is_refused(dataset: Path, tmp_path: Path):
    for path in dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sidecar = max(tmp_path.glob("procedural-*.json"))
    values = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**values, "task": {"scene": {"colour": "red"}}}))
    with pytest.raises(CrossviewError, match="not pairs of this version"):
        again(tmp_path, tmp_path / "out")


def test_pairs_of_several_cameras_need_a_choice(scans, tmp_path: Path):
    dataset, folder = scans
    labels = {"attic": "attic.glb", "cellar": "cellar.glb"}
    written = written_metadata(tmp_path / "metadata", dataset, labels)
    path = written / "cellar" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resolution": [128, 128]}))
    given = {"roots": [str(folder)], "up": "y", "renderer": "embree"}
    with pytest.raises(CrossviewError, match="choose one with --resolution"):
        again(written, tmp_path / "out", **given)
    assert again(written, tmp_path / "out", resolution=64, **given).index.num_pairs == 4
