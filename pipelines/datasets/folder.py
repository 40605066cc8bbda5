"""The folder of a dataset: held by one run at a time, for one configuration, of these scenes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from generation.errors import CrossviewError, first_few
from generation.files import remove_partial_files, write_text_whole
from generation.folder_lock import locked
from generation.plain import Plain, diff_plain
from generation.scenes.sources import SceneSource, resolve_scenes
from generation.shards.reader import ShardIndex, read_each
from generation.shards.schema import (
    CONFIG_NAME,
    INDEX_NAME,
    SCHEMA_VERSION,
    ShardEntry,
    ShardError,
    read_config,
    read_json,
)
from generation.versions import other_versions, versions
from pipelines.datasets.run_log import RUN_LOG_NAME
from pipelines.datasets.shard_tasks import ShardTask
from pipelines.scene_sets import scene_sets

logger = logging.getLogger(__name__)


def other_configuration(out: Path, recipe: Plain) -> list[str]:
    """Say, a line each, in what a folder's dataset differs from a recipe; empty: in nothing."""
    if recorded := recorded_configuration(out):
        return diff_plain({key: recorded.get(key) for key in recipe}, recipe)
    if any(out.glob("*.tar")):
        return [f"its tar files are of something else (no {CONFIG_NAME})"]
    return []


def recorded_configuration(out: Path) -> Plain | None:
    """Return what a folder's dataset was made with; None where nothing in the folder says it.

    Where config.json is lost or damaged, the index says what decided the pairs, which is warned of.
    Raises ShardError where config.json is damaged and there is no index.
    """
    path = out / CONFIG_NAME
    there = path.exists()
    try:
        return read_config(path)
    except ShardError as error:
        try:
            config = ShardIndex.open(out).config
        except ShardError:
            if there:
                raise error from None
            return None
        logger.warning("%s; what decided the pairs is taken from %s", error, INDEX_NAME)
        return config


@contextmanager
def claimed(out: Path, config: Plain, recipe: Plain, tasks: Sequence[ShardTask]) -> Iterator[None]:
    """Hold a dataset's folder for one run; write the resolved configuration before any work.

    recipe is the part of config that decides a pair's bytes; tasks are all of the run's. Raises
    CrossviewError where require_continued does or another run is writing to the folder. Nothing
    half-written is left, before or after: an orphan of a killed run, on a machine that was cut
    off, will find its file gone, and fail.
    """
    require_continued(out, recipe, tasks)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossviewError(f"{out}: cannot make this output folder: {error}") from error
    with locked(out):
        remove_partial_files(out)
        _write_config(out, config, tasks)
        try:
            yield
        finally:
            remove_partial_files(out)


def require_continued(out: Path, recipe: Plain, tasks: Sequence[ShardTask]) -> None:
    """Raise CrossviewError where a folder holds a dataset of another recipe, or more than asked."""
    if different := other_configuration(out, recipe):
        raise CrossviewError(
            f"{out} holds a dataset of another configuration; give what it was made with, choose "
            "another --out, or remove the folder:\n  " + "\n  ".join(different)
        )
    if lost := what_would_be_lost(out, tasks):
        raise CrossviewError(
            f"{out} holds {lost}: give all of its scenes and at least as many pairs, choose "
            f"another --out or, to do with less, remove {INDEX_NAME} first"
        )


def what_would_be_lost(out: Path, tasks: Sequence[ShardTask]) -> str:
    """Say what a folder's dataset has and tasks would leave out; "" where nothing."""
    try:
        listed = ShardIndex.open(out).shards
    except ShardError:  # not finished once, without a pair, or damaged, and then made anew
        return ""
    if not _lost(listed, tasks):
        return ""
    # Else the index may be wrong, or shards gone.
    return _lost([entry for entry in listed if (out / entry.name).exists()], tasks)


def _lost(listed: Sequence[ShardEntry], tasks: Sequence[ShardTask]) -> str:
    """Say what tasks would leave out of these shards; "" where nothing."""
    held = sum({entry.name: entry.count for entry in listed}.values())
    asked = sum(task.count for task in tasks)
    scenes = {task.scene.scene_id for task in tasks}
    own = {f"{task.name}.tar" for task in tasks}  # whatever the index says
    without = sorted({entry.scene for entry in listed if entry.name not in own} - scenes)
    if not without and asked >= held:
        return ""
    none_of = f", none of them of {first_few(without)}" if without else ""
    return f"{held} pairs, and this asks for {asked}{none_of}"


def _write_config(folder: Path, config: Plain, tasks: Iterable[ShardTask]) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "config": config,
        "versions": _versions_in(folder, tasks),
    }
    write_text_whole(folder / CONFIG_NAME, json.dumps(document, indent=1) + "\n")


def scenes_of(folder: Path) -> list[SceneSource]:
    """Return the scenes that a dataset was made from, as far as they can be found.

    Raises ShardError where its configuration is damaged.
    """
    path = folder / CONFIG_NAME
    if not path.exists():
        return []
    values = read_config(path)
    patterns = values.get("scenes")
    if not isinstance(patterns, list):
        return []
    resolve = partial(resolve_scenes, up=values.get("up") or "y", sets=scene_sets())
    try:
        return resolve(patterns)
    except (CrossviewError, TypeError) as error:
        logger.info("scenes of %s are not where they were: %s", folder, error)
    found: list[SceneSource] = []
    for pattern in patterns:
        with suppress(CrossviewError, TypeError):
            found += resolve([pattern])
    return found


def _versions_in(folder: Path, tasks: Iterable[ShardTask]) -> dict[str, str]:
    """Return the versions that a folder's shards are of: those here, or of the shards that stay."""
    now = versions()
    try:
        run = read_json(folder / CONFIG_NAME, "the configuration of a run")
    except ShardError:
        return now
    before: dict[str, str] = run.get("versions", {})
    other = other_versions(before, now)
    if not other or not any(read_each(lambda task: task.finished(), tasks)):
        return now
    logger.warning(
        "%s: its shards were made by other packages; what is made now may have other bytes than "
        "they would have given. %s keeps their versions, %s has those of each run:\n  %s",
        folder,
        CONFIG_NAME,
        RUN_LOG_NAME,
        "\n  ".join(f"{name}: {before[name]} before, {now[name]} now" for name in other),
    )
    return before


def warn_of_unlisted(folder: Path, entries: Sequence[ShardEntry]) -> None:
    """Warn of shards that lie in a folder and are not in its index."""
    unlisted = {path.name for path in folder.glob("*.tar")} - {entry.name for entry in entries}
    if unlisted:
        logger.warning(
            "%d shards in %s are not part of this run and not in its index, for example %s",
            len(unlisted),
            folder,
            min(unlisted),
        )
