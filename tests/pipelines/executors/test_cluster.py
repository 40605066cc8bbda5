"""Many machines: who gets which task, machines that come and go, and the files that start them."""

from __future__ import annotations

import copy
import heapq
import json
import os
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import task_functions
from processes import alive, below, crossview, kill, tree, wait_for
from test_faults import SMALL, assert_undisturbed, at_work, config_of, finish, undisturbed

from generation.render_task import render_shards
from pipelines.cli import _parser
from pipelines.config import load_yaml
from pipelines.datasets.render_pairs import plan_tasks, render_pairs
from pipelines.executors import on_ray
from pipelines.executors.on_ray import RayExecutor
from pipelines.executors.task_queue import QueueEntry, TaskQueue
from pipelines.executors.worker import Limits, Reply, Worker
from pipelines.tables import format_table

__all__ = ["undisturbed"]

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs" / "clusters.md"

# Measured on one core with a room of 1.7 million triangles as one mesh, 256 x 256, no depth.
PAIRS_PER_SECOND = 22.5
LOAD_SECONDS = 2.7
BYTES_PER_PAIR = 61_000
BYTES_PER_PAIR_WITH_DEPTH = 114_000
# What CroCo was pre-trained on: scenes and pairs of ScanNet, HM3D, and what is small.
PUBLISHED = ((1097, 985_209), (800, 800_000), (16, 16_000))
PAIRS_PER_SHARD = 256


@pytest.fixture(scope="module")
def head() -> Iterator[object]:
    """A machine that does no work."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    made.shutdown()


@pytest.fixture
def cluster(head) -> Iterator[object]:
    """The head alone; a test adds the machines that work."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)


@pytest.mark.slow
def test_a_run_outlives_its_machine_and_goes_on_with_one_that_joins(
    cluster, undisturbed, tmp_path: Path
):
    machine = cluster.add_node(num_cpus=2)
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(json.dumps(SMALL))
    process = crossview(
        "render-pairs", "--config", config, "--ray-address", cluster.address, "--out", out
    )
    wait_for(lambda: at_work(out))
    cluster.remove_node(machine, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    output = finish(process)
    assert "the worker was lost" in output
    assert_undisturbed(out, undisturbed)


@pytest.mark.slow
def test_several_machines_load_each_scene_about_once(cluster, undisturbed, tmp_path: Path):
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    with closing(RayExecutor(address=cluster.address)) as executor:
        result = render_pairs(config_of(), tmp_path, executor)
    assert_undisturbed(tmp_path, undisturbed)
    loads = [report.scene_id for report in result.reports if report.seconds["prepare"] > 0.05]
    assert len(result.reports) == 9
    assert 3 <= len(loads) <= 4, "three scenes, and at most one that both work at in the end"


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [None, 5], ids=["all CPUs", "more than there is room for"])
def test_a_machine_that_lacks_something_leaves_its_tasks_to_the_others_until_it_has_it(
    cluster, num_workers, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(on_ray, "PAUSE_SECONDS", 0.5)
    scans = tmp_path / "scans"
    environment = {"PYTHONPATH": str(Path(task_functions.__file__).parent), "SCANS": str(scans)}
    cluster.add_node(num_cpus=2, env_vars=environment | {"LATE": "yes"})
    with closing(RayExecutor(address=cluster.address, num_workers=num_workers)) as executor:
        errors = {outcome.error for outcome in executor.run(task_functions.need_scans, range(3))}
        assert errors == {f"on {socket.gethostname()}: no scans here, 3 times"}
        cluster.add_node(num_cpus=1, env_vars=environment)
        reports = []
        for outcome in executor.run(task_functions.need_scans, range(600)):
            reports.append(outcome.report)
            if len(reports) == 10:
                scans.mkdir()
    assert sorted(number for number, _ in reports) == list(range(600))
    assert not any(late for _, late in reports[:10])
    assert any(late for _, late in reports[10:])


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path):
    words = ("--scenes", "procedural:0", "--ray-address", "127.0.0.1:1", "--out", tmp_path)
    output = finish(crossview("render-pairs", *words), status=2)
    assert "cannot reach the Ray cluster at 127.0.0.1:1" in output


def test_only_a_few_kilobytes_of_a_task_travel(tmp_path: Path):
    """What a Ray worker is sent, and what it answers; images are in neither."""
    task = plan_tasks(config_of(num_pairs=3), tmp_path)[0]
    request = QueueEntry(task, "scene").request(render_shards)
    with closing(Worker(Limits())) as worker:
        reply = worker.do(request)
    assert reply.fault is None
    assert len(request) < 4096
    assert len(pickle.dumps(reply)) < 2048


@dataclass(frozen=True)
class Schedule:
    """What became of a simulated run."""

    seconds: float
    loads: int
    busy: float
    """Share of all workers' time spent on pairs."""


Scene, Pairs = int, int


def shards_of(scenes: list[Pairs]) -> list[tuple[Scene, Pairs]]:
    """Cut scenes of so many pairs into tasks."""
    return [
        (scene, min(PAIRS_PER_SHARD, pairs - first))
        for scene, pairs in enumerate(scenes)
        for first in range(0, pairs, PAIRS_PER_SHARD)
    ]


def simulated(scenes: list[Pairs], num_workers: int, group: Callable | None = None) -> Schedule:
    """Let the queue deal a dataset's tasks to workers that take as long as was measured."""
    tasks = shards_of(scenes)
    queue = TaskQueue(tasks, group, attempts=1)
    order = count()
    now, loads, loaded = 0.0, 0, dict.fromkeys(range(num_workers), -1)
    events: list[tuple[float, int, int, QueueEntry | None]]
    events = [(0.0, next(order), worker, None) for worker in range(num_workers)]
    while events:
        now, _, worker, done = heapq.heappop(events)
        if done:
            assert len(list(queue.resolve(done, Reply(report=b"N.")))) == 1
        entry = queue.take(done)
        if entry:
            scene, pairs = entry.task
            load = LOAD_SECONDS if loaded[worker] != scene else 0.0
            loads += load > 0
            loaded[worker] = scene
            end = now + load + pairs / PAIRS_PER_SECOND
            heapq.heappush(events, (end, next(order), worker, entry))
    assert queue.num_open == 0
    return Schedule(now, loads, sum(scenes) / PAIRS_PER_SECOND / (now * num_workers))


def by_scene(task: tuple[Scene, Pairs]) -> Scene:
    return task[0]


@pytest.mark.parametrize("num_workers", [1, 16, 256, 500])
def test_a_million_pairs_keep_hundreds_of_workers_busy(num_workers: int):
    schedule = simulated([1000] * 1000, num_workers, by_scene)
    assert schedule.loads <= 1000 + num_workers
    assert schedule.busy > (0.85 if num_workers > 256 else 0.9 if num_workers > 16 else 0.93)
    in_plan_order = simulated([1000] * 1000, num_workers)
    assert schedule.seconds <= in_plan_order.seconds


def test_no_worker_is_left_alone_with_a_long_scene():
    schedule = simulated([20_000, *[256] * 200], 16, by_scene)
    assert schedule.busy > 0.8


def plan_of_the_published_set() -> str:
    scenes = [pairs // n + (i < pairs % n) for n, pairs in PUBLISHED for i in range(n)]
    rows = []
    for num_workers in (1, 16, 256):
        schedule = simulated(scenes, num_workers, by_scene)
        time = schedule.seconds
        duration = f"{time / 3600:.1f} h" if time >= 3600 else f"{time / 60:.1f} min"
        scattered = simulated(scenes, num_workers).loads
        rows.append((num_workers, duration, schedule.loads, scattered, f"{schedule.busy:.0%}"))
    size = sum(scenes) * BYTES_PER_PAIR / 1e9
    with_depth = sum(scenes) * BYTES_PER_PAIR_WITH_DEPTH / 1e9
    headers = ("workers", "time", "scenes loaded", "in plan order", "busy with pairs")
    return (
        f"{len(scenes):,} scenes, {sum(scenes):,} pairs, {len(shards_of(scenes)):,} tasks, "
        f"{size:.0f} GB ({with_depth:.0f} GB with depth)\n\n{format_table(rows, headers)}\n"
    )


def test_the_plan_in_the_docs_is_what_the_queue_gives():
    plan = plan_of_the_published_set()
    print(plan)
    text = DOCS.read_text()
    assert plan in text
    for figure in (PAIRS_PER_SECOND, LOAD_SECONDS, BYTES_PER_PAIR, BYTES_PER_PAIR_WITH_DEPTH):
        assert f"{figure:,}" in text


def crossview_commands(text: str) -> list[str]:
    """Return the commands for pairs in a script, a manifest or a page, lines joined."""
    return re.findall(
        r"crossview render-pairs --[^'\n]*(?:'[^'\n]*'[^'\n]*)?", text.replace("\\\n", "")
    )


RENDERING = [path for path in sorted(DEPLOY.iterdir()) if "pretrain" not in path.name]


@pytest.mark.parametrize("path", [*RENDERING, DOCS], ids=lambda path: path.name)
def test_every_crossview_command_there_has_options_that_exist(path: Path):
    found = 0
    for command in crossview_commands(path.read_text()):
        words = shlex.split(command.replace('"$@"', "--out DIR").replace("...", "--out DIR"))
        _parser().parse_args(words[1:])
        found += words[1] == "render-pairs"
    assert found >= (path.name not in ("Dockerfile", "slurm-pretrain.sh"))


def test_all_machines_run_the_version_of_ray_that_is_pinned():
    (version,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"FROM rayproject/ray:{version}-" in (DEPLOY / "Dockerfile").read_text()
    job = load_yaml(DEPLOY / "kuberay-job.yaml")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version


def test_the_ray_cluster_starts_ray_on_every_machine():
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = load_yaml(DEPLOY / "ray-cluster.yaml")
    validate_config(prepare_config(copy.deepcopy(cluster)))
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    assert any("ray start --head" in line for line in cluster["head_start_ray_commands"])
    assert any("$RAY_HEAD_IP" in line for line in cluster["worker_start_ray_commands"])


def test_the_kuberay_job_has_a_head_workers_and_one_folder_for_all():
    job = load_yaml(DEPLOY / "kuberay-job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
        assert mounts["data"] == "/data"
    assert " --out /data/" in job["spec"]["entrypoint"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", ["slurm-render.sh", "slurm-pretrain.sh"])
def test_the_slurm_script_is_a_script(name: str):
    script = DEPLOY / name
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    assert script.stat().st_mode & 0o111


# Slurm, as far as the script sees it, on one machine: runs the command here.
SLURM = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'printf "%s\\n" one two',
    "hostname": "echo 127.0.0.1",
}


@pytest.mark.slow
def test_the_slurm_script_renders_on_a_cluster_of_its_own(undisturbed, tmp_path: Path):
    for name, body in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(path),
        "RAY_PORT": str(port),
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_PER_TASK": "1",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(SMALL))
    words = ["--config", tmp_path / "config.yaml", "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [DEPLOY / "slurm-render.sh", *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: at_work(tmp_path / "out"))
        machines = below(process, "raylet/raylet")
        finish(process)
    finally:
        kill(list(tree(process.pid)))
    assert_undisturbed(tmp_path / "out", undisturbed)
    assert len(machines) == 2
    wait_for(lambda: not [pid for pid in machines if alive(pid)])
