"""The scene sets that we know, from data_manifests/scenes, and tables of them for people."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from generation.scenes.sets import FoundScene, SceneSet
from pipelines.config import MANIFESTS, build, load_yaml
from pipelines.tables import format_table

SCENE_SETS = MANIFESTS / "scenes"


@cache
def scene_sets() -> dict[str, SceneSet]:
    """Return every set by its name, that of its manifest's file. Raises ConfigError."""
    return {
        path.stem: build(SceneSet, {"name": path.stem, **load_yaml(path)}, source=path)
        for path in sorted(SCENE_SETS.glob("*.yaml"))
    }


def sets_table() -> str:
    """Return a table of the sets, for people."""
    rows = [
        (name, each.title, _splits(each), each.up or "--up", each.licence)
        for name, each in scene_sets().items()
    ]
    return format_table(rows, ("set", "title", "splits", "up", "licence"))


def report(scene_set: SceneSet, found: list[FoundScene], root: Path, splits: list[str]) -> str:
    """Say which of a set's scenes discover() found below a folder, and how to get the others."""
    parts = []
    if found:
        rows = [(s.scene_id, s.split, s.path.relative_to(root), _state(s)) for s in found]
        parts.append(format_table(rows, ("scene", "split", "file", "state")))
    problems = [f"  {scene.scene_id}: {scene.problem}" for scene in found if scene.problem]
    if problems:
        parts.append("\n".join(["not usable:", *problems]))
    left_out = [
        f"  {s.scene_id}: {', '.join(dict.fromkeys(s.left_out))}" for s in found if s.left_out
    ]
    if left_out:
        parts.append("\n".join(["articulated objects (URDF), which are left out:", *left_out]))
    parts.append("\n".join(_count(scene_set, name, found) for name in splits))
    if problems or any(_is_incomplete(scene_set, name, found) for name in splits):
        parts.append(f"to get the others: {scene_set.access} {scene_set.url or ''}".rstrip())
    return "\n\n".join(parts)


def _splits(scene_set: SceneSet) -> str:
    return ", ".join(
        f"{name} (held out)" if split.held_out else name for name, split in scene_set.splits.items()
    )


def _state(scene: FoundScene) -> str:
    if not scene.path.exists():
        return "missing"
    return "not usable" if scene.problem else "ok"


def _count(scene_set: SceneSet, name: str, found: list[FoundScene]) -> str:
    """Return a line of a split's numbers, or where its files were looked for."""
    split = scene_set.splits[name]
    title = f"{name} (held out)" if split.held_out else name
    there = [scene for scene in found if scene.split == name]
    if not there:
        return f"{title}: no scene; expected {' or '.join(split.files)}"
    usable = sum(not scene.problem for scene in there)
    of_all = f" of {split.num_scenes}" if split.num_scenes else ""
    return f"{title}: {usable}{of_all} scenes are there and usable"


def _is_incomplete(scene_set: SceneSet, name: str, found: list[FoundScene]) -> bool:
    num_found = sum(scene.split == name for scene in found)
    return num_found < (scene_set.splits[name].num_scenes or 1)
