from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from generation.errors import CrossviewError
from pipelines.executors import Executor, Outcome, RayExecutor, SerialExecutor, make_executor

NUM_WORKERS = 2


def square(task: int) -> int:
    if task == 3:
        raise CrossviewError("scene three has no floor")
    if task == 5:
        raise KeyError("five")
    return task * task


def die_on_one(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die_unless_marked(task: tuple[int, str]) -> int:
    number, marker = task
    if number == 1 and not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return number


def unpicklable(task: int) -> object:
    return iter([task]).__next__ if task else (each for each in ())


def worker(task: int) -> tuple[int, str | None]:
    time.sleep(0.02)
    return os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS")


@pytest.fixture(scope="session")
def ray_executor() -> Iterator[RayExecutor]:
    from ray import cloudpickle

    # Workers cannot import this file by the name that pytest gives it.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with closing(RayExecutor(num_workers=NUM_WORKERS, max_retries=1)) as executor:
        yield executor


@pytest.fixture(params=["serial", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "serial":
        return SerialExecutor()
    ray: Executor = request.getfixturevalue("ray_executor")
    return ray


def test_every_task_gets_one_outcome_and_a_failed_one_says_why(executor: Executor) -> None:
    outcomes = sorted(executor.run(square, range(7)), key=lambda outcome: outcome.task)
    assert [outcome.task for outcome in outcomes] == list(range(7))
    assert [outcome.report for outcome in outcomes] == [0, 1, 4, None, 16, None, 36]
    errors = {outcome.task: outcome.error for outcome in outcomes if outcome.error}
    assert errors.keys() == {3, 5}
    assert errors[3] == "scene three has no floor"
    assert errors[5].startswith("KeyError: 'five' (test_executors.py:")


def test_no_tasks_give_no_outcomes(executor: Executor) -> None:
    assert list(executor.run(square, [])) == []


def test_a_task_whose_worker_always_dies_fails_and_the_others_finish(
    ray_executor: RayExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = sorted(ray_executor.run(die_on_one, range(6)), key=lambda outcome: outcome.task)
    assert [outcome.report for outcome in outcomes] == [0, None, 2, 3, 4, 5]
    assert outcomes[1].error == (
        "the worker process died (killed, or crashed in native code), 2 times"
    )
    assert [message.partition(" while ")[2] for message in caplog.messages] == [
        "it ran 1; trying again"
    ]


def test_a_task_whose_worker_dies_once_succeeds(ray_executor: RayExecutor, tmp_path: Path) -> None:
    tasks = [(number, str(tmp_path / "died")) for number in range(3)]
    outcomes = sorted(ray_executor.run(die_unless_marked, tasks), key=lambda outcome: outcome.task)
    assert outcomes == [Outcome(task, report=task[0]) for task in tasks]


def test_a_report_that_does_not_pickle_fails_its_task(ray_executor: RayExecutor) -> None:
    (outcome,) = ray_executor.run(unpicklable, [0])
    assert outcome.report is None
    assert "generator" in (outcome.error or "")


def test_tasks_in_flight_are_bounded_and_workers_live_on(ray_executor: RayExecutor) -> None:
    given = 0

    def tasks() -> Iterator[int]:
        nonlocal given
        while given < 40:
            given += 1
            yield given

    reports = []
    for received, outcome in enumerate(ray_executor.run(worker, tasks()), start=1):
        assert given - received <= 2 * NUM_WORKERS
        reports.append(outcome.report)
    assert len(reports) == 40
    assert len({report[0] for report in reports if report}) <= NUM_WORKERS
    assert {report[1] for report in reports if report} == {"1"}


def test_executors_come_by_name() -> None:
    with make_executor("serial") as executor:
        assert executor == SerialExecutor()
    with make_executor("ray", num_workers=3) as executor:
        assert executor == RayExecutor(num_workers=3)
    with pytest.raises(CrossviewError, match="expected serial or ray"), make_executor("slurm"):
        pass


def test_executors_check_their_fields() -> None:
    with pytest.raises(CrossviewError, match="num_workers = 0"):
        RayExecutor(num_workers=0)
    with pytest.raises(CrossviewError, match="max_retries = -1"):
        RayExecutor(max_retries=-1)


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from pipelines.executors import make_executor
try:
    with make_executor("ray", num_workers=2) as executor:
        assert not list(executor.run(time.sleep, []))
        assert "ray" not in sys.modules, "ray is imported before it is used"
        for outcome in executor.run(time.sleep, [0] + 8 * [60]):
            print(outcome.task, outcome.error, flush=True)
except KeyboardInterrupt:
    import ray
    print("connected" if ray.is_initialized() else "shut down")
"""


@pytest.mark.slow
def test_an_interrupt_ends_the_work_and_the_cluster_from_any_folder(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "0 None\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output == "shut down\n"
    assert process.returncode == 0
