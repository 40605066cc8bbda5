"""How mesh files are turned and scaled into the world: habitat-sim's stage and object files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from generation.geometry import Float64
from generation.scenes.scene import SceneError

STAGE_CONFIG_ENDING = ".stage_config.json"
OBJECT_CONFIG_ENDING = ".object_config.json"

DEFAULT_UP = "y"
"""The up axis of meshes of which nothing else is said."""
UP_AXES = {
    "x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "y": (0, 1, 0),
    "-y": (0, -1, 0),
    "z": (0, 0, 1),
    "-z": (0, 0, -1),
}
_FRONTS = {"x": (0, 0, -1), "y": (0, 0, -1), "z": (0, 1, 0)}

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class AssetConfig:
    """How a mesh file's coordinates become the world's: what habitat-sim reads beside a mesh.

    Stages (rooms) and objects have the same keys; without them, +Y is up and -Z in front.
    """

    mesh_path: Path
    """The mesh file."""
    up: Vector = (0.0, 1.0, 0.0)
    """The file's axis that points up."""
    front: Vector = (0.0, 0.0, -1.0)
    """The file's axis that becomes the world's -Z."""
    units_to_meters: float = 1.0
    """Length of one of the file's units in metres."""
    scale: Vector = (1.0, 1.0, 1.0)
    """Factors along the axes after the turn."""
    centre: Vector | None = None
    """An object's centre of mass, turned but not scaled; None is its bounding box's centre."""
    files: tuple[Path, ...] = ()
    """The file that says so, if any."""

    @classmethod
    def read(cls, path: Path, defaults: Mapping[str, Any] | None = None) -> AssetConfig:
        """Read a NAME.stage_config.json or NAME.object_config.json.

        defaults stand in for keys that the file leaves out. Raises SceneError where it does not
        make sense.
        """
        values = {**(defaults or {}), **read_config(path)}
        return replace(cls.of_values(path, values), files=(path,))

    @classmethod
    def of_values(cls, path: Path, values: Mapping[str, Any]) -> AssetConfig:
        """Return the configuration that a file's values give; the mesh is found from path."""
        try:
            return cls(
                mesh_path=path.parent / values["render_asset"],
                up=vector(values.get("up", cls.up)),
                front=vector(values.get("front", cls.front)),
                units_to_meters=float(values.get("units_to_meters", 1.0)),
                scale=vector(values.get("scale", cls.scale)),
                centre=vector(values["COM"]) if "COM" in values else None,
            )
        except KeyError as error:
            raise SceneError(f"{path}: {_kind(path)} needs the key {error}") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise SceneError(f"{path}: not {_kind(path)}: {error}") from error

    @classmethod
    def with_up(cls, mesh_path: Path, up: str, *, units_to_meters: float = 1.0) -> AssetConfig:
        """Return the configuration of a mesh whose up axis is one of UP_AXES."""
        return cls(
            mesh_path=mesh_path,
            up=vector(UP_AXES[up]),
            front=vector(_FRONTS[up[-1]]),
            units_to_meters=units_to_meters,
        )

    @property
    def world_from_file(self) -> Float64:
        """(3, 3) linear map: turn, then scale. Raises SceneError where up and front clash."""
        up, front = np.array(self.up, float), np.array(self.front, float)
        lengths = np.linalg.norm(up), np.linalg.norm(front)
        if not min(lengths) > 0 or not abs(up @ front) <= 1e-3 * lengths[0] * lengths[1]:
            raise SceneError(
                f"{self.mesh_path}: up {self.up} and front {self.front} must be at right angles"
            )
        up, front = up / lengths[0], front / lengths[1]
        turn = np.stack([np.cross(front, up), up, -front])
        return np.diag(np.array(self.scale) * self.units_to_meters) @ turn


def asset_config_of(path: Path, up: str, *, units_to_meters: float = 1.0) -> AssetConfig:
    """Return how a mesh file (or a stage configuration itself) is to be read.

    A NAME.stage_config.json beside NAME.glb decides; a mesh without one is taken with the given
    up axis and units.
    """
    if path.name.endswith(STAGE_CONFIG_ENDING):
        return AssetConfig.read(path)
    beside = stage_config_beside(path)
    if beside.exists():
        return AssetConfig.read(beside)
    return AssetConfig.with_up(path, up, units_to_meters=units_to_meters)


def stage_config_beside(mesh_path: Path) -> Path:
    """Return where the stage configuration of a mesh lies, if there is one."""
    return mesh_path.with_name(mesh_path.stem + STAGE_CONFIG_ENDING)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises SceneError naming the file."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SceneError(f"{path}: not {_kind(path)}: {reason}") from error
    if not isinstance(values, dict):
        raise SceneError(f"{path}: not {_kind(path)}: expected a JSON object, got {values!r:.40}")
    return values


def vector(values: Any) -> Vector:
    """Return three numbers. Raises ValueError or TypeError where they are not."""
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _kind(path: Path) -> str:
    """Return what a JSON file is by its name, with its article."""
    kind = path.name.removesuffix(".json").rpartition(".")[2]
    words = kind.removesuffix("_config").replace("_", " ")
    article = "an" if words[:1] in "aeiou" else "a"
    return f"{article} {words} configuration"
