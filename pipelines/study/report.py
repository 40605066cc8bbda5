"""What came out of a study: tables and plots, and how far apart the contenders are."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from generation.files import write_text_whole
from pipelines.evaluation.benchmarks import task_and_label
from pipelines.evaluation.contenders import CONSTANT
from pipelines.evaluation.figures import bars_figure
from pipelines.evaluation.report import (
    MISSING,
    Summary,
    bars_of,
    first_metrics,
    heading,
    parts_of,
)
from pipelines.figures.charts import (
    LIGHT,
    OTHER_COLOURS,
    colours_of,
    save_figure,
    shades_of,
    standard_error,
    strip,
)
from pipelines.study.plan import Job, Section, Study, jobs_of, lacks, makers_of
from pipelines.study.run import is_done, minutes_of, record_of, wall_minutes
from pipelines.tables import markdown_table
from training.downstream.task import Metric
from training.metrics_log import read_lines

REPORT_NAME = "RESULTS.md"
_DIGITS = 3
_SAME_PLACE = "_same_position"
PRETRAINING_METRICS = {
    "val_loss": ("squared error of hidden, normalised patches", False),
    "cross_view_gain": ("share of the loss that the right reference saves", True),
    "geometry_all": ("share of hidden patches that attention finds", True),
    "geometry_moved": ("share of moved hidden patches that attention finds", True),
}
"""What the metrics of a validation are, and whether more is better."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The validations of the runs of one label."""

    label: str
    validations: dict[int, tuple[dict[str, float], ...]]
    """By seed."""

    def last(self, metric: str) -> list[float]:
        """Return a metric at the end of each run that has it."""
        ends = [lines[-1] for lines in self.validations.values()]
        return [end[metric] for end in ends if metric in end]

    def text(self, metric: str) -> str:
        """Return the same for a table."""
        return Summary(values=tuple(self.last(metric))).text(_DIGITS)


def write_study_report(study: Study, folder: Path) -> str:
    """Write folder/RESULTS.md and its pictures of what has been done so far; return the text."""
    parts = [f"# {study.title}", study.text.strip()]
    jobs = jobs_of(study)
    for name, section in study.sections.items():
        exhibits = Exhibits(folder=folder, below=study.pictures, prefix=name)
        parts.append(f"## {section.heading}")
        parts.append(section.text.strip())
        if section.runs:
            parts += _run_parts(exhibits, section, _runs(study, jobs, section))
        if section.evaluation:
            parts += _evaluation_parts(study, jobs, exhibits, section)
    parts += ["## What it took", _cost(study, jobs)]
    text = "\n\n".join(part for part in parts if part)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / REPORT_NAME, text + "\n")
    return text


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """What lies beside the report for a section, and how the report shows it."""

    folder: Path
    """Of the report."""
    below: Path
    prefix: str

    def draw(self, name: str, title: str, figure: Figure) -> str:
        """Save a figure; return the Markdown that shows it."""
        save_figure(self._path(f"{name}.png"), figure)
        return f"!{self._link(f'{name}.png', title)}"

    def copy(self, name: str, title: str, path: Path) -> str:
        """Copy a PNG; return the Markdown that shows it."""
        shutil.copyfile(path, self._path(f"{name}.png"))
        return f"!{self._link(f'{name}.png', title)}"

    def values(self, name: str, records: Sequence[dict[str, Any]]) -> str:
        """Write the numbers of every seed as JSON, a record a line; return a link to them."""
        lines = ",\n".join(json.dumps(record) for record in records)
        write_text_whole(self._path(f"{name}.json"), f"[\n{lines}\n]\n")
        return f"({self._link(f'{name}.json', 'The numbers of every seed')})"

    def _path(self, name: str) -> Path:
        path = self.folder / self._relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _relative(self, name: str) -> Path:
        return self.below / f"{self.prefix}_{name}"

    def _link(self, name: str, title: str) -> str:
        return f"[{title}]({self._relative(name).as_posix()})"


def _runs(study: Study, jobs: Sequence[Job], section: Section) -> list[Runs]:
    """Return the runs of a section that are done."""
    found = []
    for label, name in section.runs.items():
        own = [job for job in jobs if job.command == name]
        folders = {job.seed: job.out for job in own if job.out and is_done(study.out, job)}
        validations = {
            seed: lines for seed, folder in folders.items() if (lines := _validations(folder))
        }
        if validations:
            found.append(Runs(label=label, validations=validations))
    return found


def _validations(folder: Path) -> tuple[dict[str, float], ...]:
    lines = read_lines(folder / "metrics.jsonl")
    return tuple(line for line in lines if line["kind"] == "val")


def _run_parts(exhibits: Exhibits, section: Section, runs: Sequence[Runs]) -> list[str]:
    if not runs:
        return ["Not run yet."]
    rows = [
        [
            each.label,
            *map(each.text, section.metrics),
            str(len(each.validations)),
        ]
        for each in runs
    ]
    last = [
        {"model": each.label, "seed": seed, **lines[-1]}
        for each in runs
        for seed, lines in each.validations.items()
    ]
    table = markdown_table(["model", *map(_heading, section.metrics), "seeds"], rows)
    parts = [table, exhibits.values("runs", last)]
    if section.curve:
        figure = _curves(section.curve, runs)
        parts.append(exhibits.draw("curve", f"{section.curve} over steps", figure))
    if section.axis:
        figure = _over_axis(section.axis, section.metrics, runs)
        parts.append(exhibits.draw("axis", f"the metrics over {section.axis}", figure))
    return parts


def _heading(metric: str) -> str:
    """Return a metric's name, with an arrow to where it is better, where that is known."""
    if metric not in PRETRAINING_METRICS:
        return metric
    return heading(Metric(name=metric, higher_is_better=PRETRAINING_METRICS[metric][1]))


def _axis_label(metric: str, width: int) -> str:
    """Return what a metric is and its name, in lines of at most so many letters."""
    about, _ = PRETRAINING_METRICS.get(metric, ("", False))
    return "\n".join([*textwrap.wrap(about, width), _heading(metric)])


def _axes(count: int, width: float) -> tuple[Figure, list[Any]]:
    """Return a figure of count charts of this width in inches, side by side."""
    figure = Figure(figsize=(width * count, 3.2), layout="constrained")
    charts = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in charts:
        axes.tick_params(colors=LIGHT.soft)
        strip(axes)
    return figure, charts


def _curves(metric: str, runs: Sequence[Runs]) -> Figure:
    """Draw a metric over the steps of training, a line a seed, and what chance is, where known."""
    figure, (axes,) = _axes(1, 6.4)
    chance = [value for each in runs for value in each.last(f"{metric}_random")]
    if chance:
        axes.axhline(fmean(chance), color=LIGHT.soft, linestyle=":", label="a random patch")
    for each, colour in zip(runs, shades_of(colours_of([each.label for each in runs]))):
        label: str | None = each.label
        for lines in each.validations.values():
            points = [(line["step"], line[metric]) for line in lines if metric in line]
            if points:
                axes.plot(
                    *zip(*points),
                    color=colour,
                    linewidth=1.6,
                    marker="o",
                    markersize=3,
                    label=label,
                )
                label = None  # of the first line alone
    axes.set_xlabel("steps", color=LIGHT.ink)
    axes.set_ylabel(_axis_label(metric, 40), color=LIGHT.ink, fontsize=9)
    axes.legend(frameon=False, labelcolor=LIGHT.ink)
    return figure


def _over_axis(axis: str, metrics: Sequence[str], runs: Sequence[Runs]) -> Figure:
    """Draw metrics at the end over what the labels measure, with two standard errors.

    What looking at the same place would reach is a line in the chart of its metric.
    """
    drawn = [metric for metric in metrics if not metric.endswith(_SAME_PLACE)]
    figure, charts = _axes(len(drawn), 3.2)
    for axes, metric in zip(charts, drawn):
        if same := [value for each in runs for value in each.last(f"{metric}{_SAME_PLACE}")]:
            axes.axhline(fmean(same), color=LIGHT.soft, linestyle=":", label="the same place")
            axes.legend(frameon=False, labelcolor=LIGHT.soft, fontsize=8)
        points = [(float(each.label), each.last(metric)) for each in runs if each.last(metric)]
        for place, values in points:
            axes.plot([place] * len(values), values, "o", color=LIGHT.soft, markersize=3)
        axes.errorbar(
            [place for place, _ in points],
            [fmean(values) for _, values in points],
            [2 * standard_error(values) if len(values) > 1 else 0.0 for _, values in points],
            color=OTHER_COLOURS[0],
            marker="o",
            capsize=4,
        )
        axes.set_title(_axis_label(metric, 34), color=LIGHT.ink, fontsize=9)
        axes.set_xlabel(axis, color=LIGHT.soft, fontsize=8)
    return figure


def _evaluation_parts(
    study: Study, jobs: Sequence[Job], exhibits: Exhibits, section: Section
) -> list[str]:
    """Return what an evaluation says."""
    assert section.evaluation is not None
    folder = study.out / section.evaluation
    own = makers_of(folder, jobs)
    if not (found := _records(folder)):
        return [_not_run(study, *(job.command for job in own))]
    records = [
        each for each in found if section.judged_on in (None, task_and_label(each["benchmark"])[1])
    ]
    if not records:
        return [_not_run(study, section.judged_on)]
    others = _rows_beside(study, section, {each["benchmark"] for each in records})
    missing = [label for label, rows in others.items() if not rows]
    records = sorted(chain(records, *others.values()), key=lambda e: e["weights"] == CONSTANT)
    parts = [f"There is no {label} yet." for label in missing]
    parts += [f"### {part}" for part in parts_of(records)]
    parts.append(exhibits.values("evaluation", records))
    if not all(is_done(study.out, job) for job in own):
        parts.insert(0, "Its command has not been done to its end, or is another by now.")
    first = first_metrics(records)
    suffix = f"-{section.judged_on}" if section.judged_on else ""
    decisive = {f"{name}{suffix}": metric for name, metric in section.decisive.items()} or first
    judged = {(each["benchmark"], each["metric"]) for each in records}
    # None, where a command that is another by now judged what decided then.
    if bars := [bars_of(records, *what) for what in decisive.items() if what in judged]:
        title = "the metrics that decide" if section.decisive else "the first metric of each"
        parts.append(exhibits.draw("bars", title, bars_figure(bars)))
    parts += [_claims(records, section.claims, decisive)] if section.claims else []
    for number, sample in enumerate(section.samples):
        if (folder / sample).exists():
            parts.append(f"{Path(sample).parent.as_posix()}:")
            parts.append(exhibits.copy(f"sample_{number}", sample, folder / sample))
        else:
            parts.append(f"There is no {sample}.")
    return parts


def _records(folder: Path) -> list[dict[str, Any]]:
    """Return what an evaluation's results.json holds; nothing where there is none."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def _rows_beside(
    study: Study, section: Section, benchmarks: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the records of other evaluations that a section shows, by their labels here."""
    return {
        label: [
            {**each, "weights": label}
            for each in _records(study.out / row.evaluation)
            if each["weights"] == row.weights and each["benchmark"] in benchmarks
        ]
        for label, row in section.beside.items()
    }


def _not_run(study: Study, *names: str | None) -> str:
    lacking = [needed for name in names if name and (needed := lacks(study, name))]
    return f"Left out: there is no {lacking[0]} here." if lacking else "Not run yet."


def _claims(
    records: Sequence[dict[str, Any]],
    claims: Sequence[tuple[str, ...]],
    decisive: dict[str, str],
) -> str:
    """Return a table of how far each is ahead, in standard errors of the difference."""
    values = {(r["benchmark"], r["metric"], r["weights"]): r for r in records}
    pairs = dict.fromkeys(pair for claim in claims for pair in combinations(claim, 2))
    rows = [
        [ahead, behind, benchmark, metric, *_lead(values, (benchmark, metric), ahead, behind)]
        for ahead, behind in pairs
        for benchmark, metric in decisive.items()
    ]
    headers = [
        *("claimed to be ahead", "of", "benchmark", "metric"),
        *("lead (below 0: behind)", "standard errors", "more than two"),
    ]
    return "The claims:\n\n" + markdown_table(headers, rows)


def _lead(
    values: dict[tuple[str, str, str], dict[str, Any]],
    what: tuple[str, str],
    ahead: str,
    behind: str,
) -> list[str]:
    record, other = (values.get((*what, label)) for label in (ahead, behind))
    if record is None or other is None or not record["values"] or not other["values"]:
        return [MISSING] * 3
    sign = 1 if record["higher_is_better"] else -1
    lead = sign * (fmean(record["values"]) - fmean(other["values"]))
    shown = f"{lead:+.{_DIGITS}f}"
    if min(len(record["values"]), len(other["values"])) < 2:
        return [shown, MISSING, MISSING]
    both = math.hypot(*(standard_error(each["values"]) for each in (record, other)))
    if not both:
        return [shown, "no spread", MISSING]
    verdict = "no" if abs(lead) <= 2 * both else "yes" if lead > 0 else "behind"
    return [shown, f"{lead / both:+.1f}", verdict]


def _short(commit: str) -> str:
    """Return a commit by its first digits, and whether files had changed since."""
    digest, dash, dirty = commit.partition("-")
    return digest[:10] + dash + dirty


def _cost(study: Study, jobs: Sequence[Job]) -> str:
    minutes = minutes_of(study)
    minutes["all"] = sum(minutes.values())
    minutes["by the clock"] = wall_minutes(study)
    rows = [[name, f"{value:.1f}"] for name, value in minutes.items()]
    records = [record for job in jobs if (record := record_of(study.out, job))]
    machines = sorted({machine for record in records for machine in record["machines"]})
    commits = sorted({_short(commit) for record in records for commit in record["commits"]})
    table = markdown_table(["stage", "minutes"], rows)
    return (
        f"{table}\n\nMachine: {'; '.join(machines) or 'none yet'}. "
        f"Commits: {', '.join(commits) or 'not known'}."
    )
