"""What a study types and what its sections name, checked before hours are spent on it."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any, NoReturn

from generation.bounds import require
from generation.errors import CrossviewError
from pipelines.cli import add_commands
from pipelines.commands import evaluate, pretrain
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.contenders import CONSTANT, named_weights
from pipelines.study.plan import Job, Section, Study, jobs_of, makers_of


def check_study(study: Study) -> None:
    """Check its commands and sections.

    Raises CrossviewError for what cannot be typed, or set of training, and for what a section names
    and no command makes, with what there is.
    """
    jobs = jobs_of(replace(study, needs={}))  # nothing is left out
    for job in jobs:
        _typed(job)
    commands = dict.fromkeys(job.command for job in jobs if job.arguments[:1] == ("pretrain",))
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
    labels = [*section.beside]
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
    options = _typed(job)
    with _named(job):
        labels = list(named_weights(options.weights, scratch=options.scratch))
        return labels, evaluate.chosen_benchmarks(options)


def _typed(job: Job) -> argparse.Namespace:
    with _named(job):
        options = _parser().parse_args(list(job.arguments))
        if options.command is pretrain.run:
            pretrain.config_of(options)
        return options


@contextmanager
def _named(job: Job) -> Iterator[None]:
    try:
        yield
    except CrossviewError as error:
        raise CrossviewError(f"command {job.command!r}: {error}") from error


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser()
    add_commands(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "add_help": False})  # which would end this process

    def error(self, message: str) -> NoReturn:
        raise CrossviewError(message)
