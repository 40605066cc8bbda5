"""Pre-training that is stopped, and whose processes are killed: nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MICRO, micro_config
from processes import alive, crossview, kill, tree, wait_for
from synthetic import write_dataset
from torch.distributed.elastic.rendezvous import RendezvousTimeoutError
from torch.distributed.launcher import api

from generation.errors import CrossviewError
from generation.plain import merge
from pipelines.pretraining.launch import train_in_processes
from training import checkpoint
from training.metrics_log import read_lines
from training.trainer import pretrain

DEPLOY = Path(__file__).parents[3] / "deploy"

STEPS = 150
OF_THE_MACHINE = ("pairs_per_s", "data_wait_share", "memory_gib")
"""What a record says of where it was made."""
LONG = {
    "optim": {"max_steps": STEPS},
    "validation": {"every_steps": 50},
    "checkpoint_every_steps": 5,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config_file(data, tmp_path) -> Path:
    """The long micro run."""
    path = tmp_path / "config.yaml"
    values = {"preset": "tiny", "data": {"path": str(data)}, **merge(MICRO, LONG)}
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def command(config_file) -> Callable[..., subprocess.Popen[str]]:
    """Start crossview pretrain of it with these words."""

    def start(*words: str | Path) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return crossview("pretrain", "--config", config_file, *words, env=environment)

    return start


def steps(out: Path) -> list[int]:
    """The steps whose losses are written down."""
    return [r["step"] for r in read_lines(out / "metrics.jsonl") if r["kind"] == "train"]


def reach(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait until a command has done a step."""
    wait_for(lambda: max(steps(out), default=0) >= step or process.poll() is not None, seconds=120)
    assert process.poll() is None, process.communicate()[0]


def assert_equal(one: Path, other: Path) -> None:
    """Every step once, and not a bit else."""
    before, after = (
        [
            {name: value for name, value in line.items() if name not in OF_THE_MACHINE}
            for line in read_lines(out / "metrics.jsonl")
        ]
        for out in (one, other)
    )
    assert [line["step"] for line in after if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert before == after
    last = [checkpoint.load(checkpoint.stored(out)[0])["model"] for out in (one, other)]
    for name, tensor in last[0].items():
        assert torch.equal(tensor, last[1][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_after_the_step_and_the_same_command_goes_on(
    command, data, tmp_path, number
):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    process = command("--out", out)
    reach(process, out, 12)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"stopped before step {STEPS}" in output
    reached = steps(out)[-1]
    assert 12 <= reached < STEPS
    assert checkpoint.stored(out)[0].name == f"step_{reached:08d}.pt"
    torch.set_num_threads(1)
    for folder in (undisturbed, out):
        pretrain(micro_config(data, **LONG), folder)
    assert_equal(undisturbed, out)


LAUNCHERS = [
    pytest.param((), id="alone"),
    pytest.param(("--launcher", "torchrun", "--nproc", "2"), id="torchrun", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_to_all_processes_of_a_run_saves_it_and_leaves_none(command, tmp_path, launcher):
    out = tmp_path / "out"
    process = command(*launcher, "--out", out, "--set", "data.num_workers=2")
    try:
        reach(process, out, 12)
        everyone = list(tree(process.pid))
        assert len(everyone) >= 2
        os.killpg(process.pid, signal.SIGTERM)  # as Slurm, systemd and terminals do
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert "Traceback" not in output
        assert f"stopped before step {STEPS}" in output
        assert checkpoint.stored(out)[0].name == f"step_{steps(out)[-1]:08d}.pt"
        wait_for(lambda: not any(map(alive, everyone)))
    finally:
        kill([*tree(process.pid), process.pid])


@pytest.mark.slow
def test_the_processes_of_a_loader_end_with_a_run_that_is_killed(command, tmp_path):
    out = tmp_path / "out"
    process = command("--out", out, "--set", "data.num_workers=2")
    reach(process, out, 3)
    loaders = list(tree(process.pid))
    assert len(loaders) == 2
    kill([process.pid])
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(alive, loaders)))


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["agent", "group"])
def test_a_signal_that_comes_while_processes_start_ends_the_run(command, tmp_path, to_all):
    out = tmp_path / "out"
    words = ("--launcher", "torchrun", "--nproc", "2", "--max-restarts", "0", "--out", out)
    process = command(*words)
    try:
        wait_for(lambda: len(members(process.pid)) == 2)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=90)
    finally:
        kill([*tree(process.pid), process.pid])
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert f"stopped before step {STEPS}" in output
    assert steps(out) == [1]
    assert checkpoint.stored(out)[0].name == "step_00000001.pt"


@pytest.mark.slow
def test_processes_outlive_a_kill_and_stop_when_asked(command, data, tmp_path):
    from group import Job, train_together

    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    process = command("--launcher", "torchrun", "--nproc", "2", "--out", out)
    try:
        reach(process, out, 12)
        first = members(process.pid)
        assert len(first) == 2
        kill([first[1]])
        wait_for(lambda: not any(map(alive, first)))
        again = wait_for(lambda: len(found := members(process.pid)) == 2 and found)
        killed_at = steps(out)[-1]
        assert killed_at < STEPS
        reach(process, out, killed_at + 12)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        kill([*tree(process.pid), process.pid])
    assert process.returncode == 0, output
    assert not any(map(alive, again))
    assert "going on from step" in output
    assert f"stopped before step {STEPS}" in output
    reached = steps(out)[-1]
    assert reached < STEPS
    assert checkpoint.stored(out)[0].name == f"step_{reached:08d}.pt"
    train_together(data, 2, [Job(folder, LONG) for folder in (undisturbed, out)], tmp_path)
    assert_equal(undisturbed, out)


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_end(command, tmp_path):
    out = tmp_path / "out"
    process = command("--launcher", "torchrun", "--nproc", "2", "--out", out)
    orphans: list[int] = []
    try:
        reach(process, out, 12)
        orphans = members(process.pid)
        assert len(orphans) == 2
        kill([process.pid])
        wait_for(lambda: not any(map(alive, orphans)), seconds=60)
    finally:
        kill([*tree(process.pid), process.pid, *orphans])
        process.communicate(timeout=60)
    reached = steps(out)[-1]
    assert 12 <= reached < STEPS
    assert checkpoint.stored(out)[0].name == f"step_{reached:08d}.pt"


def members(pid: int) -> list[int]:
    """The processes that train, of a launcher."""
    return sorted(child for child, words in tree(pid).items() if "spawn_main" in words)


@pytest.mark.slow
def test_what_a_user_can_mend_is_said_once_and_not_tried_again(command, tmp_path):
    words = ("--launcher", "torchrun", "--nproc", "2", "--out", tmp_path / "out")
    process = command(*words, "--set", "optim.batch_size=40")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.count("crossview: optim.batch_size = 40") == 1
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_machines_need_a_place_to_meet(command, tmp_path):
    process = command("--launcher", "torchrun", "--nnodes", "2", "--out", tmp_path / "out")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "2 machines: expected --rendezvous HOST:PORT" in output


def test_machines_that_do_not_meet_are_told(tmp_path, monkeypatch):
    """As torch says it after minutes of waiting."""

    def alone(*_):
        raise RendezvousTimeoutError("timed out after 600 seconds")

    for name in ("OMP_NUM_THREADS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"):  # which it sets
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(api, "elastic_launch", lambda *_: alone)
    two = {"num_processes": 1, "num_machines": 2}
    with pytest.raises(CrossviewError, match=r"2 machines did not meet at gpu1:29400 .*timed out"):
        train_in_processes(micro_config(tmp_path), tmp_path, **two, rendezvous="gpu1:29400")
    with pytest.raises(CrossviewError, match=r"expected --rendezvous HOST:PORT.* got gpu1:http"):
        train_in_processes(micro_config(tmp_path), tmp_path, **two, rendezvous="gpu1:http")


# Slurm, as far as the script sees it, with two machines that are this one.
SLURM = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        [[ $1 == crossview ]] || exec "$@"
        "$@" & one=$!
        "$@" & two=$!
        trap 'kill -TERM $one $two' TERM
        while kill -0 $one $two 2> /dev/null; do wait $one $two || true; done
        wait $one && wait $two""",
    "scontrol": '[[ $1 == show ]] && printf "%s\\n" one two || echo "$@" > "$REQUEUED"',
    "hostname": "echo 127.0.0.1",
}


def test_the_slurm_scripts_ask_for_what_they_need():
    """Time to save, a place in the queue, and in each step the cores of the job."""
    pretrain_script, render_script = (
        (DEPLOY / f"slurm-{name}.sh").read_text() for name in ("pretrain", "render")
    )
    assert "#SBATCH --signal=B:USR1@300\n" in pretrain_script
    assert "#SBATCH --requeue\n" in pretrain_script
    for script in (pretrain_script, render_script):
        assert script.index("\nexport SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK") < script.index(
            "srun --"
        )


@pytest.mark.slow
def test_the_slurm_script_saves_in_time_and_goes_into_the_queue_again(config_file, tmp_path):
    for name, body in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": os.pathsep.join(
            [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "RENDEZVOUS_PORT": str(port),
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "1",
        "REQUEUED": str(tmp_path / "requeued"),
        "OMP_NUM_THREADS": "1",
    }
    out = tmp_path / "out"
    words = ["--nproc", "1", "--config", config_file, "--out", out]
    process = subprocess.Popen(
        [DEPLOY / "slurm-pretrain.sh", *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        reach(process, out, 12)
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=90)
    finally:
        kill([*tree(process.pid), process.pid])
    assert process.returncode == 0, output
    assert json.loads((out / "run.json").read_text())["world_size"] == 2
    assert checkpoint.stored(out)[0].name == f"step_{steps(out)[-1]:08d}.pt"
    assert steps(out)[-1] < STEPS
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
