"""Rendering with habitat-sim, as the published generator does. The one door to habitat_sim.

Written against habitat-sim 0.3.3. It loads scenes itself, from their files, and has one simulator a
process: using another scene closes the one before. Closing leaks memory, so that each scene has a
process of its own.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from generation.errors import RendererError
from generation.geometry import HABITAT_FROM_OPENCV, Camera, Float64
from generation.renderers.egl import current_device, has_cuda_device
from generation.renderers.protocol import FAR_M, NEAR_M
from generation.scenes.asset_config import STAGE_CONFIG_ENDING, AssetConfig, asset_config_of
from generation.scenes.composed import SCENE_DATASET_ENDING, SCENE_INSTANCE_ENDING, read_layout
from generation.scenes.export import export_glb
from generation.scenes.navmesh import navmesh_beside, places_on
from generation.scenes.scene import Scene, SceneError
from generation.scenes.sources import SceneSource
from generation.view import View
from generation.viewpoints import Floors

_NO_LIGHTS = "no_lights"
"""habitat-sim's name for surfaces in their own colour."""

_open: list[HabitatRenderer] = []
"""The one whose simulator is the process's, once there is one."""


class HabitatRenderer:
    """Renders a scene's unlit colour and depth with habitat-sim."""

    name = "habitat"

    def __init__(self, scene: Scene, source: SceneSource | None = None) -> None:
        """Open a scene, from its source's files; a generated one from a file that is written.

        Raises RendererError where habitat-sim cannot run here, SceneError where it takes no such
        scene.
        """
        self._habitat_sim = import_habitat_sim()
        self._scene = scene
        self._source = source
        # Asked for a device that is not there, habitat-sim ends the process; -1 is EGL's first one.
        self._gpu_device_id = 0 if has_cuda_device() else -1
        self._lenses: list[Lens] = []
        self._simulator: Any = None
        self._look_through(Lens(image_size=(256, 256), hfov_deg=60.0))  # what most cameras have
        self.device = current_device()

    def render(self, camera: Camera) -> View:
        """Render colour and depth at the camera's image size.

        Raises RendererError for a camera with other than square pixels around the image's middle.
        """
        agent = self._look_through(lens_of(camera))
        position, coefficients = habitat_pose(camera)
        rotation = self._habitat_sim.utils.common.quat_from_coeffs(coefficients)
        state = self._habitat_sim.AgentState(position=position, rotation=rotation)
        self._simulator.get_agent(agent).set_state(state)
        seen = self._simulator.get_sensor_observations(agent)
        # Copies: its buffers serve the next view again.
        return View(
            camera=camera,
            color=np.array(seen["color"][..., :3], np.uint8, order="C"),
            depth_m=np.array(seen["depth"], np.float32, order="C"),
        )

    def render_each(self, cameras: Iterable[Camera]) -> Iterator[View]:
        """Render views in the cameras' order."""
        return map(self.render, cameras)

    def floors(self, step_m: float) -> Floors:
        """Return the navigation mesh as places to stand, on a grid of step_m metres.

        It is read from the file beside the scene's, or computed where there is none. Raises
        SceneError where it is empty.
        """
        self._look_through(self._lenses[0])
        scene_file = self._source.path if self._source else ""  # "" of a generated room
        file = navmesh_beside(Path(scene_file)) if scene_file else None
        pathfinder = self._habitat_sim.nav.PathFinder()
        if file:
            pathfinder.load_nav_mesh(str(file))
        else:
            settings = self._habitat_sim.nav.NavMeshSettings()
            settings.set_defaults()
            settings.include_static_objects = True  # else one stands in them
            self._simulator.recompute_navmesh(pathfinder, settings)
        corners = np.zeros((0, 3, 3))
        if pathfinder.is_loaded:  # without one, habitat-sim crashes when asked for more
            vertices = np.array([list(vertex) for vertex in pathfinder.build_navmesh_vertices()])
            corners = vertices[pathfinder.build_navmesh_vertex_indices()].reshape(-1, 3, 3)
        positions = places_on(corners, step_m)
        if len(positions) == 0:
            raise SceneError(
                f"scene {self._scene.scene_id!r}: its navigation mesh ({file or 'computed'}) is "
                "empty, there is no place to stand; are its units metres (units_to_meters) and "
                "its up axis right?"
            )
        return Floors(positions, step_m)

    def close(self) -> None:
        """Free the simulator; what is rendered after that opens a new one."""
        if self in _open:
            _open.remove(self)
            self._simulator.close()
            self._simulator = None

    def _look_through(self, lens: Lens) -> int:
        """Return the agent whose sensors have a lens, in a simulator that is open."""
        if lens not in self._lenses:
            self.close()  # agents are there from its beginning
            self._lenses.append(lens)
        if self not in _open:
            for other in tuple(_open):
                other.close()
            self._simulator = self._simulate()
            _open.append(self)
        return self._lenses.index(lens)

    def _simulate(self) -> Any:
        """Open the scene with an agent for every lens so far."""
        habitat_sim = self._habitat_sim
        with tempfile.TemporaryDirectory(prefix="crossview-") as folder:
            files = simulated_files(self._scene, self._source, Path(folder))
            settings = habitat_sim.SimulatorConfiguration()
            settings.scene_dataset_config_file = files.dataset
            settings.scene_id = files.scene
            settings.gpu_device_id = self._gpu_device_id
            settings.enable_physics = False
            settings.load_semantic_mesh = False
            settings.override_scene_light_defaults = True
            settings.scene_light_setup = _NO_LIGHTS
            agents = [
                habitat_sim.agent.AgentConfiguration(sensor_specifications=self._sensors(lens))
                for lens in self._lenses
            ]
            try:
                return habitat_sim.Simulator(habitat_sim.Configuration(settings, agents))
            except (RuntimeError, ValueError) as error:
                raise SceneError(
                    f"scene {self._scene.scene_id!r}: habitat-sim cannot load {files.scene}: "
                    f"{error}; HABITAT_SIM_LOG=debug says more"
                ) from error

    def _sensors(self, lens: Lens) -> list[Any]:
        sensor_types = self._habitat_sim.SensorType
        specs = []
        for name, kind, channels in (
            ("color", sensor_types.COLOR, 4),
            ("depth", sensor_types.DEPTH, 1),
        ):
            spec = self._habitat_sim.CameraSensorSpec()
            spec.uuid = name
            spec.sensor_type = kind
            spec.sensor_subtype = self._habitat_sim.SensorSubType.PINHOLE
            spec.channels = channels
            spec.resolution = list(lens.image_size)
            spec.hfov = lens.hfov_deg
            spec.position = [0.0, 0.0, 0.0]
            spec.near, spec.far = NEAR_M, FAR_M
            specs.append(spec)
        return specs


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What habitat-sim's sensors are made for."""

    image_size: tuple[int, int]
    """(height, width) in pixels."""
    hfov_deg: float
    """Horizontal field of view, degrees."""


def lens_of(camera: Camera) -> Lens:
    """Return a camera's lens. Raises RendererError where habitat-sim has no such camera."""
    height, width = camera.image_size
    focal = camera.intrinsics[0, 0]
    expected = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    if not np.allclose(camera.intrinsics, expected, rtol=0, atol=1e-6 * width):
        raise RendererError(
            "renderer habitat: expected square pixels and the principal point in the middle of "
            f"{width} x {height} pixels, got intrinsics {camera.intrinsics.tolist()}; take "
            "--renderer gl or embree"
        )
    hfov_deg = math.degrees(2 * math.atan2(width / 2, focal))
    # A camera's intrinsics are rounded; the field of view that it was made from is not.
    return Lens(image_size=(height, width), hfov_deg=round(hfov_deg, 9))


def habitat_pose(camera: Camera) -> tuple[Float64, Float64]:
    """Return (3,) the position and (4,) the quaternion (x, y, z, w) of a camera in habitat-sim."""
    world_from_habitat = camera.world_from_camera[:3, :3] @ HABITAT_FROM_OPENCV
    coefficients: Float64 = Rotation.from_matrix(world_from_habitat).as_quat()
    return camera.centre.copy(), coefficients


@dataclass(frozen=True, kw_only=True)
class SimulatedFiles:
    """What habitat-sim is told to load."""

    scene: str
    """Its scene_id: a stage configuration or a scene instance."""
    dataset: str = "default"
    """Its scene_dataset_config_file."""


def simulated_files(scene: Scene, source: SceneSource | None, folder: Path) -> SimulatedFiles:
    """Return the files from which habitat-sim loads a scene, in our world axes.

    A scene instance goes in with its dataset, a mesh with the stage configuration beside it. For
    another mesh one is written into the folder; for a scene that was generated, or fetched from a
    URL, a mesh too.
    """
    if source is None or source.is_generated or source.is_remote:
        mesh = folder / f"{scene.scene_id}.glb"
        export_glb(scene, mesh)
        return SimulatedFiles(scene=str(_write_stage(AssetConfig(mesh_path=mesh), folder)))
    path = Path(source.path).absolute()
    if path.name.endswith(SCENE_INSTANCE_ENDING):
        configs = read_layout(path).config_files
        dataset = next(each for each in configs if each.name.endswith(SCENE_DATASET_ENDING))
        return SimulatedFiles(scene=str(path), dataset=str(dataset.absolute()))
    beside = path.with_name(path.stem + STAGE_CONFIG_ENDING)
    for stage in (path, beside):
        if stage.name.endswith(STAGE_CONFIG_ENDING) and stage.is_file():
            return SimulatedFiles(scene=str(stage))
    config = asset_config_of(path, source.up, units_to_meters=source.units_to_meters)
    return SimulatedFiles(scene=str(_write_stage(config, folder)))


def _write_stage(config: AssetConfig, folder: Path) -> Path:
    """Write a stage configuration that places a mesh as config says; return its path."""
    path = folder / f"stage{STAGE_CONFIG_ENDING}"
    values = {
        # Relative to the configuration's folder, as habitat-sim joins it.
        "render_asset": os.path.relpath(config.mesh_path.resolve(), folder.resolve()),
        "up": config.up,
        "front": config.front,
        "units_to_meters": config.units_to_meters,
        "scale": config.scale,
        "requires_lighting": False,
    }
    path.write_text(json.dumps(values))
    return path


def import_habitat_sim() -> Any:
    """Return the module habitat_sim, quiet unless its log variables say otherwise.

    Raises RendererError where it is not installed.
    """
    os.environ.setdefault("HABITAT_SIM_LOG", "quiet")
    os.environ.setdefault("MAGNUM_LOG", "quiet")
    try:
        import habitat_sim
        import habitat_sim.utils.common
    except ImportError as error:
        raise RendererError(
            f"renderer habitat: habitat_sim cannot be imported ({error}); pip has no package of "
            "it, build version 0.3.3 from its sources (docs/pairs.md says how), or take --renderer "
            "gl or embree"
        ) from error
    return habitat_sim
