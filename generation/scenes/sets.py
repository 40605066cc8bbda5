"""Published sets of scenes: where their files lie, and which of them are there and usable."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from generation.errors import CrossviewError, first_few
from generation.locations import filesystem, is_remote
from generation.scenes.asset_config import STAGE_CONFIG_ENDING, asset_config_of
from generation.scenes.composed import SCENE_INSTANCE_ENDING, read_layout
from generation.scenes.mesh_files import MESH_ENDINGS, check_mesh
from generation.scenes.scene import SceneError

logger = logging.getLogger(__name__)

CONFIG_ENDINGS = (STAGE_CONFIG_ENDING, SCENE_INSTANCE_ENDING)


@dataclass(frozen=True, kw_only=True)
class SceneSplit:
    """Some of a set's scenes."""

    files: tuple[str, ...]
    """Globs below the set's root; of two files with one id, the first one's is taken. Where a set
    is named_by path, only meshes count."""
    num_scenes: int | None = None
    """Scenes that the whole split has, where that is known."""
    held_out: bool = False
    """Kept for evaluation: used only where the split is named."""


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """A set of scenes that is published, or yours.

    Validation takes each scene for a room of its own, but for ScanNet's sceneNNNN_NN, and for
    ReplicaCAD's stagings with Replica's frl_apartment (training's room_of). Another set with
    several scans of a room wants splits by room, and a dataset of each.
    """

    name: str
    """As in --scenes NAME:ROOT."""
    title: str
    """One line for people."""
    licence: str
    """What its owners allow."""
    access: str
    """How to get it."""
    url: str | None = None
    """Official page."""
    splits: dict[str, SceneSplit]
    """By name; none where the scenes are generated."""
    named_by: Literal["folder", "file", "path"] = "file"
    """What a scene's id is: its folder's name, its file's, or as much of the path as tells it from
    the others."""
    up: Literal["x", "-x", "y", "-y", "z", "-z"] | None = None
    """Up axis of meshes without a stage configuration; null: as --up says."""
    units_to_meters: float = 1.0
    """Length of one of its meshes' units in metres."""

    @property
    def default_splits(self) -> tuple[str, ...]:
        """The splits that are used where none is named: those that are not held out."""
        return tuple(name for name, split in self.splits.items() if not split.held_out)


@dataclass(frozen=True, kw_only=True)
class FoundScene:
    """One scene of a set, or its gap: a folder without the file that belongs there."""

    scene_id: str
    split: str
    path: Path
    """Its file; where it is missing, where that was expected."""
    problem: str = ""
    """Why it cannot be used, as far as names, sizes and headers tell; empty where it can."""
    left_out: tuple[str, ...] = ()
    """Articulated objects that are not rendered."""


def discover(
    scene_set: SceneSet, root: Path, splits: Iterable[str] | None = None, *, check: bool = True
) -> list[FoundScene]:
    """List a set's scenes below a folder or URL, by split (default: those not held out), then id.

    check also looks into each scene's files for problems, unless they are behind a URL; without it,
    only gaps have one. Raises CrossviewError where the folder or a split is not there.
    """
    names = scene_set.default_splits if splits is None else tuple(splits)
    for name in names:
        if name not in scene_set.splits:
            raise CrossviewError(
                f"{scene_set.name} has no split {name!r}; expected one of "
                f"{', '.join(scene_set.splits) or '(none: its scenes are generated)'}"
            )
    if not root.is_dir():
        raise CrossviewError(f"{root}: no such folder; expected the root of {scene_set.title}")
    found: list[FoundScene] = []
    for name in names:
        scenes = _scenes_of_split(scene_set, name, root)
        found += sorted(scenes, key=lambda scene: scene.scene_id)
    return [_checked(scene) for scene in found] if check and not is_remote(root) else found


def _scenes_of_split(scene_set: SceneSet, name: str, root: Path) -> Iterator[FoundScene]:
    split = scene_set.splits[name]
    paths = [path for pattern in split.files for path in _below(root, pattern)]
    ids: dict[Path, str] = {}
    if scene_set.named_by == "path":
        paths = scene_files_among(path for path in paths if path.suffix.lower() in MESH_ENDINGS)
        places = {Path(str(path)): path for path in paths}
        ids = {places[place]: scene_id for place, scene_id in scene_names(places).items()}
    taken: set[str] = set()
    for path in paths:
        if scene_set.named_by == "folder":
            scene_id = _id_of(path.parent.name)
        else:
            scene_id = ids.get(path) or _id_of(file_stem(path))
        if scene_id not in taken:
            taken.add(scene_id)
            yield FoundScene(scene_id=scene_id, split=name, path=path)
    if scene_set.named_by == "folder":
        folder_pattern, file_pattern = os.path.split(split.files[0])
        for folder in _below(root, folder_pattern):
            if folder.is_dir() and (scene_id := _id_of(folder.name)) not in taken:
                problem = f"there is no {file_pattern} in {folder}"
                path = folder / file_pattern
                yield FoundScene(scene_id=scene_id, split=name, path=path, problem=problem)


def _checked(scene: FoundScene) -> FoundScene:
    """Look into a scene's files, without loading the mesh."""
    if scene.problem:
        return scene
    try:
        if scene.path.name.endswith(SCENE_INSTANCE_ENDING):
            layout = read_layout(scene.path)
            scene = replace(scene, left_out=layout.left_out)
            layout.check()
        else:
            check_mesh(asset_config_of(scene.path, "y").mesh_path)
    except (SceneError, OSError) as error:
        return replace(scene, problem=str(error))
    return scene


def scene_files_among(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are scenes, sorted: meshes, stage configurations, scene instances.

    A .basis.glb or .semantic.glb beside a plain .glb is the same scene in another guise: left out.
    So are meshes that differ in nothing but their ending, all but the first of MESH_ENDINGS; a line
    of the log names them.
    """
    found = {
        path
        for path in paths
        if path.suffix.lower() in MESH_ENDINGS or path.name.endswith(CONFIG_ENDINGS)
    }
    scenes = sorted(path for path in found if _plain_twin(path) not in found)
    first: dict[Path, Path] = {}
    rank = {ending: number for number, ending in enumerate(MESH_ENDINGS)}
    for path in sorted(scenes, key=lambda path: rank.get(path.suffix.lower(), -1)):
        first.setdefault(path.with_suffix(""), path)
    kept = sorted(first.values())
    tell_of_other_formats({*scenes} - {*kept})
    return kept


def tell_of_other_formats(paths: Iterable[Path]) -> None:
    """Log which files are left out, as their scenes are there in another format."""
    if names := first_few(sorted(paths)):
        logger.info("left out, as the same name is there in another format: %s", names)


def scene_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Name each file by its stem; files of one stem also by their folders, then by their ending.

    Folders count only below the one that all files share: an id does not tell where scans lie.
    Raises SceneError where two files cannot be told apart.
    """
    left = list(paths)
    if not left:
        return {}
    shared = len(Path(os.path.commonpath([path.absolute().parent for path in left])).parts)
    styles = [
        lambda path: [file_stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:][-1:], file_stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:], file_stem(path)],
        lambda path: [*path.absolute().parent.parts[shared:], file_stem(path), path.suffix[1:]],
    ]
    names: dict[Path, str] = {}
    for style in styles:
        candidates = {path: _id_of("-".join(style(path))) for path in left}
        counts = Counter([*candidates.values(), *names.values()])
        names |= {path: name for path, name in candidates.items() if counts[name] == 1}
        left = [path for path in left if path not in names]
    if left:
        raise SceneError(f"{left[0]} and {left[-1]} have names too much alike; rename one of them")
    return names


def file_stem(path: Path) -> str:
    """Return a file's name without its ending, or without that of a configuration."""
    for ending in CONFIG_ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.stem


def _plain_twin(path: Path) -> Path | None:
    for ending in (".basis.glb", ".semantic.glb"):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + ".glb")
    return None


def _id_of(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def _below(root: Path, pattern: str) -> list[Path]:
    """Return what a glob matches below a folder, sorted; a plain name also where it is missing."""
    if not glob.has_magic(pattern):
        return [root / pattern]
    if is_remote(root):
        store, key = filesystem(root)
        try:
            names = [found.removeprefix(f"{key}/") for found in store.glob(f"{key}/{pattern}")]
        except OSError as error:
            raise SceneError(f"{root}: cannot be listed: {error}") from error
        return sorted(root / name for name in names)
    return sorted(root / name for name in glob.glob(pattern, root_dir=root, recursive=True))
