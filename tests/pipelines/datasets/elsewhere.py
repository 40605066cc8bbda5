"""Machines that do not see the same folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from one_worker import SERIAL


@dataclass(frozen=True, kw_only=True)
class ElsewhereExecutor:
    """Its machine has a folder of its own where the driver's has the dataset."""

    moved: Callable[[Any], Any]
    """Returns a task with that folder."""

    def run(self, function, tasks, **options):
        for task in tasks:
            for outcome in SERIAL.run(function, [self.moved(task)]):
                yield replace(outcome, task=task)
