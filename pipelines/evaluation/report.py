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
from pipelines.evaluation.benchmarks import Benchmark, task_and_label
from pipelines.evaluation.cells import Cell, Failure
from pipelines.evaluation.contenders import CONSTANT, Contender
from pipelines.evaluation.figures import Bars, bars_figure
from pipelines.figures.charts import save_figure
from pipelines.tables import markdown_table
from training.downstream.metrics import mean_rank
from training.downstream.task import Metric, Task
from training.downstream.tasks import TASKS

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
    records = _records_of(benchmarks, labels, cells, failures)
    text = "\n\n".join([f"# {title}", *(f"## {part}" for part in parts_of(records))])
    out.mkdir(parents=True, exist_ok=True)
    write_text_whole(out / "results.md", text + "\n")
    write_text_whole(out / "results.json", json.dumps(records, indent=1))
    charts = [bars_of(records, *what) for what in first_metrics(records).items()]
    save_figure(out / "results.png", bars_figure(charts))
    return text


def parts_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the parts of a report of the records of results.json, without the heading's signs.

    A table a benchmark, then, where there are several, mean ranks.
    """
    names = dict.fromkeys(each["benchmark"] for each in records)
    tables = [_table_of([each for each in records if each["benchmark"] == name]) for name in names]
    return [*tables, *_ranks_of(records)]


def _table_of(records: Sequence[dict[str, Any]]) -> str:
    """Return the part that tells of one benchmark."""
    name = records[0]["benchmark"]
    models: dict[str, list[dict[str, Any]]] = {}
    for each in records:
        models.setdefault(each["weights"], []).append(each)
    metrics = [_metric_of(each) for each in next(iter(models.values()))]
    rows, missing = [], []
    for label, own in models.items():
        done, failed = max(len(each["values"]) for each in own), own[0]["failed"]
        asked = None if label == CONSTANT else done + len(failed)
        known = {each["metric"]: tuple(each["values"]) for each in own}
        cells = [
            Summary(values=known.get(metric.name, ())).text(metric.digits, of=asked)
            for metric in metrics
        ]
        minutes = own[0]["minutes_a_seed"]
        if label != CONSTANT:
            shown = MISSING if minutes is None else f"{minutes:.1f}"
            rows.append([label, *cells, str(done), shown])
        elif done:
            rows.append([CONSTANT_ROW, *cells, MISSING, MISSING])
        missing += [f"- {label}, seed {each['seed']}: {each['reason']}" for each in failed]
    headers = ["weights", *map(heading, metrics), "seeds", "minutes a seed"]
    parts = [name, _about(records[0]), markdown_table(headers, rows)]
    if missing:
        parts.append("Missing:\n\n" + "\n".join(missing))
    return "\n\n".join(parts)


def _about(record: dict[str, Any]) -> str:
    """Say what a benchmark's task is and, where the record tells, how long it was trained for."""
    about, steps = _task_of(record).summary, record.get("num_steps")
    if steps is None:
        return about
    training = f"{steps} steps of {record['batch_size']}" if steps else "no training"
    return f"{about} ({training}.)"


def _task_of(record: dict[str, Any]) -> Task:
    return TASKS[task_and_label(record["benchmark"])[0]]


def _metric_of(record: dict[str, Any]) -> Metric:
    """Return a record's metric, with the digits that its task shows."""
    digits = {metric.name: metric.digits for metric in _task_of(record).metrics}
    return Metric(
        name=record["metric"],
        unit=record["unit"],
        higher_is_better=record["higher_is_better"],
        digits=digits.get(record["metric"], Metric.digits),
    )


def heading(metric: Metric) -> str:
    """Return a metric's name and unit, with an arrow to where it is better."""
    arrow = "↑" if metric.higher_is_better else "↓"
    told = not metric.unit or metric.name.endswith(f"_{metric.unit}")
    return f"{metric.name} {arrow}" if told else f"{metric.name} [{metric.unit}] {arrow}"


def first_metrics(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the metric of each benchmark by which models are ranked and plotted."""
    found: dict[str, str] = {}
    for each in records:
        found.setdefault(each["benchmark"], each["metric"])
    return found


def _ranks_of(records: Sequence[dict[str, Any]]) -> list[str]:
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
    return [f"Over all\n\n{markdown_table(['weights', heading], rows)}"]


def _records_of(
    benchmarks: Sequence[Benchmark],
    labels: Sequence[str],
    cells: Sequence[Cell],
    failures: Sequence[Failure],
) -> list[dict[str, Any]]:
    """Return what results.json holds: a record of each benchmark, model and metric."""
    records = []
    for benchmark, label in itertools.product(benchmarks, (*labels, CONSTANT)):
        here = (benchmark.name, label)
        own = [cell for cell in cells if (cell.benchmark, cell.label) == here]
        failed = [
            {"seed": failure.seed, "reason": failure.reason}
            for failure in failures
            if (failure.benchmark, failure.label) == here
        ]
        trained = [cell for cell in cells if cell.label != CONSTANT]
        done = [cell.num_steps for cell in trained if cell.benchmark == benchmark.name]
        for metric in benchmark.task.metrics:
            known = [cell.metrics[metric.name] for cell in own if metric.name in cell.metrics]
            found = Summary(values=tuple(known))
            if label == CONSTANT and not known and not failed:
                continue
            records.append(
                {
                    "benchmark": benchmark.name,
                    "weights": label,
                    "metric": metric.name,
                    "unit": metric.unit,
                    "higher_is_better": metric.higher_is_better,
                    "values": known,
                    "mean": found.mean if known else None,
                    "deviation": found.deviation if len(known) > 1 else None,
                    "minutes_a_seed": (
                        round(fmean(cell.cost_s for cell in own) / 60, 3) if own else None
                    ),
                    "failed": failed,
                    "num_steps": max(done, default=None),
                    "batch_size": benchmark.recipe.batch_size,
                }
            )
    return records


def bars_of(records: Sequence[dict[str, Any]], benchmark: str, metric: str) -> Bars:
    """Return the bars of one metric, from the records of results.json."""
    own = [each for each in records if (each["benchmark"], each["metric"]) == (benchmark, metric)]
    shown = [each for each in own if each["weights"] != CONSTANT]
    constant = [value for each in own if each["weights"] == CONSTANT for value in each["values"]]
    return Bars(
        title=benchmark,
        axis=heading(_metric_of(own[0])),
        labels=tuple(each["weights"] for each in shown),
        values=tuple(tuple(each["values"]) for each in shown),
        constant=constant[0] if constant else None,
    )
