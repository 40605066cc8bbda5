"""What breaks, breaks here: at the end a dataset has the bytes of an undisturbed run."""

from __future__ import annotations

import ctypes
import json
import pickle
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from elsewhere import ElsewhereExecutor
from folders import digests
from one_worker import SERIAL
from PIL import Image
from processes import ACTOR, CHILD, alive, below, crossview, kill, parent_of, tree, wait_for

from generation.render_task import RenderTask, render_shards
from generation.shards.reader import ShardIndex
from pipelines.config import build
from pipelines.datasets import shard_tasks
from pipelines.datasets.render_pairs import RenderPairsConfig, plan_tasks, render_pairs

SMALL = {
    "scenes": ["procedural:0-2"],
    "num_pairs": 36,
    "pairs": {"image_size": [96, 96]},
    "shards": {"pairs_per_shard": 4, "depth": True},
    "renderer": "embree",
}


def config_of(**changes) -> RenderPairsConfig:
    return build(RenderPairsConfig, SMALL | changes, source="test")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    render_pairs(config_of(), out, SERIAL)
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def render(out: Path, *words: str, **changes) -> subprocess.Popen[str]:
    """Start `crossview render-pairs`; without words, on two Ray workers."""
    config = out.with_name("config.yaml")
    config.write_text(json.dumps(SMALL | changes))
    words = words or ("--executor", "ray", "--workers", "2")
    return crossview("render-pairs", "--config", config, "--out", out, *words)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def assert_undisturbed(out: Path, undisturbed: Path, num_pairs: int = 36) -> None:
    """The same files with the same bytes: nothing is lost, nothing is there twice."""
    assert digests(out) == digests(undisturbed)
    keys = Counter()
    for entry in ShardIndex.open(out).shards:
        with tarfile.open(out / entry.name) as tar:
            keys.update(name for name in tar.getnames() if name.endswith("meta.json"))
    assert len(keys) == num_pairs
    assert set(keys.values()) == {1}


def at_work(out: Path) -> bool:
    """Say whether a shard is being written."""
    return any(out.glob(".*.tar.*.partial"))


@pytest.mark.slow
def test_workers_that_are_killed_at_work_are_replaced(out: Path, undisturbed: Path):
    process = render(out)
    wait_for(lambda: at_work(out))
    first, second = wait_for(lambda: pids if len(pids := below(process, CHILD)) == 2 else None)
    kill([first, parent_of(second)])
    output = finish(process)
    assert "the worker process was killed (SIGKILL) while it did procedural-00000" in output
    assert "the worker was lost" in output
    assert_undisturbed(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "ray"])
@pytest.mark.parametrize("victims", ["driver", "tree"])
def test_after_the_driver_is_killed_the_next_run_starts_at_once(
    out: Path, undisturbed: Path, executor: str, victims: str
):
    words = ["--executor", executor, *(["--workers", "2"] if executor == "ray" else [])]
    process = render(out, *words)
    wait_for(lambda: at_work(out))
    orphans = [*below(process, CHILD), *below(process, ACTOR)]
    kill([process.pid, *(tree(process.pid) if victims == "tree" else [])])
    following = render(out, *words)
    # The kernel, and Ray, end the dead driver's workers.
    wait_for(lambda: not [pid for pid in orphans if alive(pid)])
    finish(following)
    process.communicate()
    assert_undisturbed(out, undisturbed)


# What a worker does whose driver died and which, cut off or stopped, has not noticed.
ORPHAN = """
import pickle, sys
function, task = pickle.load(open(sys.argv[1], "rb"))
print("ready", flush=True)
function(task)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before it writes", "while it writes"])
def test_an_orphan_that_goes_on_late_does_no_harm(out: Path, undisturbed: Path, moment: str):
    task = replace(plan_tasks(config_of(), out)[0], count=4)
    request = out.with_name("request")
    request.write_bytes(pickle.dumps((render_shards, task)))
    out.mkdir()
    orphan = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(request)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert orphan.stdout
    assert orphan.stdout.readline() == b"ready\n"
    wait_for(lambda: moment == "before it writes" or at_work(out))
    orphan.send_signal(signal.SIGSTOP)
    render_pairs(config_of(), out, SERIAL)
    assert_undisturbed(out, undisturbed)
    orphan.send_signal(signal.SIGCONT)
    _, errors = orphan.communicate(timeout=60)
    # What it had begun is gone, and so it fails; else it writes the same bytes again.
    assert orphan.returncode == (moment == "while it writes"), errors
    assert_undisturbed(out, undisturbed)


# Never three of one driver's workers in a row: a task that takes three workers along is given up.
KILLS = ("worker", "its parent", "driver", "worker", "its parent", "tree") * 2


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_loses_nothing(out: Path):
    """Each kill comes at a random moment of the work on a shard and takes whom it is meant for."""
    rng = random.Random(0)
    many = {"num_pairs": 180}
    process = None
    for kind in KILLS[:10]:
        process = process or render(out, "--executor", "ray", "--workers", "2", **many)
        while not (at_work(out) and below(process, CHILD)):
            assert process.poll() is None, f"it ended before a {kind} could be killed"
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if kind in ("worker", "its parent"):
            victims = [rng.choice(below(process, CHILD if kind == "worker" else ACTOR))]
        else:
            victims = [process.pid, *(tree(process.pid) if kind == "tree" else [])]
        kill(victims)
        if process.pid in victims:
            process.communicate()
            process = None
    finish(process or render(out, **many))
    undisturbed = out.with_name("undisturbed")
    render_pairs(config_of(**many), undisturbed, SERIAL)
    assert_undisturbed(out, undisturbed, num_pairs=180)


def write_wide_scene(folder: Path) -> Path:
    """Write a box of 400 kB whose texture unfolds to more than a gigabyte."""
    quads = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
    lines = ["mtllib wide.mtl", "usemtl wall", "vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    lines += [f"v {x} {y} {z}" for x in (0, 5) for y in (0, 3) for z in (0, 4)]
    for a, b, c, d in quads:
        lines += [f"f {a + 1}/1 {b + 1}/2 {c + 1}/3", f"f {a + 1}/1 {c + 1}/3 {d + 1}/4"]
    folder.mkdir()
    (folder / "wide.obj").write_text("\n".join(lines))
    (folder / "wide.mtl").write_text("newmtl wall\nmap_Kd wall.png\n")
    Image.new("RGB", (11_000, 11_000), (120, 130, 140)).save(folder / "wall.png")
    return folder / "wide.obj"


@pytest.mark.slow
def test_a_scene_that_needs_too_much_memory_is_reported_and_the_others_finish(
    out: Path, undisturbed: Path, tmp_path: Path
):
    wide = write_wide_scene(tmp_path / "scenes")
    scenes = ["procedural:0-2", str(wide)]
    words = ("--executor", "serial", "--worker-memory", "1.5")
    output = finish(render(out, *words, scenes=scenes, num_pairs=48), status=2)
    assert "  wide: needs more than the 1.5 GiB of memory of a worker (--worker-memory)" in output
    assert_shards_of_the_rooms(out, undisturbed)


def write_endless_scene(path: Path) -> Path:
    """Write an OBJ file of so many materials that its parser is busy for a minute and more."""
    names = [f"m{number}" for number in range(300_000)]
    path.with_suffix(".mtl").write_text("".join(f"newmtl {n}\nKd 1 1 1\n" for n in names))
    head = f"mtllib {path.stem}.mtl\nv 0 0 0\nv 0 0 1\nv 1 0 0\n"
    path.write_text(head + "".join(f"usemtl {n}\nf 1 2 3\n" for n in names))
    return path


@pytest.mark.slow
def test_a_scene_that_hangs_its_parser_is_reported_and_the_others_finish(
    out: Path, undisturbed: Path, tmp_path: Path
):
    scenes = ["procedural:0-2", str(write_endless_scene(tmp_path / "endless.obj"))]
    words = ("--executor", "serial", "--task-timeout", "10")
    output = finish(render(out, *words, scenes=scenes, num_pairs=48), status=2)
    assert "crossview: 1 of the scenes failed:" in output
    assert "  endless: not finished within the limit of 10 s for a task (--task-timeout)" in output
    assert_shards_of_the_rooms(out, undisturbed)


def assert_shards_of_the_rooms(out: Path, undisturbed: Path) -> None:
    """All shards are those of the undisturbed run; what is about the whole names another scene."""
    found, expected = (
        {name: digest for name, digest in digests(folder).items() if "procedural" in name}
        for folder in (out, undisturbed)
    )
    assert len(expected) == 18
    assert found == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with less room than the dataset needs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=300k")
    if mounted != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    libc.umount2(str(folder).encode(), 2)  # MNT_DETACH


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_room_mends_it(small_disk: Path, undisturbed: Path):
    out = small_disk / "out"
    size_bytes = sum(path.stat().st_size for path in undisturbed.iterdir())
    assert size_bytes > 400_000
    output = finish(render(out), status=2)
    assert "No space left on device; what is finished stays. Make room" in output
    # Whatever a reader may look at is whole; hidden files are none of its business.
    expected = digests(undisturbed)
    finished = [path.name for path in out.glob("procedural-*")]
    assert 0 < len(finished) < 18
    assert {name: digests(out)[name] for name in finished} == {n: expected[n] for n in finished}
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    finish(render(out, "--executor", "serial"))
    assert_undisturbed(out, undisturbed)


@pytest.mark.slow
def test_a_second_run_is_refused_and_told_who_holds_the_folder(out: Path, undisturbed: Path):
    first = render(out, "--executor", "serial")
    wait_for(lambda: at_work(out))
    first.send_signal(signal.SIGSTOP)  # it would be done before the second has started
    try:
        refused = finish(render(out, "--executor", "serial"), status=2)
    finally:
        first.send_signal(signal.SIGCONT)
    assert f"another run is writing to this folder, process {first.pid} on " in refused
    assert ", since 20" in refused
    finish(first)
    assert_undisturbed(out, undisturbed)


def moved(task: RenderTask) -> RenderTask:
    ((folder, band),) = task.outputs
    return replace(task, outputs=((f"{folder}-elsewhere", band),))


@pytest.mark.parametrize(
    ("mounted", "told"),
    [(True, "every machine must see the same folder"), (False, r"on \S+: .* No such file")],
)
def test_shards_that_the_driver_does_not_see_are_told(out: Path, monkeypatch, mounted, told):
    monkeypatch.setattr(shard_tasks, "VISIBLE_SECONDS", 0.5)
    elsewhere = out.with_name(f"{out.name}-elsewhere")
    if mounted:
        elsewhere.mkdir()
    result = render_pairs(config_of(), out, ElsewhereExecutor(moved=moved))
    assert len(result.failures) == 9
    assert re.search(told, result.failures[0])
    assert result.index.num_pairs == 0
    assert elsewhere.exists() == mounted
