"""What came out of an evaluation, as a table for people and for programs, and as a plot."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from generation.files import write_text_whole
from pipelines.contenders import CONSTANT, Contender
from pipelines.evaluate import Cell, Failure
from pipelines.evaluation_benchmarks import Benchmark
from pipelines.evaluation_figures import Bars, bars_figure
from pipelines.figures import save_figure
from training.downstream.metrics import mean_rank
from training.downstream.task import Metric

MISSING = "-"
CONSTANT_ROW = f"{CONSTANT} (the same of every example)"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one model on one benchmark, over seeds."""

    values: tuple[float, ...]
    """Of the seeds that have it."""

    @property
    def mean(self) -> float:
        """Return the mean; NaN of no values."""
        return fmean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """Return the standard deviation of a sample; NaN of fewer than two values."""
        return stdev(self.values) if len(self.values) > 1 else math.nan

    def text(self, digits: int, of: int | None = None) -> str:
        """Return mean and deviation for a table, and of how many seeds, where some have none."""
        if not self.values:
            return MISSING
        text = f"{self.mean:.{digits}f}"
        if not math.isnan(self.deviation):
            text += f" ± {self.deviation:.{digits}f}"
        return text if of in (None, len(self.values)) else f"{text} ({len(self.values)} of {of})"


def summary(cells: Sequence[Cell], benchmark: str, label: str, metric: str) -> Summary:
    """Return what the seeds of one model say."""
    own = [cell for cell in cells if (cell.benchmark, cell.label) == (benchmark, label)]
    return Summary(values=tuple(cell.metrics[metric] for cell in own if metric in cell.metrics))


def write_report(
    out: Path,
    title: str,
    benchmarks: Sequence[Benchmark],
    models: Sequence[Contender],
    cells: Sequence[Cell],
    failures: Sequence[Failure] = (),
) -> str:
    """Write results.json, results.md and results.png into out; return the Markdown."""
    labels = [model.label for model in models]
    records = _plain(benchmarks, labels, cells, failures)
    sections = [_section(each, labels, cells, failures) for each in benchmarks]
    text = "\n\n".join([f"# {title}", *sections, *ranks_of(records)])
    out.mkdir(parents=True, exist_ok=True)
    write_text_whole(out / "results.md", text + "\n")
    write_text_whole(out / "results.json", json.dumps(records, indent=1))
    charts = [bars_of(records, *what) for what in first_metrics(records).items()]
    save_figure(out / "results.png", bars_figure(charts))
    return text


def _section(
    benchmark: Benchmark,
    labels: Sequence[str],
    cells: Sequence[Cell],
    failures: Sequence[Failure],
) -> str:
    metrics = benchmark.task.metrics
    failed = [failure for failure in failures if failure.benchmark == benchmark.name]
    headers = ["weights", *(heading(metric) for metric in metrics), "seeds", "minutes a seed"]
    rows = []
    for label in labels:
        own = [c for c in cells if (c.benchmark, c.label) == (benchmark.name, label)]
        asked = len(own) + sum(failure.label == label for failure in failed)
        values = [
            summary(cells, benchmark.name, label, m.name).text(m.digits, of=asked) for m in metrics
        ]
        minutes = _minutes(cells, benchmark.name, label)
        shown = MISSING if minutes is None else f"{minutes:.1f}"
        rows.append([label, *values, str(len(own)), shown])
    constant = [summary(cells, benchmark.name, CONSTANT, m.name).text(m.digits) for m in metrics]
    if any(value != MISSING for value in constant):
        rows.append([CONSTANT_ROW, *constant, MISSING, MISSING])
    trained = [cell for cell in cells if cell.label != CONSTANT]
    done = [cell.num_steps for cell in trained if cell.benchmark == benchmark.name]
    steps = max(done, default=0)
    training = f"{steps} steps of {benchmark.recipe.batch_size}" if steps else "no training"
    about = f"{benchmark.task.summary} ({training}.)" if done else benchmark.task.summary
    parts = [f"## {benchmark.name}", about, markdown_table(headers, rows)]
    if failed:
        reasons = [f"- {each.label}, seed {each.seed}: {each.reason}" for each in failed]
        parts.append("Missing:\n\n" + "\n".join(reasons))
    return "\n\n".join(parts)


def _minutes(cells: Sequence[Cell], benchmark: str, label: str) -> float | None:
    """Return the mean wall time of a seed, in minutes; None where all failed."""
    own = [cell for cell in cells if (cell.benchmark, cell.label) == (benchmark, label)]
    return fmean(cell.cost_s for cell in own) / 60 if own else None


def heading(metric: Metric) -> str:
    """Return a metric's name and unit, with an arrow to where it is better."""
    arrow = "↑" if metric.higher_is_better else "↓"
    told = not metric.unit or metric.name.endswith(f"_{metric.unit}")
    return f"{metric.name} {arrow}" if told else f"{metric.name} [{metric.unit}] {arrow}"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first to the right."""
    rule = ["---", *("---:" for _ in headers[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headers, rule, *rows))


def first_metrics(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the metric of each benchmark by which models are ranked and plotted."""
    found: dict[str, str] = {}
    for each in records:
        found.setdefault(each["benchmark"], each["metric"])
    return found


def ranks_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return mean ranks over benchmarks by their first metric, from the records of results.json.

    None where fewer than two models, or fewer than two benchmarks that all have, are to be ranked.
    """
    first = first_metrics(records)
    own = [each for each in records if each["metric"] == first[each["benchmark"]]]
    means = {(each["weights"], each["benchmark"]): each["mean"] for each in own}
    labels = list(dict.fromkeys(label for label, _ in means if label != CONSTANT))
    known = [name for name in first if all(means[label, name] is not None for label in labels)]
    if min(len(labels), len(known)) < 2:
        return []
    higher = {each["benchmark"]: each["higher_is_better"] for each in own}
    table = [[means[label, name] for name in known] for label in labels]
    ranks = mean_rank(table, [higher[name] for name in known])
    rows = [[label, f"{rank:.2f}"] for label, rank in zip(labels, ranks)]
    heading = f"mean rank in {len(known)} benchmarks that all have ↓"
    return [f"## Over all\n\n{markdown_table(['weights', heading], rows)}"]


def _plain(
    benchmarks: Sequence[Benchmark],
    labels: Sequence[str],
    cells: Sequence[Cell],
    failures: Sequence[Failure],
) -> list[dict[str, Any]]:
    rows = []
    for benchmark, label in itertools.product(benchmarks, (*labels, CONSTANT)):
        minutes = _minutes(cells, benchmark.name, label)
        failed = [
            {"seed": failure.seed, "reason": failure.reason}
            for failure in failures
            if (failure.benchmark, failure.label) == (benchmark.name, label)
        ]
        for metric in benchmark.task.metrics:
            found = summary(cells, benchmark.name, label, metric.name)
            known = found.values
            if label == CONSTANT and not known and not failed:
                continue
            rows.append(
                {
                    "benchmark": benchmark.name,
                    "weights": label,
                    "metric": metric.name,
                    "unit": metric.unit,
                    "higher_is_better": metric.higher_is_better,
                    "values": list(known),
                    "mean": found.mean if known else None,
                    "deviation": found.deviation if len(known) > 1 else None,
                    "minutes_a_seed": None if minutes is None else round(minutes, 3),
                    "failed": failed,
                }
            )
    return rows


def bars_of(records: Sequence[dict[str, Any]], benchmark: str, metric: str) -> Bars:
    """Return the bars of one metric, from the records of results.json."""
    own = [each for each in records if (each["benchmark"], each["metric"]) == (benchmark, metric)]
    shown = [each for each in own if each["weights"] != CONSTANT]
    constant = [value for each in own if each["weights"] == CONSTANT for value in each["values"]]
    about = {name: own[0][name] for name in ("unit", "higher_is_better")}
    return Bars(
        title=benchmark,
        axis=heading(Metric(name=metric, **about)),
        labels=tuple(each["weights"] for each in shown),
        values=tuple(tuple(each["values"]) for each in shown),
        constant=constant[0] if constant else None,
    )
