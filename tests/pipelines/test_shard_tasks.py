"""Tasks that leave shards, by what an executor is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from generation.scenes.sources import SceneSource
from pipelines.shard_tasks import make_missing


@dataclass(frozen=True)
class Task:
    name: str
    renderer: str
    done: bool = False
    num_pairs: int = 4
    scene: SceneSource = SceneSource(scene_id="room")

    def finished(self, *, verify=False):
        return "what it left" if self.done else None


class Recorder:
    """Runs nothing, and keeps what it was asked for."""

    def run(self, function, tasks, *, group, recycle):
        self.tasks, self.recycle = tasks, recycle
        yield from ()


@pytest.mark.parametrize(("renderer", "recycle"), [("embree", False), ("habitat", True)])
def test_what_is_missing_is_asked_for_and_habitat_gets_fresh_processes(tmp_path, renderer, recycle):
    executor = Recorder()
    tasks = [Task("a", renderer, done=True), Task("b", renderer)]
    made = make_missing(print, tasks, executor, tmp_path, verify=False)
    assert (executor.tasks, executor.recycle) == (tasks[1:], recycle)
    assert (made.finished, made.reports, made.failures) == ({"a": "what it left"}, [], [])
