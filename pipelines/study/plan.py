"""What a study is: stages of crossview commands, and the sections of its report."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from generation.bounds import require
from generation.errors import CrossviewError
from generation.locations import location
from pipelines.config import MANIFESTS, load_named

STUDIES = MANIFESTS / "studies"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Commands that do not wait for each other."""

    commands: dict[str, str]
    """By name: a crossview command line without its first word. {out} stands for the study's
    folder, {seed} for the seed, {NAME} for a phrase of the study; {{seed}} leaves a {seed} for the
    command, as evaluate takes it."""
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
class Row:
    """What an evaluation said of some weights."""

    evaluation: str
    """Its folder, below the study's."""
    weights: str
    """Their label there."""


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
    beside: dict[str, Row] = field(default_factory=dict)
    """Label -> a row of another evaluation, also of another study's, shown in the same tables."""
    judged_on: str | None = None
    """Label of the shards of which alone the judgements are shown, also their name in
    Study.needs, where they need something; None: all."""
    samples: tuple[str, ...] = ()
    """Pictures of the evaluation that are shown, by their paths below its folder."""
    claims: tuple[tuple[str, ...], ...] = ()
    """Labels of the evaluation and of rows beside it, each said to be ahead of those after it."""
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
