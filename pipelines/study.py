"""A study: stages of crossview commands, as many at a time as there are cores, each done once.

Every command goes on from what it finds, so that a study that was stopped, is started again. What
is done is recorded in OUT/done, a file a command; another command line under the same name, or in
a stage before it, is another job. What commands print is in OUT/logs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.folder_lock import locked
from generation.locations import location
from generation.machine import memory_bytes, num_cores, processor
from pipelines.config import MANIFESTS, load_named
from training.metrics_log import read_lines
from training.provenance import git_commit
from training.stopping import StopRequest

logger = logging.getLogger(__name__)

STUDIES = MANIFESTS / "studies"
_LAST_LINES = 15
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Commands that do not wait for each other."""

    commands: dict[str, str]
    """By name: a crossview command line without its first word. {out} stands for the study's
    folder, {seed} for the seed, {NAME} for a phrase of the study."""
    seeds: int = 1
    """How often each is run, with seeds 0, 1, ... The name then ends in -SEED."""
    after: tuple[str, ...] | None = None
    """Stages before it that must be done when it begins; None: all of them."""
    threads: int = 1
    """Cores of each command; as many run at once as there are cores for."""

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        require(self.threads >= 1, "threads", self.threads, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the results: some runs of pre-training, or an evaluation."""

    heading: str
    text: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    """Label -> name of the command that pre-trained it, without its seed."""
    metrics: tuple[str, ...] = (
        "val_loss",
        "cross_view_gain",
        "geometry_all",
        "geometry_all_same_position",
        "geometry_moved",
    )
    """Of the last validation, a column each."""
    curve: str | None = None
    """A metric to be drawn over the steps of all runs."""
    axis: str | None = None
    """What the labels measure, where they are numbers: the metrics are drawn over them."""
    evaluation: str | None = None
    """Folder of an evaluation below the study's, whose tables and bars are shown."""
    judged_on: str | None = None
    """Label of the shards of which alone the judgements are shown, also their name in
    Study.needs, where they need something; None: all."""
    samples: tuple[str, ...] = ()
    """Pictures of the evaluation that are shown, by their paths below its folder."""
    claims: tuple[tuple[str, ...], ...] = ()
    """Labels of the evaluation, each of which is said to be ahead of those after it."""
    decisive: dict[str, str] = field(default_factory=dict)
    """Benchmark, without the label of judged_on -> the metric by which claims are judged."""

    def __post_init__(self) -> None:
        for label in self.runs if self.axis else ():
            require(_is_number(label), "runs", label, "a number, for axis draws over the labels")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is done, in this order, and how it is told."""

    title: str
    out: Path
    stages: dict[str, Stage]
    phrases: dict[str, str] = field(default_factory=dict)
    """Parts of command lines that many share, by name; each may have those before it in it."""
    needs: dict[str, Path] = field(default_factory=dict)
    """Command or phrase, or both of one name -> a file or folder without which it is left out."""
    text: str = ""
    """What the report begins with."""
    pictures: Path = Path("pictures")
    """Folder of the report's pictures, below that of the report."""
    sections: dict[str, Section] = field(default_factory=dict)
    """By name, with which those of their files in pictures begin."""

    def __post_init__(self) -> None:
        for name in self.phrases:
            require(name not in ("out", "seed"), "phrases", name, "a name that is not out or seed")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command, with one seed."""

    stage: str
    command: str
    """Its name in the stage."""
    seed: int
    name: str
    """Of command and, where there are several, seed."""
    arguments: tuple[str, ...]
    basis: str
    """Digest of the command lines of all stages that must be done before."""
    threads: int

    @property
    def line(self) -> str:
        """Return it as one types it."""
        return shlex.join(["crossview", *self.arguments])

    @property
    def out(self) -> Path | None:
        """Return the folder that it writes to, where it says one."""
        if "--out" not in self.arguments:
            return None
        return location(self.arguments[self.arguments.index("--out") + 1])


def load_study(name: str, overrides: dict[str, Any]) -> Study:
    """Load a study by its file, or by the name of one of ours.

    Raises ConfigError, or CrossviewError with the names there are.
    """
    return load_named(Study, STUDIES, name, overrides, what="study")


def jobs_of(study: Study) -> list[Job]:
    """Return all commands with all seeds, in the order of stages.

    Raises CrossviewError for unknown phrases, two commands of one name, and a stage after one that
    is not before it.
    """
    jobs: dict[str, Job] = {}
    before = stages_before(study)
    for stage_name, stage in study.stages.items():
        lines = "\n".join(job.line for job in jobs.values() if job.stage in before[stage_name])
        basis = hashlib.sha256(lines.encode()).hexdigest()
        for command, text in stage.commands.items():
            for seed in range(stage.seeds):
                name = f"{command}-{seed}" if stage.seeds > 1 else command
                if name in jobs:
                    raise CrossviewError(f"stage {stage_name!r}: there is a {name!r} already")
                jobs[name] = Job(
                    stage=stage_name,
                    command=command,
                    seed=seed,
                    name=name,
                    arguments=tuple(_filled(text, study, seed, command)),
                    basis=basis,
                    threads=stage.threads,
                )
    return list(jobs.values())


def makers_of(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that write to a folder."""
    return [job for job in jobs if ("--out", str(folder)) in pairwise(job.arguments)]


def _filled(text: str, study: Study, seed: int, name: str) -> list[str]:
    """Put values for names, those of phrases too; {{seed}} stays for the command."""
    words = {"out": shlex.quote(str(study.out)), "seed": str(seed)}
    try:
        for key, value in study.phrases.items():
            words[key] = "" if lacks(study, key) else value.format(**words)
        return shlex.split(text.format(**words))
    except (KeyError, IndexError, ValueError) as error:
        raise CrossviewError(
            f"command {name!r}: {error} is not to be filled in; known: out, seed, "
            f"{', '.join(study.phrases)}"
        ) from error


def run_study(study: Study, cores: int | None = None) -> list[str]:
    """Do what is not done; return the failures, a line each.

    Where a command fails, all go on but the stages that come after its own. SIGTERM and Ctrl-C end
    those that run, which neither are done then nor have failed. Raises CrossviewError as jobs_of
    does, and for needs of what there is not.
    """
    cores = num_cores() if cores is None else cores
    require(cores >= 1, "--cores", cores, "at least 1")
    jobs, before = jobs_of(study), stages_before(study)
    known = {*study.phrases, *(job.command for job in jobs)}
    for name, needed in study.needs.items():
        require(name in known, "needs", name, "a command or a phrase")
        if lacks(study, name):
            logger.warning("%s: left out, there is no %s", name, needed)
    for folder in ("done", "logs"):
        (study.out / folder).mkdir(parents=True, exist_ok=True)
    with locked(study.out), StopRequest() as stop, _minutes_added(_study_minutes_path(study)):
        possible = [job for job in jobs if not lacks(study, job.command)]
        failures = _run_all(study.out, possible, before, cores, stop)
        if stop():
            logger.warning("stopped; the same command goes on from here")
        return failures


def stages_before(study: Study) -> dict[str, set[str]]:
    """Return all stages that must be done before each; raise CrossviewError as jobs_of does."""
    before: dict[str, set[str]] = {}
    for name, stage in study.stages.items():
        after = list(before) if stage.after is None else stage.after
        if unknown := [each for each in after if each not in before]:
            raise CrossviewError(
                f"stage {name!r}: after {unknown[0]!r}, which is no stage before it; those are: "
                f"{', '.join(before) or 'none'}"
            )
        before[name] = set(after).union(*(before[each] for each in after))
    return before


def lacks(study: Study, name: str) -> Path | None:
    """Return what a command or phrase needs, where it neither is there nor was when it was done."""
    needed = study.needs.get(name)
    if needed is None or needed.exists():
        return None
    done = (study.out / "done" / f"{each}.json" for each in (name, f"{name}-0"))
    return None if any(path.exists() for path in done) else needed


def _run_all(
    out: Path, jobs: Sequence[Job], before: dict[str, set[str]], cores: int, stop: StopRequest
) -> list[str]:
    """Run what is left, earlier stages first, as far as there are cores."""
    left = [job for job in jobs if not is_done(out, job)]
    for stage in before:
        numbers = [sum(job.stage == stage for job in some) for some in (left, jobs)]
        logger.info("%s: %d of %d commands left", stage, *numbers)
    waiting = list(left)
    running: dict[Future[str | None], Job] = {}
    failures = []
    with ThreadPoolExecutor(cores) as pool:
        while not stop():
            unfinished = {job.stage for job in left}
            for job in [job for job in waiting if not before[job.stage] & unfinished]:
                used = sum(other.threads for other in running.values())
                if not running or used + job.threads <= cores:
                    waiting.remove(job)
                    running[pool.submit(_run, out, job, stop)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if problem := future.result():
                    failures.append(f"{job.name}: {problem}")
                    logger.warning("failed: %s", failures[-1])
                else:
                    left.remove(job)
    return failures


def is_done(out: Path, job: Job) -> bool:
    """Return whether this very command has been done, and its folder is there."""
    return record_of(out, job) is not None and (job.out is None or job.out.exists())


def record_of(out: Path, job: Job) -> dict[str, Any] | None:
    """Return what is known of how this very command was done; None where it was not."""
    try:
        record: dict[str, Any] = json.loads(_done_path(out, job).read_text())
        same = (record["command"], record["basis"]) == (job.line, job.basis)
        return record if same else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _done_path(out: Path, job: Job) -> Path:
    return out / "done" / f"{job.name}.json"


def _minutes_path(out: Path, job: Job) -> Path:
    return out / "logs" / f"{job.name}.minutes"


def _study_minutes_path(study: Study) -> Path:
    return study.out / "minutes"


@contextmanager
def _minutes_added(path: Path) -> Iterator[None]:
    """Add a line to a file: how long this block took."""
    began = time.monotonic()
    try:
        yield
    finally:
        with open(path, "a") as stream:
            stream.write(f"{(time.monotonic() - began) / 60:.3f}\n")


def _minutes_in(path: Path) -> float:
    return sum(map(float, path.read_text().split())) if path.exists() else 0.0


def _origins_added(out: Path, job: Job) -> dict[str, list[str]]:
    """Note commit and machine of one more go at a command line; return those of all of them."""
    path = out / "logs" / f"{job.name}.origins.jsonl"
    memory = f"{memory_bytes() / 1e9:.0f} GB of memory"
    origin = {
        "command": job.line,
        "commit": git_commit(MANIFESTS.parent) or "unknown",
        "machine": f"{os.cpu_count()} cores, {processor()}, {memory}",
    }
    with open(path, "a") as stream:
        stream.write(json.dumps(origin) + "\n")
    origins = [line for line in read_lines(path) if line["command"] == job.line]
    return {f"{name}s": sorted({line[name] for line in origins}) for name in ("commit", "machine")}


def _run(out: Path, job: Job, stop: StopRequest) -> str | None:
    """Run a command to its end; return what went wrong, which is nothing where it was stopped."""
    logger.info("%s: %s", job.name, job.line)
    log = out / "logs" / f"{job.name}.log"
    try:
        origins = _origins_added(out, job)
        with _minutes_added(_minutes_path(out, job)):
            status = _status_of(job, log, stop)
        if stop():  # whatever the status: training that was told to stop saves, and exits with 0
            return None
        if status:
            tail = "\n    ".join(log.read_text().splitlines()[-_LAST_LINES:])
            return f"exit status {status}; {log} ends:\n    {tail}"
        record = {"command": job.line, "basis": job.basis, **origins}
        write_text_whole(_done_path(out, job), json.dumps(record, indent=1) + "\n")
    except OSError as error:  # the disk is full: said now, while others go on
        return str(error)
    logger.info("%s: done after %.1f min", job.name, _minutes_in(_minutes_path(out, job)))
    return None


def _status_of(job: Job, log: Path, stop: StopRequest) -> int:
    """Run a command; return its exit status."""
    # Otherwise every command would start readers for all cores.
    share = dict.fromkeys(("OMP_NUM_THREADS", "PYTHON_CPU_COUNT"), str(job.threads))
    with open(log, "a") as stream:
        stream.write(f"$ {job.line}\n")
        stream.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *job.arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **share},
            start_new_session=True,  # Ctrl-C reaches it by way of us
        )
        return _end_of(process, stop)


def _end_of(process: subprocess.Popen[bytes], stop: StopRequest) -> int:
    """Wait for a command to end, and end it when asked to; return its exit status."""
    while True:
        try:
            return process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            if stop():
                process.terminate()
                return process.wait()


def minutes_of(study: Study) -> dict[str, float]:
    """Return how long the commands of each stage took in all, those that failed too.

    What a command took that was killed with -9 together with the study is not known.
    """
    minutes = dict.fromkeys(study.stages, 0.0)
    for job in jobs_of(study):
        minutes[job.stage] += _minutes_in(_minutes_path(study.out, job))
    return minutes


def wall_minutes(study: Study) -> float:
    """Return for how long the study ran, as often as it was started; what ended by -9 is lost."""
    return _minutes_in(_study_minutes_path(study))
