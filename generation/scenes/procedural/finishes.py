"""The materials of one room: a few textures a role, in as many tints as there are objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generation.geometry import UInt8
from generation.scenes.procedural import pictures
from generation.scenes.procedural.furniture_textures import (
    carpet,
    cork,
    foliage,
    glazed,
    knit,
    linen,
    metal,
    painted,
    plaid,
    weave,
    wicker,
)
from generation.scenes.procedural.noise import Shape
from generation.scenes.procedural.palette import random_color
from generation.scenes.procedural.pictures import Picture
from generation.scenes.procedural.pieces import Surface
from generation.scenes.procedural.room_textures import (
    brick,
    concrete,
    flowered,
    marble,
    mural,
    parquet,
    plain_tiles,
    planks,
    plaster,
    striped,
    terrazzo,
    tiles,
    timber,
    triangles,
    veneer,
    whitewash,
)
from generation.scenes.scene import Material, Texture

SurfaceTexture = Callable[[np.random.Generator, Shape], UInt8]
"""Paints a tileable (H, W, 3) image."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a surface is used for, and what it may look like."""

    textures: tuple[SurfaceTexture, ...]
    """Painters to choose from."""
    pool: int
    """Textures of this role in one room."""
    repeat_m: tuple[float, float]
    """Range of the length that one repeat covers."""
    shape: Shape = (256, 256)
    """Texels; the width covers repeat_m times width over height."""
    tint: float = 0.3
    """How far one object's colour may turn from the texture's, 0 to 1."""
    darken: float = 0.2
    """How much darker one object may be than the texture, 0 to 1."""


ROLES: dict[str, Role] = {
    "floor": Role(
        textures=(planks, parquet, tiles, plain_tiles, carpet, terrazzo, marble),
        pool=1,
        repeat_m=(2.4, 3.4),
        shape=(512, 512),
        tint=0.15,
    ),
    "wall": Role(
        textures=(plaster, flowered, striped, triangles, brick, concrete, mural),
        pool=2,
        repeat_m=(3.0, 3.0),
        shape=(512, 1024),
        tint=0.1,
        darken=0.1,
    ),
    "dado": Role(
        textures=(planks, plain_tiles, painted, tiles),
        pool=1,
        repeat_m=(1.0, 1.4),
        tint=0.2,
    ),
    "ceiling": Role(
        textures=(whitewash, whitewash, concrete, planks),
        pool=1,
        repeat_m=(3.2, 4.0),
        tint=0.05,
        darken=0.1,
    ),
    "wood": Role(
        textures=(veneer, timber, timber, planks),
        pool=3,
        repeat_m=(0.7, 1.1),
        tint=0.12,
        darken=0.45,
    ),
    "fabric": Role(
        textures=(weave, plaid, knit, flowered, carpet),
        pool=4,
        repeat_m=(0.45, 0.8),
        tint=0.35,
    ),
    "linen": Role(textures=(linen,), pool=1, repeat_m=(0.6, 0.8), tint=0.15),
    "stone": Role(
        textures=(marble, terrazzo, concrete),
        pool=1,
        repeat_m=(0.7, 1.1),
        tint=0.2,
    ),
    "tile": Role(
        textures=(tiles, plain_tiles, brick),
        pool=1,
        repeat_m=(0.9, 1.2),
        tint=0.1,
    ),
    "metal": Role(textures=(metal,), pool=1, repeat_m=(0.5, 0.5), tint=0.15, darken=0.5),
    "paint": Role(textures=(painted,), pool=3, repeat_m=(0.9, 0.9), tint=0.15),
    "pottery": Role(
        textures=(glazed, marble, terrazzo),
        pool=2,
        repeat_m=(0.35, 0.5),
        shape=(128, 128),
        tint=0.4,
    ),
    "basket": Role(
        textures=(wicker, cork),
        pool=1,
        repeat_m=(0.4, 0.5),
        shape=(128, 128),
    ),
    "leaf": Role(
        textures=(foliage,),
        pool=2,
        repeat_m=(0.3, 0.3),
        shape=(128, 128),
        tint=0.3,
    ),
}

SHADE_GLOW = (255, 236, 205)
"""Vertex colour of a lamp's shade."""


class Finishes:
    """Hands out surfaces; paints a texture when it is first asked for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._pools: dict[str, list[Surface]] = {}

    def pick(self, role: str) -> Surface:
        """Return one of a role's textures in a tint of its own."""
        if role not in self._pools:
            self._pools[role] = self._painted_pool(ROLES[role])
        pool = self._pools[role]
        surface = pool[int(self._rng.integers(len(pool)))]
        tint = 1 - ROLES[role].tint * self._rng.random(3)
        tint = tint / tint.max() * (1 - ROLES[role].darken * self._rng.random())
        red, green, blue = np.round(tint, 3).tolist()
        texture = surface.material.texture
        return Surface(Material(base_color=(red, green, blue), texture=texture), surface.repeat_m)

    def picture(self, painter: Picture, shape: Shape) -> Surface:
        """Return a new image that is shown once."""
        image = painter(self._rng, shape)
        return Surface(Material(texture=Texture(image=image, wrap_u="clamp", wrap_v="clamp")))

    def shared_picture(self, painter: Picture, shape: Shape = (256, 256)) -> Surface:
        """Return the room's one image of a kind, as the sheet of book spines."""
        if painter.__name__ not in self._pools:
            self._pools[painter.__name__] = [self.picture(painter, shape)]
        return self._pools[painter.__name__][0]

    def wall_picture(self, shape: Shape) -> Surface:
        """Return a new painting or poster of any kind."""
        return self.picture(
            pictures.PICTURES[int(self._rng.integers(len(pictures.PICTURES)))], shape
        )

    def plain(self) -> Surface:
        """Return a colour without texture, for small things."""
        red, green, blue = random_color(self._rng, saturation=(0.1, 0.8), value=(0.6, 1.0))
        return Surface(Material(base_color=(red / 255, green / 255, blue / 255)))

    def _painted_pool(self, role: Role) -> list[Surface]:
        pool = []
        count = min(role.pool, len(role.textures))
        for index in self._rng.choice(len(role.textures), count, replace=False):
            image = role.textures[int(index)](self._rng, role.shape)
            repeat_m = float(self._rng.uniform(*role.repeat_m))
            pool.append(Surface(Material(texture=Texture(image=image)), repeat_m))
        while len(pool) < role.pool:
            image = role.textures[int(self._rng.integers(len(role.textures)))](
                self._rng, role.shape
            )
            pool.append(Surface(Material(texture=Texture(image=image)), pool[0].repeat_m))
        return pool
