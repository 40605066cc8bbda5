"""Where a camera may stand in a scene, and the first and second viewpoints of a pair.

A viewpoint stands on a floor: an upward surface with headroom and clearance, enclosed by walls (so
neither a roof nor the ground around a building), and not on furniture. All of it is found by rays,
so that scans with holes and without ceilings work as well as closed rooms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from generation.bounds import require
from generation.errors import CrossviewError
from generation.geometry import (
    Bool,
    Camera,
    Float64,
    Int32,
    compose,
    intrinsics_from_hfov,
    look_at,
    rotation_about_axis,
)
from generation.raycast import RayCaster
from generation.scenes.scene import Scene, SceneError

TURN_AWAY_RAD = math.pi / 2
"""How far a camera turns away from what both see at the end of a path."""
MAX_FINE_COLUMNS = 20_000_000
"""Grid columns searched at full resolution in what walls enclose: 0.2 km2, and 2 GB, by default."""
_UP, _DOWN = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])


@dataclass(frozen=True, kw_only=True)
class FloorConfig:
    """What counts as a place to stand."""

    step_m: float = 0.1
    """Spacing of the grid of places, metres."""
    clearance_m: float = 0.15
    """Free radius around a person, metres."""
    max_climb_m: float = 0.2
    """Largest step between neighbouring places, metres (habitat-sim's agent)."""
    max_slope_deg: float = 45.0
    """Steepest floor, degrees (habitat-sim's agent)."""
    max_furniture_m: float = 1.6
    """A surface up to this far above a floor nearby, which no steps reach, is furniture."""
    enclosing_distance_m: float = 20.0
    """How far away walls still enclose, metres."""
    min_enclosure: float = 0.75
    """Least fraction of the horizon, seen from eye height, that walls cover."""
    min_area_m2: float = 0.5
    """Smallest connected floor, square metres."""
    max_columns: int = 400_000
    """Grid columns searched at full resolution; larger scenes are first searched coarsely."""

    def __post_init__(self) -> None:
        for name in ("step_m", "max_climb_m", "enclosing_distance_m", "max_columns"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("clearance_m", "max_furniture_m", "min_area_m2"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 <= self.min_enclosure <= 1, "min_enclosure", self.min_enclosure, "0 to 1")
        require(0 <= self.max_slope_deg < 90, "max_slope_deg", self.max_slope_deg, "0 to below 90")


@dataclass(frozen=True, kw_only=True)
class ViewpointConfig:
    """How viewpoints are drawn. Defaults: CroCo's published generator."""

    floor: FloorConfig = FloorConfig()
    """Where a camera may stand."""
    min_height_m: float = 1.2
    """Lowest camera above the floor, metres."""
    max_height_m: float = 1.8
    """Highest camera above the floor, metres."""
    pan_noise_deg: float = 3.0
    """Orientation noise about the vertical, uniform, degrees each way."""
    tilt_noise_deg: float = 10.0
    """Orientation noise about the camera's x axis, uniform, degrees each way."""
    roll_noise_deg: float = 5.0
    """Orientation noise about the optical axis, uniform, degrees each way."""
    walk_steps: int = 5
    """Steps of the random walk from the first to the second viewpoint."""
    walk_step_m: float = 2.0
    """Standard deviation of a step in x and in z, metres."""

    def __post_init__(self) -> None:
        if not 0 < self.min_height_m <= self.max_height_m:
            raise CrossviewError(
                "min_height_m and max_height_m: expected 0 < min <= max, got "
                f"{self.min_height_m} and {self.max_height_m}"
            )
        for name in ("pan_noise_deg", "tilt_noise_deg", "roll_noise_deg", "walk_step_m"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.walk_steps >= 1, "walk_steps", self.walk_steps, "at least 1")


@dataclass(frozen=True, eq=False)
class Floors:
    """The places of a scene where a person can stand."""

    positions: Float64
    """(N, 3) metres, on the floor."""
    step_m: float
    """Each position stands for a square of this width."""


@runtime_checkable
class HasFloors(Protocol):
    """A renderer that knows where a person can stand, as habitat-sim does by navigation meshes."""

    def floors(self, step_m: float) -> Floors:
        """Return the places to stand, on a grid. Raises SceneError where there is none."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraPath:
    """The path from a first view to a second one, and on: cameras at a progress of 0 to 2.

    At 0 is the first view, at 1 the second; from there on the camera turns away, so that at 2
    hardly anything is left that both see.
    """

    positions: Float64
    """(2, 3) metres, where both stand on the floor."""
    heights_m: tuple[float, float]
    """Of both cameras above the floor."""
    targets: Float64
    """(2, 3) points that both look at."""
    turns_rad: Float64
    """(2, 3) pan, tilt and roll of both away from the upright camera that looks at its target."""
    away_rad: float
    """Further pan at a progress of 2."""


class ViewpointSampler:
    """Draws the cameras of pairs in one scene."""

    def __init__(
        self,
        floors: Floors,
        config: ViewpointConfig,
        *,
        hfov_deg: float,
        image_size: tuple[int, int],
    ) -> None:
        self.floors = floors
        self._tree = KDTree(floors.positions)
        self._config = config
        self._intrinsics = intrinsics_from_hfov(hfov_deg, image_size)
        self._image_size = image_size

    def first(self, rng: np.random.Generator) -> Camera:
        """Draw a first camera: anywhere on the floors, looking anywhere around."""
        place = self.floors.positions[rng.integers(len(self.floors.positions))]
        offset = rng.uniform(-0.5, 0.5, 2) * self.floors.step_m
        centre = place + [offset[0], rng.uniform(*self._height_range), offset[1]]
        yaw = rng.uniform(0, 2 * math.pi)
        target = centre + [math.sin(yaw), 0.0, math.cos(yaw)]
        return self._camera(centre, target, self._noise(1, rng)[0])

    def paths(
        self, first: Camera, target: Float64, count: int, rng: np.random.Generator
    ) -> list[CameraPath]:
        """Draw paths from a first view to second ones, as the published generator draws those.

        Each ends some random steps over the floors away and looks at the target: (3,), the mean of
        what the first camera sees.
        """
        steps = rng.normal(0, self._config.walk_step_m, (self._config.walk_steps, count, 2))
        heights = rng.uniform(*self._height_range, count)
        noise = self._noise(count, rng)
        away_rad = rng.choice([-TURN_AWAY_RAD, TURN_AWAY_RAD], count)
        start = first.centre - [0.0, sum(self._height_range) / 2, 0.0]
        ends = np.repeat(start[None], count, axis=0)
        for step in steps:
            ends[:, [0, 2]] += step
            ends = self.floors.positions[self._tree.query(ends)[1]].copy()
        start[1] = self.floors.positions[self._tree.query(start)[1], 1]
        # What the first camera looks at, as far away as the target.
        forward = first.world_from_camera[:3, 2]
        look = first.centre + forward * np.sqrt(((target - first.centre) ** 2).sum())
        turns = np.array([0.0, 0.0, _roll(first)])
        return [
            CameraPath(
                positions=np.stack([start, end]),
                heights_m=(float(first.centre[1] - start[1]), float(height)),
                targets=np.stack([look, target]),
                turns_rad=np.stack([turns, turn]),
                away_rad=float(away),
            )
            for end, height, turn, away in zip(ends, heights, noise, away_rad)
        ]

    def camera_at(self, path: CameraPath, progress: float) -> Camera:
        """Return the camera at a progress along a path, 0 to 2; it stands on a floor as all do."""
        away = max(0.0, progress - 1.0) * path.away_rad
        share = min(progress, 1.0)
        there = path.positions[0] + share * (path.positions[1] - path.positions[0])
        nearest = self.floors.positions[self._tree.query(there)[1]]
        if np.abs(nearest - there)[[0, 2]].max() > self.floors.step_m:
            there[[0, 2]] = nearest[[0, 2]]
        low, high = path.heights_m
        there[1] = nearest[1] + low + share * (high - low)
        return self._camera(
            there,
            path.targets[0] + share * (path.targets[1] - path.targets[0]),
            path.turns_rad[0] + share * (path.turns_rad[1] - path.turns_rad[0]) + [away, 0.0, 0.0],
        )

    @property
    def _height_range(self) -> tuple[float, float]:
        return self._config.min_height_m, self._config.max_height_m

    def _noise(self, count: int, rng: np.random.Generator) -> Float64:
        """Draw (count, 3) pan, tilt and roll in radians."""
        config = self._config
        most = np.radians([config.pan_noise_deg, config.tilt_noise_deg, config.roll_noise_deg])
        return rng.uniform(-most, most, (count, 3))

    def _camera(self, centre: Float64, target: Float64, turn_rad: Float64) -> Camera:
        pan, tilt, roll = turn_rad
        if np.hypot(*(target - centre)[[0, 2]]) < 1e-6:  # straight up or down: no yaw to keep
            target = centre + [0.0, 0.0, 1.0]
        world_from_camera = look_at(centre, target)
        for axis, angle_rad in ((1, pan), (0, tilt), (2, roll)):
            turn = rotation_about_axis(axis, angle_rad)
            world_from_camera[:3, :3] = compose(world_from_camera[:3, :3], turn)
        return Camera(
            intrinsics=self._intrinsics,
            world_from_camera=world_from_camera,
            image_size=self._image_size,
        )


def _roll(camera: Camera) -> float:
    """Return a camera's roll in radians: how far its x axis leans out of the horizontal."""
    right, down = camera.world_from_camera[1, 0], camera.world_from_camera[1, 1]
    return math.atan2(-right, -down)


def find_floors(scene: Scene, caster: RayCaster, config: ViewpointConfig) -> Floors:
    """Find where a person can stand. Raises SceneError, with the reason, where nobody can."""
    floor = config.floor
    columns = _columns(scene, caster, config)
    surfaces = _upward_surfaces(scene, caster, columns, floor)
    if len(surfaces) == 0:
        raise SceneError(
            f"scene {scene.scene_id!r}: no upward surface to stand on in "
            f"{scene.extent}; is its up axis right (Y is up)?"
        )
    headroom = _headroom(caster, surfaces) >= config.max_height_m + 0.1
    clear = headroom.copy()
    clear[headroom] = _clearance(caster, surfaces[headroom], config)
    enclosed = clear.copy()
    enclosed[clear] = _enclosure(caster, surfaces[clear], config) >= floor.min_enclosure
    positions = _without_furniture(surfaces[enclosed], floor)
    if len(positions) == 0:
        raise SceneError(
            f"scene {scene.scene_id!r}: no place to stand in {scene.extent}: of "
            f"{len(surfaces)} places on upward surfaces, {int(headroom.sum())} have "
            f"{config.max_height_m + 0.1:.1f} m of headroom, {int(clear.sum())} also "
            f"{floor.clearance_m} m of clearance, {int(enclosed.sum())} are also enclosed by "
            f"walls, and none of those is a floor of {floor.min_area_m2} m2; "
            "are its units metres (units_to_meters) and its up axis right?"
        )
    return Floors(positions, floor.step_m)


def _columns(scene: Scene, caster: RayCaster, config: ViewpointConfig) -> Float64:
    """Return (N, 2) x and z of the vertical lines that are searched.

    A scene on a wide ground is searched on a coarse grid for enclosed places first, and finely
    only around those.
    """
    floor = config.floor
    (low_x, _, low_z), (high_x, _, high_z) = scene.bounds.astype(float)
    area = (high_x - low_x) * (high_z - low_z)
    if area <= floor.max_columns * floor.step_m**2:
        return _grid(low_x, high_x, low_z, high_z, floor.step_m)
    coarse_step = max(10 * floor.step_m, math.sqrt(area / floor.max_columns))
    coarse = _grid(low_x, high_x, low_z, high_z, coarse_step)
    surfaces = _upward_surfaces(scene, caster, coarse, floor)
    enclosed = _enclosure(caster, surfaces, config) >= floor.min_enclosure
    reach = np.arange(-coarse_step, coarse_step + 1e-9, floor.step_m)
    around = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    if enclosed.sum() * len(around) > MAX_FINE_COLUMNS:
        raise SceneError(
            f"scene {scene.scene_id!r}: {enclosed.sum() * coarse_step**2:.3g} m2 enclosed by walls "
            f"in {scene.extent}; are its units metres (units_to_meters)? "
            "If so, raise pairs.viewpoints.floor.step_m"
        )
    fine = (surfaces[enclosed][:, None, [0, 2]] + around).reshape(-1, 2)
    return np.unique(np.rint(fine / floor.step_m).astype(np.int64), axis=0) * floor.step_m


def _grid(low_x: float, high_x: float, low_z: float, high_z: float, step: float) -> Float64:
    x = np.arange(low_x + step / 2, high_x, step)
    z = np.arange(low_z + step / 2, high_z, step)
    return np.stack(np.meshgrid(x, z, indexing="ij"), axis=-1).reshape(-1, 2)


def _upward_surfaces(
    scene: Scene, caster: RayCaster, columns: Float64, config: FloorConfig
) -> Float64:
    """Return (N, 3) points where vertical lines meet upward surfaces flat enough to walk on."""
    corners = scene.vertices[scene.faces].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.sqrt((normals**2).sum(axis=1))
    is_flat = normals[:, 1] >= math.cos(math.radians(config.max_slope_deg)) * lengths
    top = float(scene.bounds[1, 1]) + 1.0
    heights = np.full(len(columns), top)
    alive = np.arange(len(columns))
    surfaces = []
    while len(alive):
        origins = np.stack([columns[alive, 0], heights[alive], columns[alive, 1]], axis=1)
        hits = caster.cast(origins, _DOWN)
        alive, distances, faces = alive[hits.hit], hits.distances[hits.hit], hits.faces[hits.hit]
        heights[alive] -= distances
        flat = alive[is_flat[faces]]
        surfaces.append(np.stack([columns[flat, 0], heights[flat], columns[flat, 1]], axis=1))
        heights[alive] -= 0.01
    return np.concatenate(surfaces) if surfaces else np.zeros((0, 3))


def _headroom(caster: RayCaster, surfaces: Float64) -> Float64:
    """Return (N,) free metres above each point; infinite under the open sky."""
    hits = caster.cast(surfaces + [0.0, 0.02, 0.0], _UP, cull_back_faces=False)
    return np.where(hits.hit, hits.distances + 0.02, np.inf)


def _clearance(caster: RayCaster, surfaces: Float64, config: ViewpointConfig) -> Bool:
    """Return (N,) whether nothing stands within the clearance, from knee to eye height."""
    clear = np.ones(len(surfaces), bool)
    for height in np.linspace(0.3, config.max_height_m, 4):
        distances = _around(caster, surfaces + [0.0, height, 0.0], 8)
        clear &= (distances >= config.floor.clearance_m).all(axis=1)
    return clear


def _enclosure(caster: RayCaster, surfaces: Float64, config: ViewpointConfig) -> Float64:
    """Return (N,) how much of the horizon is within the enclosing distance, 0 to 1."""
    eye = surfaces + [0.0, (config.min_height_m + config.max_height_m) / 2, 0.0]
    return (_around(caster, eye, 16) <= config.floor.enclosing_distance_m).mean(axis=1)


def _around(caster: RayCaster, points: Float64, count: int) -> Float64:
    """Return (N, count) distances to the first surface in horizontal directions."""
    angles = (np.arange(count) + 0.5) * (2 * math.pi / count)
    directions = np.array([(math.cos(a), 0.0, math.sin(a)) for a in angles])
    hits = caster.cast(points[:, None], directions, cull_back_faces=False)
    return np.where(hits.hit, hits.distances, np.inf).reshape(-1, count)


def _without_furniture(positions: Float64, config: FloorConfig) -> Float64:
    """Drop what is too small to walk on, and what stands above a floor without steps to it."""
    if len(positions) == 0:
        return positions
    pieces = _connected(positions, config)
    areas_m2 = np.bincount(pieces) * config.step_m**2
    is_floor = areas_m2 >= config.min_area_m2
    # Neighbours: places within half a metre sideways, whatever their height.
    flat = KDTree(positions[:, [0, 2]])
    near = flat.query_pairs(0.5, output_type="ndarray")
    rise = positions[near[:, 0], 1] - positions[near[:, 1], 1]
    for upper, lower, height in (
        (pieces[near[:, 0]], pieces[near[:, 1]], rise),
        (pieces[near[:, 1]], pieces[near[:, 0]], -rise),
    ):
        above = (
            (upper != lower)
            & (height > config.max_climb_m)
            & (height <= config.max_furniture_m)
            & (areas_m2[lower] >= 0.3 * areas_m2[upper])
        )
        is_floor[upper[above]] = False
    return positions[is_floor[pieces]]


def _connected(positions: Float64, config: FloorConfig) -> Int32:
    """Return (N,) the number of the connected piece that each place belongs to."""
    scaled = positions / [config.step_m, config.max_climb_m, config.step_m]
    edges = KDTree(scaled).query_pairs(1.01, p=np.inf, output_type="ndarray")
    graph = coo_array(
        (np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(positions),) * 2
    )
    pieces: Int32 = connected_components(graph, directed=False)[1]
    return pieces
