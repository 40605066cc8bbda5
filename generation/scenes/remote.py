"""Scenes behind a URL: found by listing, and copied to this machine while they are loaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from generation.locations import filesystem, location
from generation.scenes.asset_config import STAGE_CONFIG_ENDING, asset_config_of
from generation.scenes.composed import SCENE_DATASET_ENDING, SCENE_INSTANCE_ENDING
from generation.scenes.mesh_files import files_of_mesh
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

    Of a scene that is several files, any change in their folder changes it; of a PLY not the
    texture's. It is of what the store says of files (size, time, tag), not of their bytes. Raises
    OSError.
    """
    store, key = filesystem(location(url))
    parts = _dataset(store, key) or [part for part in _mesh_and_config(key) if store.isfile(part)]
    if key.lower().endswith((".gltf", ".obj", STAGE_CONFIG_ENDING)):
        parts = [*{*parts, *store.find(_folder(key))}]
    return hashlib.sha256("".join(map(store.ukey, sorted(parts))).encode()).hexdigest()


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Copy a scene to a temporary folder for the length of a block; yield its file there.

    With it come the stage configuration beside a mesh and the files that these name, or the whole
    dataset of a scene instance. Raises SceneError; those that the block raises name URLs too.
    """
    store, key = filesystem(location(url))
    place = key.rpartition("://")[2].lstrip("/")  # of https, keys are URLs
    top = key.removesuffix(place)
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        here = Path(folder) / place
        try:
            try:
                _fetch(store, key, top, here, folder)
            except OSError as error:
                raise SceneError(f"{url}: cannot be fetched: {error}") from error
            yield here
        except SceneError as error:
            said = str(error).replace(f"{folder}/", url.removesuffix(place))
            raise SceneError(said) from error


def _fetch(store: Any, key: str, top: str, here: Path, folder: str) -> None:
    """Copy a scene into a folder, at the places that its files have below the store's top."""

    def copied(keys: Iterable[str]) -> int:
        there = [key for key in keys if store.isfile(key)]
        for key in there:
            local = Path(folder) / key.removeprefix(top)
            local.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(key, str(local))
        return len(there)

    dataset = _dataset(store, key)
    if not copied(dataset or _mesh_and_config(key)) or not here.is_file():
        raise SceneError(f"{here}: no such file")
    # An OBJ names materials, which name textures; what is not there either, loading complains of.
    while not dataset and copied(top + name for name in _missing(here, folder)):
        pass


def _missing(path: Path, folder: str) -> list[str]:
    """Return the files, by their place in a folder, that a scene there names and that it lacks."""
    mesh = asset_config_of(path, "y").mesh_path
    named = files_of_mesh(mesh) if mesh.is_file() else [mesh]
    places = [os.path.relpath(file, folder) for file in named if not file.is_file()]
    return [place for place in places if not place.startswith("..")]


def _dataset(store: Any, key: str) -> list[str]:
    """Return all files of the dataset that a scene instance belongs to; none of a mesh."""
    if key.endswith(SCENE_INSTANCE_ENDING):
        for folder in list(PurePosixPath(key).parents)[:4]:
            if store.glob(f"{folder}/*{SCENE_DATASET_ENDING}"):
                return list(store.find(str(folder)))
    return []


def _mesh_and_config(key: str) -> list[str]:
    """Return a scene's file and the stage configuration that may lie beside it."""
    path = PurePosixPath(key)
    return [key, f"{_folder(key)}/{path.stem}{STAGE_CONFIG_ENDING}"]


def _folder(key: str) -> str:
    return key.rpartition("/")[0]
