"""What an evaluation judges models by: tasks on datasets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from generation.errors import CrossviewError, first_few
from generation.files import file_sha256
from generation.locations import location
from generation.plain import Plain
from generation.shards.schema import INDEX_NAME
from pipelines.evaluation.labels import label_and_path, require_folder_name
from training.downstream.datasets.shards import open_all, open_shards
from training.downstream.example import Splits, at_most
from training.downstream.recipe import Recipe
from training.downstream.task import Task

SHARDS = "shards"
"""The layout of our own datasets."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset on a disk."""

    layout: str
    """A key of Task.datasets."""
    root: Path
    label: str | None = None
    """Tells it from others that are judged on."""

    @cached_property
    def record(self) -> Plain:
        """Return its fingerprint: the same for the same data."""
        if self.layout == SHARDS:  # wherever it lies
            return {"layout": self.layout, "sha256": file_sha256(self.root / INDEX_NAME)}
        return {"layout": self.layout, "root": str(self.root.resolve())}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task on a dataset, with its recipe."""

    task: Task
    data: Source
    recipe: Recipe
    val: Source | None = None
    """Another dataset to be judged on; of our shards, which have no split of their own, all is, and
    scenes that both show are not trained on."""

    @property
    def label(self) -> str | None:
        """Of what is judged on."""
        return (self.val or self.data).label

    @property
    def name(self) -> str:
        """As folders and tables call it."""
        return f"{self.task.name}-{self.label}" if self.label else self.task.name

    def open(self, num_train: int | None, num_val: int | None) -> Splits:
        """Open the dataset, or at most so many examples of it, evenly spread.

        Raises CrossviewError for one that cannot be read, has nothing to judge on, or is to be
        judged by another's classes.
        """
        if self.val is None:
            splits = self.task.datasets[self.data.layout](self.data.root)
        elif self.data.layout == self.val.layout == SHARDS:
            splits = open_shards(self.data.root, val_root=self.val.root)
        else:
            splits, other = self._whole(self.data), self._whole(self.val)
            if differing := sorted({*splits.classes} ^ {*other.classes}):
                raise CrossviewError(
                    f"{self.val.root}: {len(differing)} classes that are only here or only in "
                    f"{self.data.root}: {first_few(differing)}; labels are numbers in the list of "
                    "classes, so both need the same"
                )
            splits = replace(splits, val=other.val)
        if not splits.val:
            root = (self.val or self.data).root
            raise CrossviewError(f"{root}: no examples to judge {self.task.name} on")
        return replace(
            splits, train=at_most(splits.train, num_train), val=at_most(splits.val, num_val)
        )

    def _whole(self, source: Source) -> Splits:
        """Open a dataset of which one split is used: of our shards, all scenes are in both."""
        if source.layout != SHARDS:
            return self.task.datasets[source.layout](source.root)
        examples = open_all(source.root)
        return Splits(train=examples, val=examples)


def task_and_label(name: str) -> tuple[str, str]:
    """Return what Benchmark.name was made of; '' for no label."""
    task, _, label = name.partition("-")
    return task, label


def benchmarks(
    tasks: Sequence[Task],
    sources: Sequence[Source],
    val_sources: Sequence[Source],
    recipe: Callable[[Task], Recipe],
) -> list[Benchmark]:
    """Pair every task with every dataset that it can be trained on and judged on.

    Without val_sources it is judged on the split of the dataset itself, else on each of them.
    Raises CrossviewError for a task without a dataset and a dataset without a task.
    """
    for source in (*sources, *val_sources):
        if not any(source.layout in task.datasets for task in tasks):
            layouts = ", ".join(sorted({name for task in tasks for name in task.datasets}))
            raise CrossviewError(
                f"{option(source.layout)}: none of the tasks takes it; they take {layouts}"
            )
    found = []
    for task in tasks:
        known = ", ".join(map(option, task.datasets))
        own = [source for source in sources if source.layout in task.datasets]
        vals = [source for source in val_sources if source.layout in task.datasets]
        if not own:
            raise CrossviewError(f"{task.name}: no dataset for it; it takes {known}")
        if val_sources and not vals:
            known = ", ".join(option(layout, judged_on=True) for layout in task.datasets)
            raise CrossviewError(f"{task.name}: no dataset to judge it on; it takes {known}")
        for source, val in itertools.product(own, vals or (None,)):
            found.append(Benchmark(task=task, data=source, recipe=recipe(task), val=val))
    names = [benchmark.name for benchmark in found]
    for name in names:
        if names.count(name) > 1:
            raise CrossviewError(
                f"{name}: several datasets to train on, or two to judge on, would be called this; "
                "give one at a time, or label those of --val-data otherwise"
            )
    return found


def shard_sources(flag: str, texts: Sequence[str]) -> list[Source]:
    """Turn [LABEL=]DIR texts of an option into sources of our shards, each with another label."""
    found: dict[str | None, Source] = {}
    for text in texts:
        label, root = label_and_path(flag, text)
        if label in found:
            raise CrossviewError(
                f"{flag} {text}: there is {found[label].root} already; label it, as in "
                f"{flag} other={root}"
            )
        if label is not None:
            require_folder_name(flag, label)
        found[label] = Source(layout=SHARDS, root=location(root), label=label)
    return list(found.values())


def named_sources(flag: str, texts: Sequence[str]) -> list[Source]:
    """Turn LAYOUT=DIR texts of an option into sources, one of a layout at most."""
    found: dict[str, Source] = {}
    for text in texts:
        layout, equals, root = text.partition("=")
        if not equals or not root:
            raise CrossviewError(f"{flag} {text}: expected LAYOUT=DIR")
        if layout in found:
            raise CrossviewError(f"{flag} {text}: there is {found[layout].root} already")
        found[layout] = Source(layout=layout, root=Path(root), label=layout)
    return list(found.values())


def option(layout: str, *, judged_on: bool = False) -> str:
    """Return how a dataset of this layout is named on the command line."""
    dashes = "--val-" if judged_on else "--"
    return f"{dashes}data DIR" if layout == SHARDS else f"{dashes}dataset {layout}=DIR"
