"""What the sections of a study name, sought in its commands before hours are spent on them."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import NoReturn

from generation.bounds import require
from generation.errors import CrossviewError
from pipelines.commands import evaluate
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.contenders import CONSTANT, named_weights
from pipelines.study.plan import Job, Section, Study, jobs_of, makers_of


def require_sections(study: Study) -> None:
    """Raise CrossviewError for what a section names and no command makes, with what there is."""
    jobs = jobs_of(replace(study, needs={}))  # nothing is left out
    commands = dict.fromkeys(job.command for job in jobs)
    for name, section in study.sections.items():
        key = f"sections.{name}"
        for command in section.runs.values():
            _require_one_of(commands, f"{key}.runs", command)
        if section.evaluation:
            judging = [job for job in jobs if job.arguments[:1] == ("evaluate",)]
            own = makers_of(study.out / section.evaluation, judging)
            known = ", ".join(f"{job.out}" for job in judging)
            allowed = f"a folder in {study.out} that crossview evaluate writes: {known}"
            require(bool(own), f"{key}.evaluation", section.evaluation, allowed)
            _require_judged(key, section, own)


def _require_judged(key: str, section: Section, jobs: Sequence[Job]) -> None:
    labels: list[str] = []
    benchmarks: list[Benchmark] = []
    for job in jobs:
        own_labels, own_benchmarks = _asked_of(job)
        labels += own_labels
        benchmarks += own_benchmarks
    if section.judged_on is None:
        tasks = {each.name: each.task for each in benchmarks}
    else:
        judged_on = dict.fromkeys(each.label for each in benchmarks if each.label)
        _require_one_of(judged_on, f"{key}.judged_on", section.judged_on)
        tasks = {e.task.name: e.task for e in benchmarks if e.label == section.judged_on}
    metrics = {name: [metric.name for metric in task.metrics] for name, task in tasks.items()}
    for name, metric in section.decisive.items():
        _require_one_of(metrics, f"{key}.decisive", name)
        _require_one_of(metrics[name], f"{key}.decisive.{name}", metric)
    for label in chain(*section.claims):
        _require_one_of([*labels, CONSTANT], f"{key}.claims", label)


def _require_one_of(known: Collection[str], key: str, name: str) -> None:
    require(name in known, key, name, f"one of {', '.join(known)}")


def _asked_of(job: Job) -> tuple[list[str], list[Benchmark]]:
    """Return the labels of weights, and the benchmarks, that an evaluate command names."""
    parser = _Parser()
    evaluate.add(parser.add_subparsers())
    try:
        options = parser.parse_args(list(job.arguments))
        labels = list(named_weights(options.weights, scratch=options.scratch))
        return labels, evaluate.chosen_benchmarks(options)
    except CrossviewError as error:
        raise CrossviewError(f"command {job.command!r}: {error}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CrossviewError(message)
