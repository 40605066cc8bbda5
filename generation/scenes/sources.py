"""Where scenes come from: names and globs become sources, which load on the worker."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
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
    names = _scene_ids([entry for entry in ordered if isinstance(entry, Path)])
    clash = {f"procedural-{seed:06d}" for seed in rooms} & set(names.values())
    if clash:
        raise SceneError(f"{min(clash)} is the name of a file and of a generated room; rename it")
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
        found = _meshes_among(path.iterdir())
        if not found:
            raise SceneError(f"{pattern}: no mesh files ({', '.join(MESH_ENDINGS)}) in this folder")
        return found
    if path.exists() or not glob.has_magic(pattern):
        return [path]  # a missing file fails its own scene, not the others
    found = _meshes_among(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise SceneError(f"{pattern}: no mesh file matches")
    return found


def _meshes_among(paths: Iterable[Path]) -> list[Path]:
    """Return meshes and stage configurations, sorted; no .basis.glb that has a plain .glb."""
    found = {
        path
        for path in paths
        if path.suffix.lower() in MESH_ENDINGS or path.name.endswith(STAGE_CONFIG_ENDING)
    }
    return sorted(
        path
        for path in found
        if not path.name.endswith(".basis.glb")
        or path.with_name(path.name.removesuffix(".basis.glb") + ".glb") not in found
    )


def _mesh_or_config(path: Path) -> Path:
    try:
        return stage_of(path, "y").mesh_path
    except SceneError:
        return path  # a bad configuration fails its own scene, when it is loaded


def _scene_ids(paths: list[Path]) -> dict[Path, str]:
    """Name each file by its stem; files of one stem also by their folders, then by their ending.

    Folders count only below the one that all files share: an id does not tell where scans lie.
    Raises SceneError where two files cannot be told apart.
    """
    if not paths:
        return {}
    shared = len(Path(os.path.commonpath([path.absolute().parent for path in paths])).parts)
    styles = [
        lambda path: [_stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:][-1:], _stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:], _stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:], _stem(path), path.suffix[1:]],
    ]
    names: dict[Path, str] = {}
    left = paths
    for style in styles:
        candidates = {path: re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(style(path))) for path in left}
        counts = Counter([*candidates.values(), *names.values()])
        names |= {path: name for path, name in candidates.items() if counts[name] == 1}
        left = [path for path in left if path not in names]
    if left:
        raise SceneError(f"{left[0]} and {left[-1]} have names too much alike; rename one of them")
    return names


def _stem(path: Path) -> str:
    name = path.name.removesuffix(STAGE_CONFIG_ENDING)
    return name if name != path.name else path.stem
