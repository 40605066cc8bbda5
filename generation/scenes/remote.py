"""Scenes behind a URL: found by listing, and copied to this machine while they are loaded."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from generation.locations import filesystem, location
from generation.scenes.asset_config import STAGE_CONFIG_ENDING
from generation.scenes.composed import SCENE_DATASET_ENDING, SCENE_INSTANCE_ENDING
from generation.scenes.scene import SceneError


def is_url(text: str) -> bool:
    """Return whether a pattern or path is a URL."""
    return "://" in text


def remote_matches(pattern: str) -> list[str]:
    """Return the URLs that a URL with wildcards matches, sorted; itself where it has none.

    Raises SceneError where the store cannot be read.
    """
    store, key = filesystem(location(pattern))
    if not any(sign in key for sign in "*?["):
        return [pattern]
    try:
        return sorted(store.unstrip_protocol(found) for found in store.glob(key))
    except OSError as error:
        raise SceneError(f"{pattern}: cannot be listed: {error}") from error


def remote_digest(url: str) -> str:
    """Return a digest that changes when a scene's file, or the configuration beside it, does.

    Of what the store says of them (size, time, tag), not of their bytes. Raises OSError.
    """
    store, key = filesystem(location(url))
    parts = [store.ukey(part) for part in _parts(store, key) if store.isfile(part)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Copy a scene to a temporary folder for the length of a block; yield its file there.

    With it come the stage configuration beside a mesh, the folder of a .gltf, .obj or stage
    configuration, or the whole dataset of a scene instance. Raises SceneError.
    """
    store, key = filesystem(location(url))
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        try:
            if not store.exists(key):
                raise SceneError(f"{url}: no such file")
            parts = _parts(store, key)
            root = _common_folder(parts)
            for part in parts:
                local = Path(folder) / PurePosixPath(part).relative_to(root)
                local.parent.mkdir(parents=True, exist_ok=True)
                if store.isfile(part):
                    store.get_file(part, str(local))
                elif store.isdir(part):
                    store.get(f"{part}/", f"{local}/", recursive=True)
        except OSError as error:
            raise SceneError(f"{url}: cannot be fetched: {error}") from error
        yield Path(folder) / PurePosixPath(key).relative_to(root)


def _parts(store: object, key: str) -> list[str]:
    """Return the files and folders that a scene may consist of; not all of them need be there."""
    path = PurePosixPath(key)
    if key.endswith(SCENE_INSTANCE_ENDING):
        for folder in list(path.parents)[:4]:
            if store.glob(f"{folder}/*{SCENE_DATASET_ENDING}"):  # type: ignore[attr-defined]
                return [str(folder)]
    if key.endswith(STAGE_CONFIG_ENDING) or path.suffix.lower() in (".gltf", ".obj"):
        return [str(path.parent)]
    return [key, str(path.with_name(path.stem + STAGE_CONFIG_ENDING))]


def _common_folder(parts: list[str]) -> str:
    folder = PurePosixPath(parts[0])
    return str(folder if len(parts) == 1 else folder.parent)
