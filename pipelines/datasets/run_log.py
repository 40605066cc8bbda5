"""What each run over a dataset's folder did: one line of runs.jsonl a run.

A shard's bytes know nothing of time and machine, so that the same pairs are the same files; what a
run took, and which scenes failed, stands here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.machine import processor
from generation.shard_task import ShardReport

RUN_LOG_NAME = "runs.jsonl"


@dataclass
class SceneWork:
    """What all recorded runs did for one scene."""

    pairs: int = 0
    """Made."""
    seconds: float = 0.0
    """Of workers, from loaded scene to closed shard; of levels made together, one's share."""
    failures: list[str] = field(default_factory=list)
    """Of the last run that worked on it."""

    @property
    def pairs_per_second(self) -> float | None:
        """Rate of one worker; None where nothing was made."""
        return self.pairs / self.seconds if self.pairs and self.seconds else None


def append_run(
    folder: Path,
    *,
    executor: object,
    renderer: str,
    seconds: float,
    reports: Iterable[ShardReport],
    failures: Mapping[str, list[str]],
    num_datasets: int = 1,
) -> None:
    """Append a run's line to the log of a folder, which the caller holds; none if it did nothing.

    seconds: of the whole run. reports: of the tasks that it did. failures: scene -> reasons.
    num_datasets: that the run made together, a level each, with equally many pairs.
    """
    scenes: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"pairs": 0, "seconds": 0.0})
    devices: set[str] = set()
    versions: list[dict[str, str]] = []
    for report in reports:
        scene = scenes[report.scene_id]
        scene["pairs"] += report.count // num_datasets
        scene["seconds"] = round(scene["seconds"] + report.seconds["total"] / num_datasets, 3)
        devices.add(report.device)
        if report.versions not in versions:
            versions.append(report.versions)
        if report.shortfall:
            scene.setdefault("notes", []).append(report.shortfall)
    for name, reasons in failures.items():
        if reasons:
            scenes[name]["failures"] = list(dict.fromkeys(reasons))
    if not scenes:
        return
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "crossview": metadata.version("crossview"),
        "versions": versions,
        "processor": processor(),
        "executor": type(executor).__name__,
        "renderer": renderer,
        "devices": sorted(devices),
        "seconds": round(seconds, 3),
        "pairs": sum(scene["pairs"] for scene in scenes.values()),
        "scenes": scenes,
    }
    path = folder / RUN_LOG_NAME
    before = path.read_text(errors="replace") if path.exists() else ""
    write_text_whole(path, before + json.dumps(line) + "\n")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return a folder's recorded runs, oldest first. Raises CrossviewError where damaged."""
    path = folder / RUN_LOG_NAME
    try:
        runs = [json.loads(text) for text in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CrossviewError(f"{path}: not a log of runs ({error}); remove it") from error
    if not all(isinstance(run, dict) and isinstance(run.get("scenes"), dict) for run in runs):
        raise CrossviewError(f"{path}: not a log of runs (a line names no scenes); remove it")
    return runs


def work_by_scene(runs: Iterable[dict[str, Any]]) -> dict[str, SceneWork]:
    """Return scene -> what all runs did for it."""
    works: defaultdict[str, SceneWork] = defaultdict(SceneWork)
    for run in runs:
        for name, scene in run["scenes"].items():
            work = works[name]
            work.pairs += scene["pairs"]
            work.seconds += scene["seconds"]
            work.failures = scene.get("failures", [])
    return dict(works)
