"""Scenes composed of a stage and objects: ReplicaCAD's layout, as habitat-sim reads it.

A NAME.scene_dataset_config.json says where the configurations of stages, objects and scene
instances lie. A scene instance names a stage and puts objects into it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generation.geometry import compose, rotation_from_wxyz
from generation.scenes.asset_config import (
    OBJECT_CONFIG_ENDING,
    STAGE_CONFIG_ENDING,
    AssetConfig,
    Vector,
    read_config,
    vector,
)
from generation.scenes.mesh_files import MESH_ENDINGS, check_mesh, files_of_mesh, read_mesh
from generation.scenes.scene import Scene, SceneError, joined, transformed

SCENE_INSTANCE_ENDING = ".scene_instance.json"
SCENE_DATASET_ENDING = ".scene_dataset_config.json"
NO_STAGE = "NONE"
"""The stage's template name in a scene without one."""
_ARTICULATED = "articulated_object_instances"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A stage or an object where a scene instance puts it."""

    asset: AssetConfig
    """Its mesh and frame."""
    translation: Vector = (0.0, 0.0, 0.0)
    """Where its origin, or its centre, goes, in metres."""
    rotation_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Quaternion, about the same point."""
    scale: Vector = (1.0, 1.0, 1.0)
    """The instance's factors, on top of the configuration's; along the asset's turned axes."""
    by_centre: bool = False
    """translation_origin COM: its centre is placed, not the file's origin."""

    def placed(self, mesh: Scene) -> Scene:
        """Return its mesh, as the file has it, in the world."""
        scale = np.array(self.scale)
        upright = transformed(mesh, np.diag(scale) @ self.asset.world_from_file)
        centre = np.zeros(3)
        if self.by_centre:
            given = self.asset.centre
            centre = (
                upright.bounds.astype(float).mean(axis=0)
                if given is None
                else np.array(given) * self.asset.scale * scale
            )
        rotation = rotation_from_wxyz(list(self.rotation_wxyz))
        turned_centre = compose(rotation, centre[:, None])[:, 0]
        return transformed(upright, rotation, np.array(self.translation) - turned_centre)


@dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """What a scene instance consists of."""

    placements: tuple[Placement, ...]
    """Its stage, if it has one, and its visible objects."""
    left_out: tuple[str, ...]
    """Template names of its articulated objects (URDF), which are not rendered."""
    config_files: tuple[Path, ...]
    """The scene instance, its dataset's configuration, and those of what is placed."""

    @property
    def mesh_paths(self) -> tuple[Path, ...]:
        """Its mesh files, each once."""
        return tuple(dict.fromkeys(placement.asset.mesh_path for placement in self.placements))

    def files(self) -> list[Path]:
        """Return every file that the scene is made of. Raises SceneError or OSError."""
        meshes = [file for path in self.mesh_paths for file in files_of_mesh(path)]
        return [*self.config_files, *meshes]

    def check(self) -> None:
        """Raise SceneError where one of its meshes is no good, as check_mesh() says."""
        for path in self.mesh_paths:
            check_mesh(path)


def load_composed_scene(instance: Path, scene_id: str) -> Scene:
    """Load a NAME.scene_instance.json: its stage and objects as one mesh in world axes.

    A mesh that is placed many times is read once and its textures are shared. Articulated objects
    are left out (SceneLayout.left_out names them). Raises SceneError naming the file that is bad.
    """
    layout = read_layout(instance)
    meshes = {path: read_mesh(path, scene_id) for path in layout.mesh_paths}
    try:
        return joined(scene_id, [p.placed(meshes[p.asset.mesh_path]) for p in layout.placements])
    except SceneError as error:
        raise SceneError(f"{instance}: {error}") from None


def read_layout(instance: Path) -> SceneLayout:
    """Read a scene instance and the configurations that it names, no meshes.

    Raises SceneError where a file is missing or does not make sense.
    """
    values = read_config(instance)
    config_path, dataset = _dataset_of(instance)
    reader = _Reader(config_path, dataset)
    try:
        placements = list(reader.placements(values))
        articulated = [each["template_name"] for each in values.get(_ARTICULATED, ())]
        if not all(isinstance(name, str) for name in articulated):
            raise TypeError(f"{_ARTICULATED}: expected names, got {articulated!r:.60}")
    except SceneError as error:
        raise SceneError(f"{instance}: {error}") from error
    except KeyError as error:
        raise SceneError(f"{instance}: an instance needs the key {error}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise SceneError(f"{instance}: not a scene instance: {error}") from error
    asset_files = dict.fromkeys(file for each in placements for file in each.asset.files)
    return SceneLayout(
        placements=tuple(placements),
        left_out=tuple(articulated),
        config_files=(instance, config_path, *asset_files),
    )


class _Reader:
    """Finds the templates of one dataset by name."""

    def __init__(self, config_path: Path, dataset: dict[str, Any]) -> None:
        self._config_path = config_path
        self._dataset = dataset
        self._assets: dict[Path, AssetConfig] = {}
        self._templates = {
            "stages": _listed_files(config_path, dataset, "stages", STAGE_CONFIG_ENDING),
            "objects": _listed_files(config_path, dataset, "objects", OBJECT_CONFIG_ENDING),
        }

    def placements(self, values: dict[str, Any]) -> Iterator[Placement]:
        """Yield what a scene instance places. Raises SceneError, or what parsing raises."""
        default_origin = values.get("translation_origin", "COM")
        stage = values["stage_instance"]
        if stage["template_name"] != NO_STAGE:
            yield self._placement("stages", {**stage, "translation_origin": "asset_local"})
        for each in values.get("object_instances", ()):
            if each.get("is_instance_visible", True):
                yield self._placement("objects", {"translation_origin": default_origin, **each})

    def _placement(self, kind: str, instance: dict[str, Any]) -> Placement:
        uniform = float(instance.get("uniform_scale", 1.0))
        x, y, z = vector(instance.get("non_uniform_scale", (1, 1, 1)))
        return Placement(
            asset=self._asset(kind, instance["template_name"]),
            translation=vector(instance.get("translation", (0, 0, 0))),
            rotation_wxyz=_quaternion(instance.get("rotation", (1, 0, 0, 0))),
            scale=(uniform * x, uniform * y, uniform * z),
            by_centre=_is_by_centre(instance["translation_origin"]),
        )

    def _asset(self, kind: str, name: str) -> AssetConfig:
        """Return the configuration of a template, whose name may have folders before it."""
        found = [
            path
            for path in self._templates[kind]
            if f"/{_template_name(path)}".endswith(f"/{_template_name(Path(name))}")
        ]
        if len(found) != 1:
            paths = _paths(self._config_path, self._dataset, kind)
            patterns = ", ".join(pattern for _, pattern in paths) or "nothing"
            raise SceneError(
                f"{kind.removesuffix('s')} {name!r}: expected one file of this name among those "
                f"that {self._config_path} lists ({patterns}), found {len(found)}"
            )
        path = found[0]
        if path not in self._assets:
            self._assets[path] = self._read_asset(kind, path)
        return self._assets[path]

    def _read_asset(self, kind: str, path: Path) -> AssetConfig:
        section = self._dataset.get(kind, {})
        defaults = section.get("default_attributes", {})
        if path.suffix == ".json":
            return AssetConfig.read(path, defaults)
        if kind == "stages" and not defaults and path.suffix.lower() == ".glb":
            return AssetConfig.with_up(path, "z")  # what habitat-sim takes a bare stage for
        return AssetConfig.of_values(path, {**defaults, "render_asset": path.name})


def _dataset_of(instance: Path) -> tuple[Path, dict[str, Any]]:
    """Return the dataset configuration above a scene instance that lists it, and its values."""
    absolute = Path(os.path.abspath(instance))
    for folder in absolute.parents:
        listing = [
            (path, dataset)
            for path in sorted(folder.glob(f"*{SCENE_DATASET_ENDING}"))
            if absolute
            in _listed_files(
                path, dataset := read_config(path), "scene_instances", SCENE_INSTANCE_ENDING
            )
        ]
        if len(listing) > 1:
            names = " and ".join(path.name for path, _ in listing)
            raise SceneError(f"{instance}: both {names} list it; remove one of them")
        if listing:
            return listing[0]
    raise SceneError(
        f"{instance}: no *{SCENE_DATASET_ENDING} in the folders above it lists it; it belongs to a "
        "dataset and cannot stand alone"
    )


def _paths(config_path: Path, dataset: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    """Return the (ending, glob relative to its folder) that a dataset lists for a kind of file."""
    try:
        by_ending = dataset.get(kind, {}).get("paths", {})
        return [(ending, str(pattern)) for ending, each in by_ending.items() for pattern in each]
    except (AttributeError, TypeError):
        raise SceneError(f"{config_path}: {kind}.paths: expected lists by file ending") from None


def _listed_files(
    config_path: Path, dataset: dict[str, Any], kind: str, config_ending: str
) -> list[Path]:
    """Return the files that a dataset lists: by globs, or all of an ending in a folder.

    Of .json files, those with the ending of this kind's configurations.
    """
    root = glob.escape(os.path.abspath(config_path.parent))
    found: set[Path] = set()
    for ending, pattern in _paths(config_path, dataset, kind):
        wanted = config_ending if ending == ".json" else ending
        for name in glob.glob(os.path.join(root, pattern)):
            path = Path(os.path.normpath(name))
            files = path.iterdir() if path.is_dir() else [path]
            found.update(file for file in files if file.name.endswith(wanted))
    return sorted(found)


def _template_name(path: Path) -> str:
    """Return a configuration's path without its ending, with forward slashes."""
    text = path.as_posix()
    for ending in (STAGE_CONFIG_ENDING, OBJECT_CONFIG_ENDING, *MESH_ENDINGS):
        if text.lower().endswith(ending):
            return text[: -len(ending)]
    return text


def _is_by_centre(origin: str) -> bool:
    """Return whether a translation origin is COM; habitat-sim ignores case."""
    names = {"asset_local": False, "com": True}
    if origin.lower() not in names:
        raise ValueError(f"translation_origin: expected asset_local or COM, got {origin!r}")
    return names[origin.lower()]


def _quaternion(values: Any) -> tuple[float, float, float, float]:
    w, x, y, z = (float(value) for value in values)
    if not 1e-6 < np.linalg.norm([w, x, y, z]) < 1e6:
        raise ValueError(f"rotation: expected a quaternion (w, x, y, z), got {values}")
    return (w, x, y, z)
