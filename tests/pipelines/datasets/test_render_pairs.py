"""Datasets from end to end: who does the work never shows, and nothing half-written is read."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from folders import digests
from one_worker import SERIAL

from generation.covisibility import measure_pair
from generation.errors import CrossviewError
from generation.geometry import Camera
from generation.render_task import render_shards
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.shard_task import remove_other_sidecar
from generation.shards.images import decode_depth_png
from generation.shards.reader import ShardIndex
from generation.shards.schema import ShardError, Sidecar, sidecar_path
from generation.view import View
from pipelines.config import build
from pipelines.datasets.render_pairs import (
    RenderPairsConfig,
    plan_tasks,
    render_pairs,
    summary_table,
)
from pipelines.executors.on_ray import RayExecutor
from pipelines.executors.serial import SerialExecutor
from pipelines.executors.worker import Limits

SMALL = {
    "scenes": ["procedural:0-1"],
    "num_pairs": 14,
    "pairs": {"image_size": [64, 64]},
    "shards": {"pairs_per_shard": 4, "depth": True},
}


def config_of(**changes) -> RenderPairsConfig:
    return build(RenderPairsConfig, SMALL | changes, source="test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("serial")
    render_pairs(config_of(), out, SERIAL)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_ray_writes_the_bytes_that_the_serial_executor_writes(
    dataset: Path, tmp_path: Path, num_workers: int
):
    executor = RayExecutor(num_workers=num_workers)
    try:
        render_pairs(config_of(), tmp_path, executor)
    finally:
        executor.close()
    assert digests(tmp_path) == digests(dataset)


def test_plain_webdataset_reads_what_the_schema_promises(dataset: Path):
    index = ShardIndex.open(dataset)
    urls = [str(dataset / entry.name) for entry in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == index.num_pairs == 14
    assert len({sample["__key__"] for sample in samples}) == 14
    for sample in samples:
        assert "." not in sample["__key__"]
        meta = sample["meta.json"]
        assert set(meta) >= {
            "scene", "renderer", "image_size", "hfov_deg", "intrinsics", "world_from_camera1",
            "world_from_camera2", "covisibility", "covisibility_1_in_2", "covisibility_2_in_1",
            "covisibility_official",
        }  # fmt: skip
        assert sample["view1.jpg"].shape == sample["view2.jpg"].shape == (64, 64, 3)
        assert 0.4 <= meta["covisibility"] <= 0.6
        assert meta["covisibility"] == min(meta["covisibility_1_in_2"], meta["covisibility_2_in_1"])
        assert meta["renderer"] == "embree"


def test_a_recorded_pair_can_be_rendered_again(dataset: Path):
    renderer = EmbreeRenderer(make_room(0))
    urls = [str(dataset / entry.name) for entry in ShardIndex.open(dataset).shards[:1]]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        meta = json.loads(sample["meta.json"])
        views: list[View] = []
        for number in (1, 2):
            camera = Camera(
                intrinsics=np.array(meta["intrinsics"]),
                world_from_camera=np.array(meta[f"world_from_camera{number}"]),
                image_size=tuple(meta["image_size"]),
            )
            views.append(renderer.render(camera))
            depth_m = decode_depth_png(sample[f"depth{number}.png"])
            np.testing.assert_allclose(views[-1].depth_m, depth_m, atol=0.00051)
        again = measure_pair(*views)
        assert again.covisibility == meta["covisibility"]
        assert again.covisibility_official == meta["covisibility_official"]


def test_sidecars_account_for_every_proposal(dataset: Path):
    for entry in ShardIndex.open(dataset).shards:
        sidecar = Sidecar.read(sidecar_path(dataset / entry.name))
        assert sidecar.attempts == entry.count + sum(sidecar.rejections.values())
        assert entry.sha256 == hashlib.sha256((dataset / entry.name).read_bytes()).hexdigest()


class CountingExecutor:
    """Remembers what it was asked to do."""

    def run(self, function, tasks, **options):
        tasks = list(tasks)
        self.asked = [f"{task.name}.tar" for task in tasks]
        yield from SERIAL.run(function, tasks, **options)


def copy_of(dataset: Path, folder: Path) -> Path:
    for path in dataset.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_same_command_again_does_nothing(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    executor = CountingExecutor()
    render_pairs(config_of(), tmp_path, executor)
    assert executor.asked == []
    assert digests(tmp_path) == digests(dataset)


@pytest.mark.parametrize("damage", ["no sidecar", "no tar", "short tar", "unreadable sidecar"])
def test_only_what_is_missing_is_made_again(dataset: Path, tmp_path: Path, damage: str):
    copy_of(dataset, tmp_path)
    tar = tmp_path / ShardIndex.open(tmp_path).shards[1].name
    if damage == "no sidecar":
        sidecar_path(tar).unlink()
    elif damage == "no tar":
        tar.unlink()
    elif damage == "short tar":
        tar.write_bytes(tar.read_bytes()[:1000])
    else:
        sidecar_path(tar).write_text("{")
    executor = CountingExecutor()
    result = render_pairs(config_of(), tmp_path, executor)
    assert executor.asked == [tar.name]
    assert digests(tmp_path) == digests(dataset)
    made = ShardIndex.open(dataset).shards[1].count
    assert sum(summary.made for summary in result.summaries.values()) == made


def test_a_task_leaves_its_own_sidecar_and_removes_that_of_another(dataset: Path, tmp_path: Path):
    """Where two runs work in one bucket, what the other has finished stays finished."""
    copy_of(dataset, tmp_path)
    task = plan_tasks(config_of(), tmp_path)[0]
    path = sidecar_path(task.shard_paths[0])
    remove_other_sidecar(task.shard_paths[0], task.identity, "another driver's")
    assert not path.exists()
    render_shards(task)
    written = path.read_bytes()
    remove_other_sidecar(task.shard_paths[0], task.identity, Sidecar.read(path).device)
    assert path.read_bytes() == written
    remove_other_sidecar(task.shard_paths[0], {**task.identity, "seed": 1}, "")
    assert not path.exists()
    remove_other_sidecar(task.shard_paths[0], task.identity, "")


def with_another_byte(dataset: Path) -> Path:
    """Change a byte in the middle of the third shard; return its path."""
    tar = dataset / ShardIndex.open(dataset).shards[2].name
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 0xFF
    tar.write_bytes(data)
    return tar


def test_verify_makes_a_shard_anew_whose_bytes_changed(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    tar = with_another_byte(tmp_path)
    executor = CountingExecutor()
    render_pairs(config_of(), tmp_path, executor)
    assert executor.asked == []
    render_pairs(config_of(), tmp_path, executor, verify=True)
    assert executor.asked == [tar.name]
    assert digests(tmp_path) == digests(dataset)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values["entry"].update(scene="another"),
        lambda values: values["entry"].update(name="another.tar"),
        lambda values: values.update(entry=None),
        lambda values: values.update(rejections=None),
        lambda values: values.update(attempts="many"),
    ],
)
def test_a_shard_whose_sidecar_contradicts_it_is_made_anew(dataset: Path, tmp_path: Path, damage):
    copy_of(dataset, tmp_path)
    path = min(tmp_path.glob("procedural-*.json"))
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values, indent=1) + "\n")
    render_pairs(config_of(), tmp_path, SERIAL)
    assert digests(tmp_path) == digests(dataset)


@pytest.mark.parametrize("damage", ["another scene", "twice"])
def test_an_index_that_is_wrong_of_shards_of_the_run_is_written_anew(
    dataset: Path, tmp_path: Path, damage: str
):
    copy_of(dataset, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    if damage == "twice":
        index["shards"].append(index["shards"][0])
    else:
        index["shards"][0]["scene"] = "another"
    (tmp_path / "index.json").write_text(json.dumps(index))
    render_pairs(config_of(), tmp_path, SERIAL)
    assert digests(tmp_path) == digests(dataset)


def test_a_damaged_shard_that_could_not_be_made_anew_is_not_listed(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    tar = with_another_byte(tmp_path)
    in_no_time = SerialExecutor(limits=Limits(seconds=0.01))
    result = render_pairs(config_of(), tmp_path, in_no_time, verify=True)
    assert len(result.failures) == 1
    assert tar.name not in {entry.name for entry in ShardIndex.open(tmp_path).shards}


def test_scans_that_cannot_be_read_lose_nothing_that_is_finished(tmp_path: Path):
    scan, out = tmp_path / "scan.glb", tmp_path / "out"
    export_glb(make_room(0), scan)
    config = config_of(scenes=[str(scan)], num_pairs=1)
    render_pairs(config, out, SERIAL)
    before = digests(out)
    scan.rename(tmp_path / "away")
    scan.symlink_to(tmp_path / "nowhere")
    executor = CountingExecutor()
    assert render_pairs(config, out, executor).num_pairs == 1
    assert executor.asked == []
    assert digests(out) == before


def test_an_edited_scan_is_rendered_anew(tmp_path: Path):
    export_glb(make_room(0), tmp_path / "scan.glb")
    config = config_of(scenes=[str(tmp_path / "scan.glb")], num_pairs=1)
    out = tmp_path / "out"
    before = render_pairs(config, out, SERIAL).index
    assert render_pairs(config, out, SERIAL).reports == []
    export_glb(make_room(1), tmp_path / "scan.glb")
    after = render_pairs(config, out, SERIAL).index
    assert before.shards[0].sha256 != after.shards[0].sha256


def test_a_second_run_on_the_same_folder_is_refused(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    with open(tmp_path / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CrossviewError, match="another run is writing"):
            render_pairs(config_of(), tmp_path, SERIAL)
    render_pairs(config_of(), tmp_path, SERIAL)


@pytest.mark.parametrize("stays", [True, False])
def test_shards_that_stay_keep_the_versions_that_made_them(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stays: bool
):
    path = copy_of(dataset, tmp_path) / "config.json"
    now = json.loads(path.read_text())
    before = {**now["versions"], "numpy": "1.0"}
    path.write_text(json.dumps({**now, "versions": before}))
    for tar in tmp_path.glob("*.tar"):
        if not stays or "000000" in tar.name:
            tar.unlink()
    render_pairs(config_of(), tmp_path, SERIAL)
    assert json.loads(path.read_text())["versions"] == (before if stays else now["versions"])
    told = f"numpy: 1.0 before, {np.__version__} now"
    assert (told in caplog.text) == stays
    assert json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[-1])["versions"] == [
        now["versions"]
    ]


def test_a_dataset_grows_without_losing_what_it_has(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    executor = CountingExecutor()
    result = render_pairs(config_of(num_pairs=16), tmp_path, executor)
    # Seven pairs a scene were shards of 4 and 3; the short ones are made anew, with 4.
    assert executor.asked == ["procedural-000000-000004.tar", "procedural-000001-000004.tar"]
    assert result.index.num_pairs == 16


@pytest.mark.parametrize(
    ("fewer", "asked"),
    [
        ({"num_pairs": 13}, "13: give"),
        ({"scenes": ["procedural:0"]}, "14, none of them of procedural-000001: give"),
        ({"scenes": ["nowhere.glb"]}, "14, none of them of procedural-000000, procedural-000001:"),
    ],
)
def test_a_dataset_does_not_shrink(dataset: Path, tmp_path: Path, fewer, asked):
    copy_of(dataset, tmp_path)
    with pytest.raises(CrossviewError, match=f"holds 14 pairs, and this asks for {asked}"):
        render_pairs(config_of(**fewer), tmp_path, SERIAL)
    assert digests(tmp_path) == digests(dataset)


def test_a_dataset_without_its_index_does_without_a_scene(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    (tmp_path / "index.json").unlink()
    result = render_pairs(config_of(scenes=["procedural:1"], num_pairs=7), tmp_path, SERIAL)
    assert {entry.scene for entry in result.index.shards} == {"procedural-000001"}
    assert result.reports == []


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(dataset: Path, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(json.dumps(SMALL))
    command = [
        sys.executable, "-m", "pipelines.cli", "render-pairs", "--config",
        str(tmp_path / "config.yaml"), "--executor", "serial", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while (
        not list((tmp_path / "out").glob("*.json"))
        or len(list((tmp_path / "out").glob("*.tar"))) < 2
    ):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((tmp_path / "out").glob("*.tar"))) < 4
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert digests(tmp_path / "out") == digests(dataset)


def test_one_bad_scene_is_reported_and_the_others_finish(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "bad.glb").write_bytes(b"not a mesh")
    config = config_of(
        scenes=[str(tmp_path / "bad.glb"), "procedural:0", str(tmp_path / "gone.ply")], num_pairs=6
    )
    result = render_pairs(config, tmp_path / "out", SERIAL)
    assert result.index.num_pairs == 2
    assert len(result.failures) == 2
    assert result.failures[0].startswith("bad: ")
    assert "bad.glb" in result.failures[0]
    assert "gone.ply: no such file" in result.failures[1]
    assert caplog.messages[0] == "gone.ply: no axis is said to be up; taken: y (--up)"
    table = summary_table(result)
    assert "failed" in table
    assert "procedural-000000" in table


def test_a_scene_that_cannot_give_its_share_says_so(tmp_path: Path):
    config = config_of(
        scenes=["procedural:0"],
        num_pairs=4,
        pairs={"image_size": [64, 64], "overlap": "0.9995-1", "max_tries": 50},
    )
    result = render_pairs(config, tmp_path, SERIAL)
    assert result.index.num_pairs == 0
    (failure,) = result.failures
    assert "no pair found" in failure
    assert "overlap too low" in failure


def test_a_folder_of_another_configuration_is_refused(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    before = digests(tmp_path)
    with pytest.raises(CrossviewError, match=r"seed: 0 before, 1 now"):
        render_pairs(config_of(seed=1), tmp_path, SERIAL)
    assert digests(tmp_path) == before


def test_a_folder_of_somebody_elses_tars_is_refused(tmp_path: Path):
    (tmp_path / "photos.tar").touch()
    with pytest.raises(CrossviewError, match="something else"):
        render_pairs(config_of(), tmp_path, SERIAL)


def test_pairs_are_dealt_evenly(tmp_path: Path):
    tasks = plan_tasks(config_of(scenes=["procedural:0-3"], num_pairs=10), tmp_path)
    shares: dict[str, int] = {}
    for task in tasks:
        shares[task.scene.scene_id] = shares.get(task.scene.scene_id, 0) + task.count
    assert list(shares.values()) == [3, 3, 2, 2]
    assert max(task.count for task in tasks) <= 4


LEVELS = {"low": "0.1-0.3", "near-half": "near-half", "high": "0.7-0.9"}


def test_levels_are_datasets_that_differ_in_nothing_but_their_overlap(tmp_path: Path):
    config = config_of(levels=LEVELS, num_pairs=10)
    result = render_pairs(config, tmp_path, SERIAL)
    assert result.num_pairs == 30
    first_views: dict[str, list[bytes]] = {}
    for name, index in zip(LEVELS, result.indexes, strict=True):
        assert ShardIndex.open(tmp_path / name) == index
        assert [entry.count for entry in index.shards] == [4, 1, 4, 1]
        band = index.config["pairs"]["overlap"]
        urls = [str(tmp_path / name / entry.name) for entry in index.shards]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        first_views[name] = [sample["view1.jpg"] for sample in samples]
        for sample in samples:
            assert band["low"] <= json.loads(sample["meta.json"])["covisibility"] <= band["high"]
    assert first_views["low"] == first_views["near-half"] == first_views["high"]
    for entry in result.indexes[0].shards:
        sidecar = Sidecar.read(sidecar_path(tmp_path / "low" / entry.name))
        assert sidecar.attempts == entry.count + sum(sidecar.rejections.values())


def test_a_level_in_the_place_of_another_dataset_is_refused(tmp_path: Path):
    render_pairs(config_of(num_pairs=2), tmp_path / "high", SERIAL)
    before = digests(tmp_path / "high")
    with pytest.raises(CrossviewError, match=r"high holds a dataset of another configuration"):
        render_pairs(config_of(levels=LEVELS, num_pairs=2), tmp_path, SERIAL)
    assert digests(tmp_path / "high") == before
    assert [path.name for path in tmp_path.iterdir()] == ["high"]


def test_a_configuration_that_is_none_is_told(dataset: Path, tmp_path: Path):
    copy_of(dataset, tmp_path)
    (tmp_path / "config.json").write_text('{"schema_version": 2}')
    (tmp_path / "index.json").unlink()
    with pytest.raises(ShardError, match="it holds no configuration"):
        render_pairs(config_of(), tmp_path, SERIAL)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(bytes(99))])
def test_a_lost_or_damaged_configuration_is_written_anew_where_the_index_has_it(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil
):
    path = copy_of(dataset, tmp_path) / "config.json"
    before = path.read_bytes()
    spoil(path)
    with pytest.raises(CrossviewError, match=r"seed: 0 before, 1 now"):
        render_pairs(config_of(seed=1), tmp_path, SERIAL)
    assert render_pairs(config_of(), tmp_path, SERIAL).reports == []
    assert "what decided the pairs is taken from index.json" in caplog.text
    assert path.read_bytes() == before


def test_a_damaged_level_is_made_again_with_the_others_of_its_task(tmp_path: Path):
    config = config_of(levels=LEVELS, num_pairs=10)
    render_pairs(config, tmp_path, SERIAL)
    before = {name: digests(tmp_path / name) for name in LEVELS}
    (tmp_path / "high" / "procedural-000001-000000.tar").unlink()
    executor = CountingExecutor()
    render_pairs(config, tmp_path, executor)
    assert executor.asked == ["procedural-000001-000000.tar"]
    assert {name: digests(tmp_path / name) for name in LEVELS} == before


def test_levels_in_another_order_are_the_same_datasets(tmp_path: Path):
    levels = {"wide": "0.3-0.9:flat", "low": "0.1-0.3"}
    render_pairs(config_of(levels=levels, num_pairs=2), tmp_path / "one", SERIAL)
    executor = CountingExecutor()
    other = config_of(levels=dict(reversed(levels.items())), num_pairs=2)
    render_pairs(other, tmp_path / "one", executor)
    assert executor.asked == []
    render_pairs(other, tmp_path / "two", SERIAL)
    for name in levels:
        one, two = (digests(tmp_path / run / name, "*.tar") for run in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"../up": "0.1-0.2"}, "cannot be the name of a folder"),
        ({"a": "0.1-0.2", "b": "0.1-0.2"}, "two of them have the same band"),
        ({"a": "0.3-0.2"}, "levels.a: overlap: expected LO-HI"),
        ({"a": "0.1-0.2", "b": "official"}, "make it alone, with --overlap official"),
    ],
)
def test_levels_that_make_no_sense_are_refused(levels: dict[str, str], message: str):
    with pytest.raises(CrossviewError, match=message):
        config_of(levels=levels)


def test_pairs_rendered_by_opengl_say_so(tmp_path: Path, opengl: None):
    config = config_of(renderer="gl", num_pairs=4)
    (index,) = render_pairs(config, tmp_path, SERIAL).indexes
    (sample, *_) = webdataset.WebDataset(
        [str(tmp_path / entry.name) for entry in index.shards], shardshuffle=False
    )
    assert json.loads(sample["meta.json"])["renderer"] == "gl"
    from generation.renderers.gl import device_name

    assert Sidecar.read(sidecar_path(tmp_path / index.shards[0].name)).device == device_name()
    with pytest.raises(CrossviewError, match='renderer: "gl" before, "embree" now'):
        render_pairs(config_of(renderer="embree", num_pairs=4), tmp_path, SERIAL)
