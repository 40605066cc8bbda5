"""Where scenes come from: names and globs become sources, which load on the worker."""

from __future__ import annotations

import glob
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from generation.scenes.mesh_files import (
    MESH_ENDINGS,
    STAGE_CONFIG_ENDING,
    UP_AXES,
    load_mesh_scene,
    stage_of,
)
from generation.scenes.procedural import make_room
from generation.scenes.scene import Scene, SceneError

PROCEDURAL = "procedural:"


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """One scene, not loaded yet: cheap to send to a worker."""

    scene_id: str
    """Stable name without dots or slashes."""
    path: str = ""
    """Mesh file or stage configuration; empty for a procedural room."""
    up: str = "y"
    """The file's up axis, where no stage configuration says it: one of UP_AXES."""
    room_seed: int = 0
    """Seed of a procedural room."""

    def load(self) -> Scene:
        """Load or generate the scene. Raises SceneError where it is no good."""
        if not self.path:
            return make_room(self.room_seed)
        return load_mesh_scene(Path(self.path), self.scene_id, up=self.up)


def resolve_scenes(patterns: list[str], *, up: str = "y") -> list[SceneSource]:
    """Turn patterns into sources, in a stable order: sorted within a pattern, patterns as given.

    A pattern is a file, a folder (every mesh in it), a glob (`**` goes into folders), or
    `procedural:FIRST-LAST`, the rooms of these seeds (`procedural:SEED` for one). Where a
    stage configuration and its mesh both match they are one scene. Raises SceneError for a pattern
    that matches nothing.
    """
    if up not in UP_AXES:
        raise SceneError(f"up: expected one of {', '.join(UP_AXES)}, got {up!r}")
    if not patterns:
        raise SceneError("no scenes given; name mesh files, globs or procedural:0-9")
    rooms: dict[int, None] = {}
    files: dict[Path, Path] = {}
    ordered: list[int | Path] = []
    for pattern in patterns:
        if pattern.startswith(PROCEDURAL):
            for seed in _room_seeds(pattern):
                if seed not in rooms:
                    rooms[seed] = None
                    ordered.append(seed)
            continue
        for path in _matching_files(pattern):
            mesh = path
            if path.name.endswith(STAGE_CONFIG_ENDING):
                mesh = _mesh_or_config(path)
            key = mesh.resolve()
            if key not in files:
                files[key] = path
                ordered.append(path)
    names = _unique_names([entry for entry in ordered if isinstance(entry, Path)])
    return [
        SceneSource(scene_id=f"procedural-{entry:06d}", room_seed=entry)
        if isinstance(entry, int)
        else SceneSource(scene_id=names[entry], path=str(entry), up=up)
        for entry in ordered
    ]


def _room_seeds(pattern: str) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", pattern[len(PROCEDURAL) :])
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else -1
    if last < first:
        raise SceneError(f"{pattern!r}: expected procedural:FIRST-LAST, for example procedural:0-9")
    return range(first, last + 1)


def _matching_files(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in MESH_ENDINGS)
        if not found:
            raise SceneError(f"{pattern}: no mesh files ({', '.join(MESH_ENDINGS)}) in this folder")
        return found
    if not glob.has_magic(pattern):
        return [path]  # a missing file fails its own scene, not the others
    found = sorted(
        p
        for p in map(Path, glob.glob(str(path), recursive=True))
        if p.suffix.lower() in MESH_ENDINGS or p.name.endswith(STAGE_CONFIG_ENDING)
    )
    if not found:
        raise SceneError(f"{pattern}: no mesh file matches")
    return found


def _mesh_or_config(path: Path) -> Path:
    try:
        return stage_of(path, "y").mesh_path
    except SceneError:
        return path  # a bad configuration fails its own scene, when it is loaded


def _unique_names(paths: list[Path]) -> dict[Path, str]:
    """Name each file by its stem; files of one stem by as many folders as tell them apart."""

    def name(path: Path, depth: int) -> str:
        stem = path.name.removesuffix(STAGE_CONFIG_ENDING)
        stem = stem if stem != path.name else path.stem
        parts = (*path.absolute().parent.parts[1:][-depth:], stem) if depth else (stem,)
        return re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(parts))

    names: dict[Path, str] = {}
    for path in paths:
        depth = 0
        while depth < len(path.absolute().parts):
            candidates = Counter(name(other, depth) for other in paths)
            if candidates[name(path, depth)] == 1:
                break
            depth += 1
        names[path] = name(path, depth)
    return names
