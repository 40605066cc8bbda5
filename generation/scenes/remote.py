"""Scenes behind a URL: found by listing, and copied to this machine while they are loaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from generation.locations import filesystem, location
from generation.retries import retried
from generation.scenes.asset_config import STAGE_CONFIG_ENDING, asset_config_of
from generation.scenes.composed import SCENE_DATASET_ENDING, SCENE_INSTANCE_ENDING
from generation.scenes.mesh_files import files_of_mesh
from generation.scenes.scene import SceneError

_BEGINNING_BYTES = 1 << 16
"""Of an OBJ or PLY, in which all that names files is taken to stand."""


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
    """Return a digest that changes when a file does that a scene consists of.

    It is of what the store says of the files (of buckets size and tag; over https the address
    alone), not of their bytes. Which those are is read from the beginnings of the files that name
    others; what the JSON of a GLB names does not count. Raises OSError, also where the scene is not
    there, SceneError, and CrossviewError where the store does not answer.
    """
    store, key = filesystem(location(url))
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        keys = _dataset(store, key) or _copied(store, key, folder, partial(_get_beginning, store))
    prints = [_print_of(store, key) for key in sorted(keys)]
    return hashlib.sha256("".join(prints).encode()).hexdigest()


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Copy a scene to a temporary folder for the length of a block; yield its file there.

    With it come the stage configuration beside a mesh and the files that these name, or the whole
    dataset of a scene instance. Raises SceneError, and CrossviewError where the store does not
    answer; SceneErrors of the block name URLs too.
    """
    store, key = filesystem(location(url))
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        here = _place(key, folder)
        try:
            try:
                for part in _dataset(store, key):
                    _get(store.get_file, part, folder)
                if not here.is_file():
                    _copied(store, key, folder, store.get_file)
            except FileNotFoundError as error:
                raise SceneError(f"{url}: no such file") from error
            except OSError as error:
                raise SceneError(f"{url}: cannot be fetched: {error}") from error
            yield here
        except SceneError as error:
            top = url.removesuffix(str(here.relative_to(folder)))
            raise SceneError(str(error).replace(f"{folder}/", top)) from error


Get = Callable[[str, str], object]
"""Copies what has a key to a local path."""


def _copied(store: Any, key: str, folder: str, get: Get) -> list[str]:
    """Copy a scene, its configuration, and what they name, into a folder; return the keys.

    Files get the places there that they have below the store's top. Raises OSError where the scene
    itself is not there, or not to be had.
    """
    retried(lambda: store.info(key), key)
    here = _place(key, folder)
    top = key.removesuffix(str(here.relative_to(folder)))
    keys: list[str] = []
    left = _mesh_and_config(key)
    while left:
        there = [each for each in left if each not in keys and _is_there(store, each)]
        for each in there:
            _get(get, each, folder)
        keys += there
        # An OBJ names materials, which name textures; what is not there, loading complains of.
        left = [top + name for name in _named(here, folder)] if there else []
    return keys


def _get(get: Get, key: str, folder: str) -> None:
    local = _place(key, folder)
    local.parent.mkdir(parents=True, exist_ok=True)
    retried(lambda: get(key, str(local)), key)


def _is_there(store: Any, key: str) -> bool:
    """Return whether a file is in a store. Raises CrossviewError where it does not answer."""
    try:
        return bool(retried(lambda: store.info(key), key)["type"] == "file")
    except (FileNotFoundError, PermissionError):  # who may not list is told so of what is missing
        return False


def _print_of(store: Any, key: str) -> str:
    """Return what is another for another file; where it is stored, and how, makes no difference."""
    info = {} if is_url(key) else retried(lambda: store.info(key), key)
    tag = info.get("ETag") or info.get("etag")
    return f"{key} {info['size']} {tag}\n" if tag else str(store.ukey(key))


def _get_beginning(store: Any, key: str, local: str) -> None:
    """Copy what tells the files that a file names, if it is of a kind that does; else nothing."""
    if key.lower().endswith((".json", ".gltf", ".mtl")):
        store.get_file(key, local)
    else:
        names = key.lower().endswith((".obj", ".ply"))
        Path(local).write_bytes(store.cat_file(key, 0, _BEGINNING_BYTES) if names else b"")


def _place(key: str, folder: str) -> Path:
    """Return where a key's file lies in a folder; over https, keys are URLs."""
    return Path(folder) / key.rpartition("://")[2].lstrip("/")


def _named(path: Path, folder: str) -> list[str]:
    """Return the files, by their place in a folder, that a scene there names."""
    if not path.is_file():
        return []
    mesh = asset_config_of(path, "y").mesh_path
    whole = mesh.is_file() and mesh.stat().st_size > 0
    places = [os.path.relpath(file, folder) for file in (files_of_mesh(mesh) if whole else [mesh])]
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
    folder, _, name = key.rpartition("/")  # over https, a path would lose one of two slashes
    return [key, f"{folder}/{PurePosixPath(name).stem}{STAGE_CONFIG_ENDING}"]
