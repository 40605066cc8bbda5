"""Where scenes come from: names and globs become sources, which load on the worker."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from generation.errors import first_few
from generation.locations import location
from generation.scenes.asset_config import (
    DEFAULT_UP,
    STAGE_CONFIG_ENDING,
    UP_AXES,
    asset_config_of,
    stage_config_beside,
)
from generation.scenes.composed import SCENE_INSTANCE_ENDING, load_composed_scene, read_layout
from generation.scenes.mesh_files import (
    ENDINGS_WITHOUT_UP,
    MESH_ENDINGS,
    files_of_mesh,
    load_mesh_scene,
)
from generation.scenes.procedural import make_room
from generation.scenes.remote import fetched, is_url, remote_matches
from generation.scenes.scene import Scene, SceneError
from generation.scenes.sets import (
    SceneSet,
    discover,
    scene_files_among,
    scene_names,
    tell_of_other_formats,
)
from generation.scenes.untrusted import check_extent

logger = logging.getLogger(__name__)

PROCEDURAL = "procedural:"


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """One scene, not loaded yet: cheap to send to a worker."""

    scene_id: str
    """Stable name without dots or slashes."""
    path: str = ""
    """Mesh file, stage configuration or scene instance, or its URL; empty for a procedural room."""
    up: str = DEFAULT_UP
    """The file's up axis, where no stage configuration says it: one of UP_AXES."""
    units_to_meters: float = 1.0
    """Length of one of the file's units in metres, where no stage configuration says it."""
    room_seed: int = 0
    """Seed of a procedural room."""

    @property
    def is_generated(self) -> bool:
        """Whether it is a procedural room, of no file."""
        return not self.path

    @property
    def is_remote(self) -> bool:
        """Whether its file lies behind a URL."""
        return is_url(self.path)

    def load(self) -> Scene:
        """Load or generate the scene. Raises SceneError where it is no good."""
        path = Path(self.path)
        if self.is_generated:
            return make_room(self.room_seed)
        if self.is_remote:
            with fetched(self.path) as here:
                return replace(self, path=str(here)).load()
        if path.name.endswith(SCENE_INSTANCE_ENDING):
            scene = load_composed_scene(path, self.scene_id)
        else:
            scene = load_mesh_scene(
                path, self.scene_id, up=self.up, units_to_meters=self.units_to_meters
            )
        check_extent(scene, self.path)
        return scene

    def anywhere(self) -> SceneSource:
        """Return the same scene for a process that stands in another folder."""
        if self.is_generated or self.is_remote:
            return self
        return replace(self, path=str(Path(self.path).absolute()))

    def files(self) -> list[Path]:
        """Return every file that the scene is made of: meshes, what they name, configurations.

        Raises SceneError or OSError where they cannot be read.
        """
        path = Path(self.path)
        if self.is_generated:
            return []
        if path.name.endswith(SCENE_INSTANCE_ENDING):
            return read_layout(path).files()
        config = asset_config_of(path, self.up)
        return [*config.files, *files_of_mesh(config.mesh_path)]


def resolve_scenes(
    patterns: list[str], *, up: str = DEFAULT_UP, sets: Mapping[str, SceneSet] | None = None
) -> list[SceneSource]:
    """Turn patterns into sources, in a stable order: sorted within a pattern, patterns as given.

    A pattern is a file, a folder (every scene in it), a glob (`**` goes into folders),
    `procedural:FIRST-LAST`, the rooms of these seeds (`procedural:SEED` for one), or, with sets,
    `SET:ROOT` or `SET/SPLIT:ROOT`, a published set's scenes below a folder. A file that several
    patterns match is one scene, of the first of them; so are a stage configuration and its mesh,
    and one mesh in several formats. Articulated objects of scene instances are not rendered: a
    warning names them. Raises SceneError for a pattern that matches nothing, and where two scenes
    have one name.
    """
    if up not in UP_AXES:
        raise SceneError(f"up: expected one of {', '.join(UP_AXES)}, got {up!r}")
    if not patterns:
        raise SceneError("no scenes given; name mesh files, globs or procedural:0-9")
    found: dict[object, SceneSource] = {}
    other_formats = []
    for pattern in patterns:
        for source in _sources(pattern, up, sets or {}):
            path, taken = Path(source.path), found.setdefault(_identity(source), source)
            if path.stem == Path(taken.path).stem and path.suffix != Path(taken.path).suffix:
                other_formats.append(path)
    tell_of_other_formats(other_formats)
    unnamed = [Path(source.path) for source in found.values() if not source.scene_id]
    names = scene_names(unnamed)
    sources = [
        source if source.scene_id else replace(source, scene_id=names[Path(source.path)])
        for source in found.values()
    ]
    _check_names(sources)
    _warn_of_left_out(sources)
    return sources


def tell_of_assumed_up(sources: Iterable[SceneSource]) -> None:
    """Log which meshes are taken with the default up axis though nothing says that it is theirs.

    Behind a URL, a stage configuration may still say it.
    """
    assumed = [
        Path(source.path).name
        for source in sources
        if source.up == DEFAULT_UP
        and source.path.lower().endswith(ENDINGS_WITHOUT_UP)
        and (source.is_remote or not stage_config_beside(Path(source.path)).exists())
    ]
    if assumed:
        names = first_few(assumed)
        logger.info("%s: no axis is said to be up; taken: %s (--up)", names, DEFAULT_UP)


def _sources(pattern: str, up: str, sets: Mapping[str, SceneSet]) -> Iterator[SceneSource]:
    """Yield a pattern's scenes; those of plain files are still without a name."""
    if pattern.startswith(PROCEDURAL):
        for seed in _room_seeds(pattern):
            yield SceneSource(scene_id=f"procedural-{seed:06d}", room_seed=seed)
        return
    match = re.fullmatch(r"(\w+)(?:/(\w+))?:(?!//)(.+)", pattern)
    if match and match[1] in sets:
        root = location(os.path.expanduser(match[3]))
        yield from _sources_of_set(sets[match[1]], match[2], root, up)
        return
    if match and sets and not Path(pattern).exists():
        raise SceneError(
            f"{pattern!r}: no scene set {match[1]!r}; expected SET:ROOT or SET/SPLIT:ROOT with one "
            f"of {', '.join(sets)}"
        )
    if is_url(pattern):
        urls = {Path(url): url for url in remote_matches(pattern)}
        for path in scene_files_among(urls):
            yield SceneSource(scene_id="", path=urls[path], up=up)
        return
    plain = not (glob.has_magic(pattern) or scene_files_among([Path(pattern)]))
    if plain and not Path(pattern).expanduser().exists():
        known_sets = f"SET:ROOT with one of {', '.join(sets)}, " if sets else ""
        raise SceneError(
            f"{pattern}: no such file or folder; expected mesh files, folders, globs, "
            f"{known_sets}or {PROCEDURAL}FIRST-LAST"
        )
    for path in _matching_files(pattern):
        yield SceneSource(scene_id="", path=str(path), up=up)


def _sources_of_set(
    scene_set: SceneSet, split: str | None, root: Path, up: str
) -> Iterator[SceneSource]:
    splits = None if split is None else [split]
    scenes = discover(scene_set, root, splits, check=False)  # a bad scene fails when it is loaded
    if not scenes:
        files = [
            pattern
            for name in splits or scene_set.default_splits
            for pattern in scene_set.splits[name].files
        ]
        raise SceneError(
            f"{scene_set.name}: no scene below {root}; expected {' or '.join(files)}. "
            + (_what_was_meant(scene_set, root) or scene_set.access)
        )
    for scene in scenes:
        yield SceneSource(
            scene_id=scene.scene_id,
            path=str(scene.path),
            up=scene_set.up or up,
            units_to_meters=scene_set.units_to_meters,
        )


def _what_was_meant(scene_set: SceneSet, root: Path) -> str:
    """Return the split that is there, or the folder above, where that is what a pattern means."""
    found = discover(scene_set, root, scene_set.splits, check=False)
    for scene in found:
        if not scene.problem:
            return f"There are scenes of {scene_set.name}/{scene.split}:{root}"
    files = [file for split in scene_set.splits.values() for file in split.files]
    if any(file.startswith(f"{root.name}/") for file in files):
        return f"Give the folder above: {scene_set.name}:{root.parent}"
    return ""


def _identity(source: SceneSource) -> object:
    """Return what two sources of one scene have in common.

    That is the seed, or the mesh that they lead to, but for its format.
    """
    if source.is_generated:
        return source.room_seed
    if source.is_remote:
        return os.path.splitext(source.path)[0]
    path = Path(source.path)
    if path.name.endswith(STAGE_CONFIG_ENDING):
        with suppress(SceneError):  # a bad configuration fails its own scene, when it is loaded
            path = asset_config_of(path, "y").mesh_path
    path = path.resolve()  # to a store's file, perhaps, whose name may end in anything
    return path.with_suffix("") if path.suffix.lower() in MESH_ENDINGS else path


def _check_names(sources: Iterable[SceneSource]) -> None:
    named: dict[str, SceneSource] = {}
    for source in sources:
        other = named.setdefault(source.scene_id, source)
        if other is not source:
            places = " and ".join(each.path or "a generated room" for each in (other, source))
            raise SceneError(
                f"two scenes have the name {source.scene_id}: {places}; leave one out, or rename it"
            )


def _warn_of_left_out(sources: Iterable[SceneSource]) -> None:
    left_out: dict[str, tuple[str, ...]] = {}
    for source in sources:
        if source.path.endswith(SCENE_INSTANCE_ENDING):
            with suppress(SceneError):  # a bad one fails its own scene, when it is loaded
                left_out[source.scene_id] = read_layout(Path(source.path)).left_out
    names = sorted({name for each in left_out.values() for name in each})
    if names:
        logger.warning(
            "articulated objects (URDF) are left out of %d of %d scenes: %s",
            sum(map(bool, left_out.values())),
            len(left_out),
            ", ".join(names),
        )


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
        found = scene_files_among(path.iterdir())
        if not found:
            raise SceneError(
                f"{pattern}: no mesh files ({', '.join(MESH_ENDINGS)}) in this folder; for those "
                f"in folders below, give my_scans:{pattern}"
            )
        return found
    if path.exists() or not glob.has_magic(pattern):
        return [path]  # a missing file fails its own scene, not the others
    found = scene_files_among(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise SceneError(f"{pattern}: no mesh file matches")
    return found
