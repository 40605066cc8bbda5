"""Executors: one outcome a task, whatever the task does to its worker."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import task_functions

from generation.errors import CrossviewError
from pipelines.executors import on_ray as module
from pipelines.executors.choice import EXECUTORS, make_executor
from pipelines.executors.on_ray import RayExecutor
from pipelines.executors.protocol import Executor, Outcome
from pipelines.executors.serial import SerialExecutor
from pipelines.executors.task_queue import QueueEntry, TaskQueue
from pipelines.executors.worker import GIB, Fault, Limits, Reply

NUM_WORKERS = 2
LIMITS = Limits(seconds=6, memory_gib=1, attempts=2)


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[RayExecutor]:
    with closing(RayExecutor(num_workers=NUM_WORKERS, limits=LIMITS)) as executor:
        yield executor


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        yield request.getfixturevalue("ray_executor")
    else:
        with make_executor(request.param, limits=LIMITS) as other:
            yield other


def by_task(outcome: Outcome) -> int:
    return outcome.task


def test_every_task_gets_one_outcome_and_a_failed_one_says_why(executor: Executor):
    outcomes = sorted(executor.run(task_functions.square, range(7)), key=by_task)
    assert [outcome.task for outcome in outcomes] == list(range(7))
    assert [outcome.report for outcome in outcomes] == [0, 1, 4, None, 16, None, 36]
    errors = {outcome.task: outcome.error for outcome in outcomes if outcome.error}
    assert errors.keys() == {3, 5}
    assert errors[3] == "scene three has no floor"
    assert errors[5].startswith("KeyError: 'five' (task_functions.py:")


def test_no_tasks_give_no_outcomes(executor: Executor):
    assert list(executor.run(task_functions.square, [])) == []


def test_a_task_whose_worker_always_dies_fails_and_the_others_finish(
    executor: Executor, caplog: pytest.LogCaptureFixture
):
    outcomes = sorted(executor.run(task_functions.die_on_one, range(6)), key=by_task)
    assert [outcome.report for outcome in outcomes] == [0, None, 2, 3, 4, 5]
    assert outcomes[1].error == "the worker process was killed (SIGKILL), 2 times"
    assert outcomes[1].fault is Fault.DEATH
    assert caplog.messages == [
        "the worker process was killed (SIGKILL) while it did 1; trying again"
    ]


def test_a_task_whose_worker_dies_once_succeeds(executor: Executor, tmp_path: Path):
    tasks = [(number, str(tmp_path / "died")) for number in range(3)]
    outcomes = sorted(executor.run(task_functions.die_unless_marked, tasks), key=lambda o: o.task)
    assert outcomes == [Outcome(task, report=task[0]) for task in tasks]


def test_a_crash_in_native_code_is_named():
    with closing(SerialExecutor(limits=LIMITS)) as executor:
        (outcome,) = executor.run(task_functions.crash, [0])
    assert outcome.error == "the worker process crashed (SIGABRT), 2 times"


def test_a_report_that_does_not_pickle_fails_its_task(executor: Executor):
    (outcome,) = executor.run(task_functions.unpicklable, [0])
    assert outcome.report is None
    assert "generator" in (outcome.error or "")


@pytest.mark.parametrize("recycle", [False, True])
def test_a_recycled_worker_process_does_one_group(executor: Executor, recycle: bool):
    tasks = [10, 11, 12, 20, 21, 22, 30, 31, 32]
    outcomes = executor.run(
        task_functions.process, tasks, group=lambda task: task // 10, recycle=recycle
    )
    groups_of: dict[int, set[int]] = {}
    for outcome in outcomes:
        assert outcome.report
        groups_of.setdefault(outcome.report[0], set()).add(outcome.task // 10)
    if recycle:
        assert all(len(groups) == 1 for groups in groups_of.values())
    else:
        assert len(groups_of) <= NUM_WORKERS


@pytest.mark.parametrize("function", [task_functions.allocate, task_functions.parse_memory])
def test_a_task_that_needs_too_much_memory_fails_and_the_others_finish(executor, function):
    outcomes = sorted(executor.run(function, [1, 2, 4 * GIB]), key=by_task)
    assert [outcome.report for outcome in outcomes] == [1, 2, None]
    assert outcomes[2].fault is Fault.MEMORY
    assert outcomes[2].error == "needs more than the 1 GiB of memory of a worker (--worker-memory)"


def test_a_task_that_hangs_is_ended_with_its_group_and_the_others_finish(executor: Executor):
    tasks = [("slow", 0), ("slow", 1), ("slow", 2), ("quick", 3), ("quick", 4)]
    began = time.monotonic()
    outcomes = list(executor.run(task_functions.sleep_if_marked, tasks, group=lambda task: task[0]))
    assert time.monotonic() - began < 40
    assert sorted(outcome.task for outcome in outcomes) == sorted(tasks)
    for outcome in outcomes:
        slow = outcome.task[0] == "slow"
        assert outcome.fault is (Fault.TIME if slow else None)
        assert outcome.report == (None if slow else outcome.task[1])
        if slow:
            assert outcome.error == (
                "not finished within the limit of 6 s for a task (--task-timeout)"
            )


@pytest.mark.parametrize(
    "work", [task_functions.write_to_full_disk, task_functions.fetch_to_full_disk]
)
def test_a_full_disk_ends_the_run_at_once(executor: Executor, work):
    with pytest.raises(CrossviewError, match=r"No space left on device; .* Make room"):
        list(executor.run(work, range(100)))
    assert len(list(executor.run(task_functions.square, range(3)))) == 3


def test_what_one_machine_alone_cannot_do_is_told_at_once(executor: Executor):
    outcomes = list(executor.run(task_functions.write_where_nothing_is, range(3)))
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert outcome.fault is Fault.MACHINE
        assert re.fullmatch(
            r"on \S+: .*No such file or directory: '/nowhere/at/all'", outcome.error
        )


def test_workers_live_on_between_tasks_and_keep_to_one_core(ray_executor: RayExecutor):
    reports = [outcome.report for outcome in ray_executor.run(task_functions.process, range(40))]
    assert len(reports) == 40
    assert len({pid for pid, _, _ in reports}) <= NUM_WORKERS
    assert {threads for _, _, threads in reports} == {"1"}


def test_a_ray_worker_that_is_killed_is_replaced(ray_executor: RayExecutor):
    # The process that Ray knows, not the one that does the task: its parent.
    running = ray_executor.run(task_functions.process, range(200))
    outcomes = list(itertools.islice(running, 20))
    os.kill(outcomes[-1].report[1], signal.SIGKILL)
    outcomes += running
    assert sorted(outcome.task for outcome in outcomes) == list(range(200))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert len({outcome.report[1] for outcome in outcomes}) == NUM_WORKERS + 1


def actors_of_which_die(folder: Path, good: Callable[[int], bool]) -> type:
    """Return actors that die when they start, but for those of some numbers."""

    class Mortal(module._WorkerActor):
        def start(self) -> Reply:
            number = 0
            while True:
                try:
                    os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL))
                    break
                except FileExistsError:
                    number += 1
            if not good(number):
                os._exit(1)
            return super().start()

    return Mortal


@pytest.mark.slow
def test_a_machine_on_which_no_worker_starts_leaves_the_others_at_work(
    ray_executor: RayExecutor, tmp_path: Path, monkeypatch
):
    """One worker starts; those beside it die at once while its first task takes long."""
    monkeypatch.setattr(
        module, "_WorkerActor", actors_of_which_die(tmp_path, lambda number: number == 0)
    )
    monkeypatch.setattr(module, "MAX_FALSE_STARTS", 1)
    outcomes = list(ray_executor.run(time.sleep, [2.5, 0.0, 0.0]))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    # One at once, and at most one more each time that the other answers.
    assert 1 <= len(list(tmp_path.iterdir())) - 1 <= 3


@pytest.mark.slow
def test_workers_that_never_start_end_the_run(
    ray_executor: RayExecutor, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(module, "_WorkerActor", actors_of_which_die(tmp_path, lambda number: False))
    with pytest.raises(CrossviewError, match="Ray's workers do not start: the worker was lost"):
        list(ray_executor.run(time.sleep, [0.0] * 9))
    assert len(list(tmp_path.iterdir())) < module.MAX_FALSE_STARTS + NUM_WORKERS


def test_a_run_that_is_given_up_leaves_no_process_at_work(executor: Executor, tmp_path: Path):
    running = executor.run(task_functions.begin_and_hang, [str(tmp_path)])
    if isinstance(executor, RayExecutor):
        # A second task makes the generator come to a yield while the first one hangs.
        running = executor.run(
            task_functions.begin_and_hang, [str(tmp_path), str(tmp_path / "gone")]
        )
        assert "No such file or directory" in next(running).error
        (pid,) = wait_for(lambda: [int(path.name) for path in tmp_path.iterdir()])
    else:
        assert next(running).fault is Fault.TIME
        (pid,) = [int(path.name) for path in tmp_path.iterdir()]
    running.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def test_executors_come_by_name():
    with make_executor("serial", limits=LIMITS) as executor:
        assert executor == SerialExecutor(limits=LIMITS)
    with make_executor("ray", num_workers=3) as executor:
        assert executor == RayExecutor(num_workers=3)
    for given in ({"num_workers": 8}, {"address": "nowhere:1"}):
        with pytest.raises(CrossviewError, match="needs --executor ray"):
            make_executor("serial", **given).__enter__()
    with pytest.raises(CrossviewError, match="expected ray or serial"), make_executor("slurm"):
        pass


def test_executors_check_their_fields():
    with pytest.raises(CrossviewError, match="num_workers = 0"):
        RayExecutor(num_workers=0)
    for name in ("seconds", "memory_gib", "attempts"):
        with pytest.raises(CrossviewError, match=f"{name} = 0: expected"):
            Limits(**{name: 0})
        if name != "attempts":
            with pytest.raises(CrossviewError, match=f"{name} = inf: expected .* at most"):
                Limits(**{name: float("inf")})


def done(entry: QueueEntry, queue: TaskQueue) -> None:
    entry.attempts += 1
    assert len(list(queue.resolve(entry, Reply(report=b"N.")))) == 1


def test_one_worker_takes_tasks_in_their_order_group_by_group():
    queue = TaskQueue(["a1", "b1", "a2", "b2"], lambda task: task[0], attempts=1)
    taken = []
    entry = None
    while entry := queue.take(entry):
        taken.append(entry.task)
        done(entry, queue)
    assert taken == ["a1", "a2", "b1", "b2"]
    assert queue.num_open == 0


def test_the_longest_group_is_begun_first_and_the_longest_left_gets_help():
    tasks = ["a1", "b1", "b2", "b3", "b4", "c1", "c2"]
    queue = TaskQueue(tasks, lambda task: task[0], attempts=1)
    first, second = queue.take(None), queue.take(None)
    assert (first.task, second.task) == ("b1", "c1")
    assert queue.take(second).task == "c2"
    assert queue.take(second).task == "a1"  # nobody has begun it
    assert queue.take(second).task == "b2"  # all are begun: help
    assert queue.take(first).task == "b3"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_dies_and_hangs_every_task_is_resolved_once(seed: int):
    rng = random.Random(seed)
    tasks = [(scene, number) for scene in range(20) for number in range(rng.randint(1, 8))]
    queue = TaskQueue(tasks, lambda task: task[0], attempts=3)
    workers: list[QueueEntry | None] = [None] * 5
    resolved = Counter()
    while queue.num_open:
        worker = rng.randrange(len(workers))
        if workers[worker] is None:
            workers[worker] = queue.take(None)
            continue
        workers[worker].attempts += 1
        fault = rng.choice([None, None, Fault.DEATH, Fault.TIME, Fault.ERROR])
        reply = Reply(fault=fault, error="e") if fault else Reply(report=b"N.")
        resolved.update(outcome.task for outcome in queue.resolve(workers[worker], reply))
        workers[worker] = None if fault is Fault.DEATH else queue.take(workers[worker])
    assert resolved == Counter(tasks)


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from pipelines.executors.choice import make_executor
try:
    with make_executor(sys.argv[1]) as executor:
        assert not list(executor.run(time.sleep, []))
        assert "ray" not in sys.modules, "ray is imported before it is used"
        for outcome in executor.run(time.sleep, [0] + 8 * [60]):
            print(outcome.task, outcome.error, flush=True)
except KeyboardInterrupt:
    ray = sys.modules.get("ray")
    print("connected" if ray and ray.is_initialized() else "shut down")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXECUTORS)
def test_an_interrupt_ends_the_work_and_the_cluster_from_any_folder(tmp_path: Path, name: str):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, name],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "0 None\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert output == "shut down\n"
    assert "Traceback" not in errors
    assert process.returncode == 0


def test_files_that_lie_around_are_not_imported(tmp_path: Path, monkeypatch):
    (tmp_path / "random.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    with closing(SerialExecutor(limits=LIMITS)) as executor:
        (outcome,) = executor.run(abs, [-1])
    assert outcome.report == 1, outcome.error
