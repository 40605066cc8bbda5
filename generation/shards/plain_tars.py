"""Tars of two images a sample, from anywhere, made readable: an index and sidecars beside them.

In a tar, the members whose names agree up to the first dot of the file name are one sample. Those
that end in .jpg or .jpeg are its images, by name: KEY.view1.jpg and KEY.view2.jpg, or
KEY.1.jpg and KEY.2.jpg. Where they are pairs that were rendered, copied from their dataset, their
scene, cameras and depth are known too.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from generation.errors import CrossviewError, first_few
from generation.files import file_sha256
from generation.shards.reader import ShardIndex
from generation.shards.schema import (
    DEPTHS,
    INDEX_NAME,
    META,
    VIEWS,
    ShardEntry,
    ShardError,
    Sidecar,
    sidecar_path,
)

IMAGE_ENDINGS = (".jpg", ".jpeg")


def index_plain_tars(folder: Path) -> ShardIndex:
    """Write a sidecar beside each tar of a folder, and index.json; return the index.

    Each tar is of one scene: all of it is trained on, or all held out. Raises CrossviewError where
    there is an index already, no tar, a compressed tar, one of several scenes, a sample without two
    JPEG images, or another file where a sidecar would go, such as one that an interrupted
    render-pairs left.
    """
    if (folder / INDEX_NAME).exists():
        if not ShardIndex.open(folder).is_plain:
            raise CrossviewError(
                f"{folder}: a dataset of rendered pairs, which has its {INDEX_NAME}: there is "
                "nothing to do"
            )
        raise CrossviewError(f"{folder / INDEX_NAME} is there already; remove it to index again")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise CrossviewError(f"{folder}: expected tars of two images a sample, found no *.tar")
    for path in map(sidecar_path, tars):
        if path.exists() and not _is_sidecar(path):
            raise CrossviewError(f"{path}: the sidecar would replace this file; move it elsewhere")
    sidecars = [_sidecar(path) for path in tars]
    for path, sidecar in zip(tars, sidecars):
        sidecar.write(path)
    entries = tuple(sidecar.entry for sidecar in sidecars if sidecar.entry)
    index = ShardIndex(folder=folder, config={}, shards=entries)
    index.write()
    return index


def _is_sidecar(path: Path) -> bool:
    """Return whether a file is a sidecar from here: those of rendered pairs name their task."""
    try:
        return Sidecar.read(path).is_plain
    except ShardError:
        return False


def _sidecar(path: Path) -> Sidecar:
    scene, samples = plain_contents(path)
    entry = ShardEntry(
        name=path.name,
        scene=scene,
        count=len(samples),
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )
    return Sidecar(entry=entry, task={}, samples=samples, attempts=0, rejections={})


def plain_contents(path: Path) -> tuple[str, dict[str, dict[str, tuple[int, int]]]]:
    """Return the scene of a tar, and key -> member ending -> (offset, size) of its images.

    The scene is the one that rendered pairs name, whose meta.json and depth are among the members;
    else the tar's name. Raises CrossviewError, also where there are several.
    """
    images: dict[str, list[tuple[str, int, int]]] = {}
    others: dict[str, dict[str, tuple[int, int]]] = {}
    scenes: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                directory, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = "/".join(filter(None, (directory, stem)))
                if name.lower().endswith(IMAGE_ENDINGS):
                    place = (name, member.offset_data, member.size)
                    images.setdefault(key, []).append(place)
                elif ending in (META, *DEPTHS):
                    others.setdefault(key, {})[ending] = (member.offset_data, member.size)
                    stream = tar.extractfile(member) if ending == META else None
                    if stream and (scene := _rendered_scene(stem, stream.read())):
                        scenes[key] = scene
    except (tarfile.TarError, EOFError) as error:
        raise CrossviewError(
            f"{path}: not a whole tar without compression ({error}); unpack it, or fetch it again"
        ) from error
    for key, found in images.items():
        if len(found) != len(VIEWS):
            raise CrossviewError(
                f"{path}: sample {key!r} has {len(found)} JPEG images, expected two, such as "
                f"{key}.view1.jpg and {key}.view2.jpg"
            )
    if not images:
        raise CrossviewError(f"{path}: expected samples of two JPEG images, found none")
    shown = sorted({scenes.get(key, path.stem) for key in images})
    if len(shown) > 1:
        raise CrossviewError(
            f"{path}: pairs of {len(shown)} scenes ({first_few(shown)}); all of a tar is trained "
            "on or held out, so make one of each scene"
        )
    return shown[0], {
        key: {
            **{view: place[1:] for view, place in zip(VIEWS, sorted(found))},
            **(others[key] if key in scenes else {}),
        }
        for key, found in images.items()
    }


def _rendered_scene(stem: str, meta: bytes) -> str | None:
    """Return the scene that a rendered pair's meta.json names; None where it is none of ours."""
    try:
        scene = json.loads(meta)["scene"]
    except (ValueError, KeyError, TypeError):
        return None
    return scene if isinstance(scene, str) and stem.startswith(f"{scene}-") else None
