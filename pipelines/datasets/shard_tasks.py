"""Tasks that each leave a shard: done where they are missing, and awaited from other machines."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from generation.files import VISIBLE_SECONDS
from generation.renderers.choice import KINDS
from generation.renderers.gpu import is_gpu
from generation.scenes.sources import SceneSource
from generation.shard_task import ShardReport
from generation.shards.reader import read_each
from generation.versions import other_versions, versions
from pipelines.executors.protocol import Executor
from pipelines.progress import Progress

logger = logging.getLogger(__name__)


class ShardTask(Protocol):
    """A task that leaves a shard, or one a level."""

    @property
    def name(self) -> str:
        """Of its shard."""
        ...

    @property
    def scene(self) -> SceneSource:
        """What it shows."""
        ...

    @property
    def count(self) -> int:
        """Pairs asked for, of each level."""
        ...

    @property
    def num_pairs(self) -> int:
        """Pairs asked for, of all levels."""
        ...

    @property
    def renderer(self) -> str:
        """Who renders, by name."""
        ...

    def finished(self, *, verify: bool = False) -> Any:
        """Return what it left, where it is finished, or None; verify: read all of it."""
        ...


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True, kw_only=True)
class Made(Generic[Task]):
    """What became of tasks."""

    finished: dict[str, Any]
    """Task name -> what it left, in this run or an earlier one."""
    reports: list[ShardReport]
    """Of this run's workers."""
    failures: list[tuple[Task, str]]
    """Tasks that failed, and why."""


def make_missing(
    work: Callable[[Task], ShardReport],
    tasks: Sequence[Task],
    executor: Executor,
    out: Path,
    *,
    verify: bool,
) -> Made[Task]:
    """Do the tasks that are not finished or, with verify, whose shards are not what was written."""
    found = _found([(task, verify) for task in tasks])
    finished = {task.name: done for task, done in zip(tasks, found) if done}
    missing = [task for task in tasks if task.name not in finished]
    logger.info(
        "%d scenes, %d pairs in %d tasks; %d pairs to render with %s",
        len({task.scene.scene_id for task in tasks}),
        sum(task.num_pairs for task in tasks),
        len(tasks),
        sum(task.num_pairs for task in missing),
        tasks[0].renderer,
    )
    reports, failures = _done(work, missing, executor, tasks[0].renderer)
    for task, done in _awaited(missing, reports, verify=verify):
        if done:
            finished[task.name] = done
        elif task.name in reports:
            failures.append(
                (
                    task,
                    f"a worker wrote {task.name}.tar, but it is not in {out}: every machine must "
                    "see the same folder there, and have the same version of crossview",
                )
            )
    return Made(finished=finished, reports=list(reports.values()), failures=failures)


def _done(
    work: Callable[[Task], ShardReport], tasks: Sequence[Task], executor: Executor, renderer: str
) -> tuple[dict[str, ShardReport], list[tuple[Task, str]]]:
    """Do tasks; return the reports by task name, and what failed and why.

    Warns, as soon as a report says it, where a worker is not as good or not the same as the others,
    and where something is odd about a scene.
    """
    reports: dict[str, ShardReport] = {}
    failures: list[tuple[Task, str]] = []
    devices: Counter[str] = Counter()
    odd_scenes: set[str] = set()
    told_of_packages = False
    outcomes = executor.run(
        work,
        tasks,
        group=lambda task: task.scene.scene_id,
        recycle=KINDS[renderer].needs_fresh_process,
    )
    with Progress(sum(task.num_pairs for task in tasks), "pairs") as progress, closing(outcomes):
        for outcome in outcomes:
            progress.advance(outcome.task.num_pairs)
            report = outcome.report
            if report is None:
                failures.append((outcome.task, outcome.error or "no reason given"))
                continue
            reports[outcome.task.name] = report
            if report.device not in devices:
                _warn_of_software(renderer, report.device)
            devices[report.device] += 1
            if report.warning and report.scene_id not in odd_scenes:
                odd_scenes.add(report.scene_id)
                logger.warning("%s: %s", report.scene_id, report.warning)
            told_of_packages = told_of_packages or _warned_of_packages(report.versions)
    _tell_of_devices(renderer, devices)
    return reports, failures


def _tell_of_devices(renderer: str, devices: Counter[str]) -> None:
    for device, number in devices.items():
        logger.info("%s rendered %d shards on %s", renderer, number, device)
    if len(devices) > 1:
        logger.warning(
            "renderer %s: the shards are of %d devices (%s); the same command may give other bytes "
            "where they are dealt out differently",
            renderer,
            len(devices),
            ", ".join(sorted(devices)),
        )


def _warn_of_software(renderer: str, device: str) -> None:
    if KINDS[renderer].opengl and not is_gpu(device):
        logger.warning(
            "renderer %s: OpenGL renders in software (%s); where there is a GPU, let "
            "__EGL_VENDOR_LIBRARY_FILENAMES name its driver's EGL vendor file",
            renderer,
            device,
        )


def _warned_of_packages(theirs: Mapping[str, str]) -> bool:
    """Warn where a worker has other packages than this process; return whether it has."""
    here = versions()
    other = other_versions(here, theirs)
    if other:
        logger.warning(
            "a worker has other packages than this machine, and its shards may have other bytes; "
            "let all machines have the same: %s",
            ", ".join(f"{name} {theirs[name]} there, {here[name]} here" for name in other),
        )
    return bool(other)


def _awaited(
    tasks: Sequence[Task], reported: Container[str], *, verify: bool
) -> Iterator[tuple[Task, Any]]:
    """Yield tasks and what they left, or None, once what workers reported is seen here too.

    Those that none reported are asked once, as strictly as verify says: a damaged shard whose task
    failed is damaged still.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    found = _found([(task, verify and task.name not in reported) for task in tasks])
    for task, done in zip(tasks, found):
        while not done and task.name in reported and time.monotonic() < deadline:
            time.sleep(1)
            done = task.finished()
        yield task, done


def _found(tasks: Sequence[tuple[ShardTask, bool]]) -> Iterator[Any]:
    """Yield what each task left, or None; True beside it: by reading its whole shards."""
    if any(verify for _, verify in tasks):  # one at a time: those of a bucket are fetched whole
        return (task.finished(verify=verify) for task, verify in tasks)
    return read_each(lambda each: each[0].finished(), tasks)
