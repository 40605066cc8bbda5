"""Scenes behind a URL: found by listing, and copied to this machine while they are loaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
"""Of an OBJ or PLY: the part that is expected to hold the names of all other files."""


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
    """Return a digest of a scene in a store; it changes when one of the scene's files does.

    It is made of what the store says of the files, not of their bytes: of size and tag in a bucket,
    of the address alone over https. Files are found by reading the beginnings of those that name
    others; what the JSON of a GLB names does not count. Raises OSError, also where the scene is not
    there, SceneError, and CrossviewError where the store does not answer.
    """
    store, key = filesystem(location(url))
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        copy = partial(_copy_names, store)
        keys = _dataset_files(store, key) or _copy_scene(store, key, folder, copy)
    fingerprints = [_fingerprint(store, key) for key in sorted(keys)]
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Copy a scene to a temporary folder for the length of a block; yield its file there.

    For a mesh, the stage configuration beside it and all files that the two name come too; for a
    scene instance, its whole dataset. Raises SceneError, and CrossviewError where the store does
    not answer. SceneErrors raised in the block are raised again, with URLs in place of local paths.
    """
    store, key = filesystem(location(url))
    with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
        here = _local_path(key, folder)
        try:
            try:
                for file in _dataset_files(store, key):
                    _copy_file(store.get_file, file, folder)
                if not here.is_file():
                    _copy_scene(store, key, folder, store.get_file)
            except FileNotFoundError as error:
                raise SceneError(f"{url}: no such file") from error
            except OSError as error:
                raise SceneError(f"{url}: cannot be fetched: {error}") from error
            yield here
        except SceneError as error:
            url_of_folder = url.removesuffix(str(here.relative_to(folder)))
            raise SceneError(str(error).replace(f"{folder}/", url_of_folder)) from error


Copy = Callable[[str, str], object]
"""Copies a file, all of it or what is needed, from its key in a store to a local path."""


def _copy_scene(store: Any, key: str, folder: str, copy: Copy) -> list[str]:
    """Copy a scene, its configuration and the files that they name; return the keys of all.

    In the folder, files lie as they do in the store. Raises OSError where the scene itself is not
    there, or not to be had.
    """
    if not _is_file(store, key):
        raise FileNotFoundError(key)
    here = _local_path(key, folder)
    key_of_folder = key.removesuffix(str(here.relative_to(folder)))
    keys: list[str] = []
    found = [key, *_there(store, [_stage_config_beside(key)])]
    while found:
        for each in found:
            _copy_file(copy, each, folder)
        keys += found
        # An OBJ names materials, which name textures; what is not there, loading complains of.
        named = [key_of_folder + name for name in _named_files(here, folder)]
        found = _there(store, [each for each in named if each not in keys])
    return keys


def _copy_file(copy: Copy, key: str, folder: str) -> None:
    """Copy a file to its place in a folder, trying again after errors that may pass."""
    path = _local_path(key, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    retried(lambda: copy(key, str(path)), key)


def _copy_names(store: Any, key: str, path: str) -> None:
    """Copy only the part of a file that names other files: nothing of most kinds of files."""
    if key.lower().endswith((".json", ".gltf", ".mtl")):
        store.get_file(key, path)
    else:
        names = key.lower().endswith((".obj", ".ply"))
        Path(path).write_bytes(store.cat_file(key, 0, _BEGINNING_BYTES) if names else b"")


def _local_path(key: str, folder: str) -> Path:
    """Return where the file of a key lies in a folder; over https, keys are URLs."""
    return Path(folder) / key.rpartition("://")[2].lstrip("/")


def _is_file(store: Any, key: str) -> bool:
    """Return whether a key is that of a file. Raises OSError where there is nothing."""
    return bool(retried(lambda: store.info(key), key)["type"] == "file")


def _there(store: Any, keys: list[str]) -> list[str]:
    """Return those of some keys that are of files. Raises CrossviewError without an answer."""
    found = []
    for key in keys:
        # Who may not list a bucket is told that what is missing is forbidden.
        with suppress(FileNotFoundError, PermissionError):
            if _is_file(store, key):
                found.append(key)
    return found


def _fingerprint(store: Any, key: str) -> str:
    """Return a fingerprint of a stored file: its size and tag; without a tag, all that is said."""
    info = {} if is_url(key) else retried(lambda: store.info(key), key)
    tag = info.get("ETag") or info.get("etag")
    return f"{key} {info['size']} {tag}\n" if tag else str(store.ukey(key))


def _dataset_files(store: Any, key: str) -> list[str]:
    """Return all files of the dataset that a scene instance belongs to; none of a mesh."""
    if key.endswith(SCENE_INSTANCE_ENDING):
        for folder in list(PurePosixPath(key).parents)[:4]:
            if store.glob(f"{folder}/*{SCENE_DATASET_ENDING}"):
                return list(store.find(str(folder)))
    return []


def _named_files(path: Path, folder: str) -> list[str]:
    """Return the files that a scene's file in a folder names, by their places in the folder."""
    if not path.is_file():
        return []
    mesh = asset_config_of(path, "y").mesh_path
    is_copied = mesh.is_file() and mesh.stat().st_size > 0
    files = files_of_mesh(mesh) if is_copied else [mesh]
    places = [os.path.relpath(file, folder) for file in files]
    return [place for place in places if not place.startswith("..")]


def _stage_config_beside(key: str) -> str:
    """Return the key of the stage configuration that may lie beside a mesh."""
    folder, _, name = key.rpartition("/")  # over https, a path would lose one of two slashes
    return f"{folder}/{PurePosixPath(name).stem}{STAGE_CONFIG_ENDING}"
