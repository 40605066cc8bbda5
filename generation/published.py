"""The original project's metadata files: one for each scene, with the poses of its pairs.

github.com/naver/croco publishes them in place of images, which the scenes' licences forbid. Scenes
are named by where they lay, with the name of their set in place of its folder: for example
`hm3d/train/00000-kfPV7w3FaU5/kfPV7w3FaU5.basis.glb`.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from generation.errors import CrossviewError
from generation.geometry import HABITAT_FROM_OPENCV, Float64, rotation_from_wxyz
from generation.recorded import RecordedPairs
from generation.scenes.sets import scene_names
from generation.scenes.sources import SceneSource

METADATA_NAME = "metadata.json"
MAX_METADATA_BYTES = 1 << 28
"""Of one scene; a thousand pairs take a megabyte."""
JPEG_QUALITY = 75
"""Of the original's pictures: Pillow's default, as its generator names none."""
_OLD_REPLICA_CAD = re.compile(r"remake_v0_v3_(sc\d+_staging_\d+)\.glb")
_SCANNET = re.compile(r"(scene\d{4}_\d{2})(_vh_clean_2)?\.glb")


@dataclass(frozen=True, eq=False, kw_only=True)
class PublishedScene:
    """One metadata file."""

    file: str
    """Where it was read, for people."""
    label: PurePosixPath
    """The scene's file as it was named."""
    pair_ids: tuple[str, ...]
    """The pairs' names, each once."""
    world_from_cameras: Float64
    """(N, 2, 4, 4) poses, OpenCV axes, metres."""
    covisibility_official: Float64
    """(N,) the smaller of both directions."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    hfov_deg: float
    """Horizontal field of view, degrees."""

    @classmethod
    def parse(cls, data: bytes, file: str) -> PublishedScene:
        """Read a metadata file; of more than two views, every two are a pair.

        Raises CrossviewError, naming the file and what is wrong in it.
        """
        try:
            values = json.loads(data)
            views = values["multiviews"]
            label = PurePosixPath(values["scene"])
            label = label.relative_to(label.anchor)
            if not label.name or ".." in label.parts:
                raise ValueError(f"scene is {values['scene']!r}, expected a path")
            pairs = [pair for key in views for pair in _pairs_of(key, views[key])]
            if len({pair_id for pair_id, _, _ in pairs}) < len(pairs):
                raise ValueError("two of its pairs have names too much alike")
            height, width = (int(size) for size in values["resolution"])
            hfov_deg = float(values["hfov"])
            if min(height, width) < 16 or not 1 <= hfov_deg <= 170:
                raise ValueError(f"resolution {height} x {width}, hfov {hfov_deg}")
            return cls(
                file=file,
                label=label,
                pair_ids=tuple(pair_id for pair_id, _, _ in pairs),
                world_from_cameras=np.array([poses for _, poses, _ in pairs]).reshape(-1, 2, 4, 4),
                covisibility_official=np.array([number for _, _, number in pairs], float),
                image_size=(height, width),
                hfov_deg=hfov_deg,
            )
        except KeyError as error:
            raise CrossviewError(f"{file}: not a metadata file of pairs: no {error}") from None
        except (AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise CrossviewError(f"{file}: not a metadata file of pairs: {error}") from error


def read_published(
    path: Path, roots: list[Path], *, up: str | None, pairs_per_piece: int
) -> Iterator[RecordedPairs]:
    """Yield all pairs of metadata files in pieces of one scene: sorted by its id, pairs as listed.

    path: a metadata file, a folder of such, nested at will, or a tar of them, compressed or not.
    roots: folders below which the scenes lie. up: the axis of meshes without a stage configuration;
    None is what habitat-sim takes them for. Raises CrossviewError where there is none, or one makes
    no sense.
    """
    scenes = [PublishedScene.parse(data, file) for file, data in _metadata_files(path)]
    if not scenes:
        raise CrossviewError(f"{path}: no {METADATA_NAME} in it")
    by_label: dict[Path, PublishedScene] = {}
    for scene in scenes:
        other = by_label.setdefault(_named_by(scene.label), scene)
        if other is not scene:
            raise CrossviewError(
                f"{other.file} and {scene.file} are both of {scene.label}; leave one of them out"
            )
    named = {scene_id: by_label[label] for label, scene_id in scene_names(by_label).items()}
    for scene_id, scene in sorted(named.items()):
        file = find_scene(scene.label, roots)
        source = None
        if file:
            z_up = scene.label.suffix == ".glb" and not _is_replica_cad(file)
            axis = up or ("z" if z_up else "y")
            source = SceneSource(scene_id=scene_id, path=str(file), up=axis)
        for first in range(0, len(scene.pair_ids), pairs_per_piece):
            piece = slice(first, first + pairs_per_piece)
            yield RecordedPairs(
                name=f"{scene_id}-{first:06d}",
                scene=source,
                scene_id=scene_id,
                label=str(scene.label),
                missing="" if file else _where_it_was_sought(scene.label, roots),
                keys=tuple(f"{scene_id}-{pair_id}" for pair_id in scene.pair_ids[piece]),
                world_from_cameras=scene.world_from_cameras[piece],
                covisibility={"covisibility_official": scene.covisibility_official[piece]},
                image_size=scene.image_size,
                hfov_deg=scene.hfov_deg,
            )


def find_scene(label: PurePosixPath, roots: list[Path]) -> Path | None:
    """Return the file that a label means, or None.

    Folders at the label's beginning may be missing below a root: it may be that of all sets, of one
    set, or the scene's own. A plain .glb stands for a .basis.glb, ScanNet's own .ply for a .glb
    made of it, and ReplicaCAD's scenes also have their present names and folder.
    """
    folders, names = label.parent.parts, [label.name]
    if label.name.endswith(".basis.glb"):
        names.insert(0, label.name.removesuffix(".basis.glb") + ".glb")
    folder_styles = [folders]
    if scan := _SCANNET.fullmatch(label.name):
        names.append(f"{scan[1]}_vh_clean_2.ply")
        folder_styles += [(*folders, scan[1]), (*folders, "scans", scan[1])]
    if old := _OLD_REPLICA_CAD.fullmatch(label.name):
        names = [f"Baked_{old[1]}.glb", label.name]
        stages = ("stages_uncompressed", "stages")  # as downloaded, "stages" may be compressed
        folder_styles += [(*f, s) for s in stages for f in (folders, folders[:-1])]
    for root in roots:
        for style in folder_styles:
            # `mesh.ply` says nothing without its folder.
            for start in range(len(style) + (label.stem != "mesh")):
                for name in names:
                    file = root.joinpath(*style[start:], name)
                    if file.is_file():
                        return file
    return None


def _where_it_was_sought(label: PurePosixPath, roots: list[Path]) -> str:
    folders = ", ".join(map(str, roots)) or "no folder (give --root)"
    return f"{label} was not found below {folders}"


def _is_replica_cad(file: Path) -> bool:
    return file.name.startswith("Baked_sc") or bool(_OLD_REPLICA_CAD.fullmatch(file.name))


def _named_by(label: PurePosixPath) -> Path:
    """Return the path that a scene's id is made of."""
    return Path(re.sub(r"\.basis\.glb$", ".glb", str(label)))


def _pairs_of(key: str, view: dict[str, Any]) -> Iterator[tuple[str, Float64, float]]:
    """Yield (id, (2, 4, 4) poses, official co-visibility) of every two of a multiview's views."""
    poses = [
        _world_from_camera(position, orientation, key)
        for position, orientation in zip(view["positions"], view["orientations"], strict=True)
    ]
    ratios = np.array(view["pairwise_visibility_ratios"], float)
    if ratios.shape != (len(poses), len(poses)) or not ((ratios >= 0) & (ratios <= 1)).all():
        raise ValueError(f"{key}: expected {len(poses)} x {len(poses)} ratios from 0 to 1")
    pair_id = re.sub(r"[^A-Za-z0-9_-]+", "_", key)
    for one, other in combinations(range(len(poses)), 2):
        views = f"-{one + 1}-{other + 1}" if len(poses) > 2 else ""
        number = min(ratios[one, other], ratios[other, one])
        yield pair_id + views, np.stack([poses[one], poses[other]]), float(number)


def _world_from_camera(position: Any, orientation_wxyz: Any, key: str) -> Float64:
    world_from_camera = np.eye(4)
    values = np.array([*position, *orientation_wxyz], float)
    if values.shape != (7,) or not np.isfinite(values).all() or not values[3:].any():
        raise ValueError(f"{key}: expected a position (x, y, z) and a quaternion (w, x, y, z)")
    world_from_camera[:3, :3] = rotation_from_wxyz(values[3:]) @ HABITAT_FROM_OPENCV
    world_from_camera[:3, 3] = values[:3]
    return world_from_camera


def _metadata_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of every metadata file."""
    if path.is_dir():
        for file in sorted(path.rglob(METADATA_NAME)):
            yield str(file), file.read_bytes()
    elif not path.is_file():
        raise CrossviewError(f"{path}: no such file or folder")
    elif path.suffix == ".json":
        yield str(path), path.read_bytes()
    else:
        try:
            with path.open("rb") as stream, tarfile.open(fileobj=stream) as tar:
                for member in tar:
                    if member.isfile() and PurePosixPath(member.name).name == METADATA_NAME:
                        name = f"{path}: {member.name}"
                        yield name, _member(tar, member, name)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise CrossviewError(
                f"{path}: expected a folder, a .json or a tar of metadata files: {error}"
            ) from error


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    if member.size > MAX_METADATA_BYTES:
        raise CrossviewError(f"{name}: {member.size} bytes, expected at most {MAX_METADATA_BYTES}")
    stream = tar.extractfile(member)
    assert stream is not None, "a regular file has content"
    return stream.read()
