"""Fixtures that several test folders share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from generation.errors import RendererError
from generation.scenes.scene import Material, Scene, Texture

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def no_handler_of_a_command() -> Iterator[None]:
    """Commands log to the stderr of their test, which is closed after it."""
    yield
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if type(each) is not logging.StreamHandler]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real scenes and reference renders, which lie beside the repository and are not part of it."""
    if not (SHARED / "scenes").is_dir():
        pytest.skip("needs the folder of real scenes and reference renders beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def opengl() -> None:
    """OpenGL through EGL: a GPU's driver, or Mesa's (Debian: libegl1 libgl1-mesa-dri)."""
    pytest.importorskip("moderngl", reason="needs moderngl: pip install 'crossview[gl]'")
    from generation.renderers.gl import device_name

    try:
        device_name()
    except RendererError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def habitat_sim() -> ModuleType:
    """habitat-sim, which has no package on PyPI."""
    module: ModuleType = pytest.importorskip(
        "habitat_sim", reason="needs habitat-sim 0.3.3, built from its sources"
    )
    return module


def make_box_room(
    size: tuple[float, float, float] = (5.0, 2.6, 4.0), *, scene_id: str = "box", seed: int = 0
) -> Scene:
    """Return a closed room, seen from inside, whose walls carry a random texture."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    )
    vertices = (corners * np.float32(size))[quads].reshape(-1, 3)
    faces = np.array([[4 * q + i for i in ids] for q in range(6) for ids in ((0, 1, 2), (0, 2, 3))])
    # Wound so that each face is seen from the room's middle.
    normals = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    inward = np.array(size) / 2 - vertices[faces[:, 0]]
    outside = (normals * inward).sum(axis=1) < 0
    faces[outside] = faces[outside][:, ::-1]
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return Scene(
        scene_id=scene_id,
        vertices=vertices,
        faces=faces.astype(np.int32),
        uvs=np.tile(np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32), (6, 1)),
        vertex_colors=np.full((24, 3), 255, np.uint8),
        face_materials=np.zeros(12, np.int32),
        materials=(Material(texture=Texture(image=image)),),
    )


@pytest.fixture(scope="session")
def box_room() -> Scene:
    """A 5 x 2.6 x 4 m room with its corner at the origin."""
    return make_box_room()
