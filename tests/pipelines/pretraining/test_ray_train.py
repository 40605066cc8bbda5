"""The same training on Ray: the same losses, and workers that die."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from processes import alive, kill, tree, wait_for
from test_launch import LONG, STEPS, command, config_file, data, micro_config, reach, steps

from generation.locations import location
from pipelines.pretraining.ray_train import _scaling, _wherever_it_runs
from training import checkpoint
from training.config import PretrainConfig
from training.data import DataConfig, Source
from training.metrics_log import read_lines
from training.trainer import pretrain

pytest.importorskip("ray.train.torch", reason="needs Ray Train: pip install 'crossview[ray-train]'")

__all__ = ["command", "config_file", "data"]


def workers(process: subprocess.Popen[str]) -> list[int]:
    return sorted(pid for pid, words in tree(process.pid).items() if "RayTrainWorker" in words)


@pytest.mark.slow
def test_workers_on_ray_train_as_one_process_though_one_is_killed_and_all_are_stopped(
    command, data, tmp_path
):
    out, alone = tmp_path / "out", tmp_path / "alone"
    process = command("--launcher", "ray", "--nproc", "2", "--out", out)
    try:
        reach(process, out, 12)
        first = workers(process)
        assert len(first) == 2
        kill([first[1]])
        wait_for(lambda: not any(map(alive, first)))
        killed_at = steps(out)[-1]
        assert killed_at < STEPS
        reach(process, out, killed_at + 12)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        kill([*tree(process.pid), process.pid])
    assert process.returncode == 0, output
    assert "going on from step" in output
    reached = steps(out)[-1]
    assert f"stopped before step {STEPS}" in output
    assert checkpoint.stored(out)[0].name == f"step_{reached:08d}.pt"
    for folder in (alone, out):  # the rest on another number of processes
        pretrain(micro_config(data, **LONG), folder)
    assert steps(out) == list(range(1, STEPS + 1))
    one, other = (
        {
            (line["kind"], line["step"]): line.get("loss", line.get("val_loss"))
            for line in read_lines(folder / "metrics.jsonl")
        }
        for folder in (alone, out)
    )
    assert list(one) == list(other)
    assert list(other.values()) == pytest.approx(list(one.values()), abs=1e-4)


def test_relative_folders_are_found_from_wherever_rays_processes_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = location("memory://pairs")
    data = DataConfig(
        path=Path("pairs"),
        val_path=Path("../val"),
        mixture=(Source(path=url),),
        cache_dir=Path("~/c"),
    )
    config = _wherever_it_runs(PretrainConfig(data=data, init=Path("first")))
    assert config.init == tmp_path / "first"
    found = config.data
    assert found.path == tmp_path / "pairs"
    assert found.val_path == tmp_path / "../val"
    assert found.mixture[0].path == url
    assert found.cache_dir == Path.home() / "c"


@pytest.mark.parametrize(
    ("machines", "num_workers", "count", "resources"),
    [
        ([(64, 8), (64, 2)], None, 10, {"CPU": 8, "GPU": 1}),
        ([(32, 4), (32, 1)], None, 5, {"CPU": 8, "GPU": 1}),
        ([(0, 4), (16, 2)], None, 2, {"CPU": 8, "GPU": 1}),
        ([(64, 8)], 2, 2, {"CPU": 32, "GPU": 1}),
        ([(8, 0), (4, 0)], None, 2, {"CPU": 4}),
        ([(8, 0), (4, 0)], 4, 4, {"CPU": 2}),
    ],
)
def test_what_is_asked_of_ray_fits_its_machines(
    machines, num_workers, count, resources, tmp_path, monkeypatch
):
    nodes = [
        {"Alive": True, "Resources": {name: n for name, n in (("CPU", c), ("GPU", g)) if n}}
        for c, g in machines
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    asked = _scaling(PretrainConfig(data=DataConfig(path=tmp_path)), num_workers)
    assert (asked["num_workers"], asked["resources_per_worker"]) == (count, resources)


@pytest.mark.slow
def test_a_gpu_that_no_machine_has_is_said(command, tmp_path):
    words = ("--launcher", "ray", "--out", tmp_path / "out", "--set", "device=cuda")
    output, _ = (process := command(*words)).communicate(timeout=60)
    assert process.returncode == 2
    assert "device = 'cuda': the Ray cluster has no GPU" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(command, tmp_path):
    words = ("--launcher", "ray", "--ray-address", "127.0.0.1:1", "--out", tmp_path / "out")
    output, _ = (process := command(*words)).communicate(timeout=60)
    assert process.returncode == 2
    assert "cannot reach the Ray cluster at 127.0.0.1:1" in output
