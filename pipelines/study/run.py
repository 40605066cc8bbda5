"""Run a study: as many commands at a time as there are cores, each done once.

Every command goes on from what it finds, so that a study that was stopped, is started again. What
is done is recorded in OUT/done, a file a command; another command line under the same name, or in
a stage before it, is another job. What commands print is in OUT/logs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.files import write_text_whole
from generation.folder_lock import locked
from generation.machine import memory_bytes, num_cores, processor
from pipelines.config import MANIFESTS
from pipelines.study.plan import Job, Study, jobs_of, lacks, stages_before
from training.metrics_log import read_lines
from training.provenance import git_commit
from training.stopping import StopRequest

logger = logging.getLogger(__name__)

_LAST_LINES = 15
_POLL_S = 0.5


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
            # Not for ever: a signal that another thread takes does not wake this one.
            for future in wait(running, _POLL_S, FIRST_COMPLETED).done:
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
