"""Tasks that leave shards, by what an executor is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from generation.renderers.choice import KINDS, RendererKind, open_renderer
from generation.renderers.embree import EmbreeRenderer
from generation.renderers.habitat import HabitatRenderer
from generation.scenes.sources import SceneSource
from generation.shard_task import ShardReport
from generation.versions import versions
from pipelines.datasets.shard_tasks import make_missing
from pipelines.executors.protocol import Outcome


@dataclass(frozen=True)
class Task:
    name: str
    renderer: str
    done: bool = False
    num_pairs: int = 4
    scene: SceneSource = SceneSource(scene_id="room")
    left: list[str] = field(default_factory=list, compare=False)

    def finished(self, *, verify=False):
        return "what it left" if self.done or self.left else None


REPORT = {
    "scene_id": "room",
    "count": 4,
    "attempts": 4,
    "shortfall": "",
    "num_faces": 12,
    "num_renders": 8,
    "seconds": {},
}


@dataclass
class Recorder:
    """Runs nothing, reports a device a task, and keeps what it was asked for."""

    devices: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def run(self, function, tasks, *, group, recycle):
        self.tasks, self.recycle = tasks, recycle
        for task, device in zip(tasks, self.devices):
            report = ShardReport(**REPORT, device=device, versions=self.versions)
            task.left.append(f"{task.name}.tar")
            yield Outcome(task, report=report)


@pytest.mark.parametrize(("renderer", "recycle"), [("embree", False), ("habitat", True)])
def test_what_is_missing_is_asked_for_and_habitat_gets_fresh_processes(tmp_path, renderer, recycle):
    executor = Recorder()
    tasks = [Task("a", renderer, done=True), Task("b", renderer)]
    made = make_missing(print, tasks, executor, tmp_path, verify=False)
    assert (executor.tasks, executor.recycle) == (tasks[1:], recycle)
    assert (made.finished, made.reports, made.failures) == ({"a": "what it left"}, [], [])


@pytest.mark.parametrize(
    ("renderer", "software"),
    [("gl", ["llvmpipe (LLVM 15.0.6)"]), ("embree", [])],
)
def test_software_is_told_once_whichever_machine_has_it(tmp_path, caplog, renderer, software):
    executor = Recorder(["NVIDIA H200", *["llvmpipe (LLVM 15.0.6)"] * 2])
    tasks = [Task(name, renderer, num_pairs=1) for name in "abc"]
    make_missing(print, tasks, executor, tmp_path, verify=False)
    told = [each.args[1] for each in caplog.records if "in software" in each.message]
    assert told == software


def test_a_new_renderer_is_what_its_line_in_the_table_says(tmp_path, caplog, monkeypatch, box_room):
    mine = EmbreeRenderer(box_room)
    kind = RendererKind(open=lambda scene, source: mine, needs_fresh_process=True)
    monkeypatch.setitem(KINDS, "mine", kind)
    assert open_renderer("mine", box_room) is mine
    executor = Recorder(["a software rasteriser"])
    make_missing(print, [Task("a", "mine")], executor, tmp_path, verify=False)
    assert executor.recycle
    assert not [each for each in caplog.records if "in software" in each.message]


def test_the_table_of_renderers_knows_which_have_floors():
    pytest.importorskip("moderngl")
    from generation.renderers.gl import GlRenderer

    classes = (EmbreeRenderer, GlRenderer, HabitatRenderer)
    assert {name: kind.has_floors for name, kind in KINDS.items()} == {
        each.name: hasattr(each, "floors") for each in classes
    }


@pytest.mark.parametrize(
    ("devices", "told"),
    [(["NVIDIA L4", "NVIDIA H200", "NVIDIA L4"], ["NVIDIA H200, NVIDIA L4"]), (["CPU"] * 3, [])],
)
def test_several_devices_are_told(tmp_path, caplog, devices, told):
    tasks = [Task(name, "gl", num_pairs=1) for name in "abc"]
    make_missing(print, tasks, Recorder(devices), tmp_path, verify=False)
    assert [each.args[2] for each in caplog.records if "devices" in each.message] == told


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({}, []),
        ({"numpy": "1.0"}, [f"numpy 1.0 there, {versions()['numpy']} here"]),
        ({"a package of theirs alone": "1.0"}, []),
    ],
)
def test_a_workers_other_packages_are_told_once(tmp_path, caplog, theirs, told):
    executor = Recorder(["CPU"] * 3, versions={**versions(), **theirs})
    tasks = [Task(name, "embree", num_pairs=1) for name in "abc"]
    make_missing(print, tasks, executor, tmp_path, verify=False)
    assert [each.args[0] for each in caplog.records if "packages" in each.message] == told
