"""Rooms from seeds: plan, finishes, furniture by the kind of room, light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generation.scenes.procedural import decor, groups, seats, storage, tables
from generation.scenes.procedural.finishes import Finishes
from generation.scenes.procedural.floor_plan import FloorPlan, random_floor_plan
from generation.scenes.procedural.layout import RoomLayout
from generation.scenes.procedural.light import AreaLight, bake_light
from generation.scenes.procedural.meshing import assemble
from generation.scenes.procedural.pieces import Piece
from generation.scenes.procedural.shell import (
    DOOR_HALF_M,
    DOOR_HEIGHT_M,
    REVEAL_M,
    Door,
    Window,
    build_door,
    build_shell,
    random_openings,
)
from generation.scenes.scene import Scene

MAX_LAMPS = 3
"""Lamps that shed light; more of them only look lit."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of furniture and how it is placed."""

    make: Callable[[np.random.Generator, Finishes], Piece]
    """Builds one in its own frame."""
    in_the_middle: bool = False
    """Away from the walls; the others stand with their back to one."""
    front_m: float = 0.0
    """Floor to keep free in front."""


FAMILIES: dict[str, Family] = {
    "armchair": Family(make=seats.armchair, front_m=0.4),
    "bed": Family(make=groups.bed_with_tables),
    "bookshelf": Family(make=storage.bookshelf, front_m=0.45),
    "cardboard boxes": Family(make=storage.cardboard_boxes),
    "chair": Family(make=seats.chair, front_m=0.3),
    "cupboard": Family(make=storage.cupboard, front_m=0.45),
    "dining set": Family(make=groups.dining_set, in_the_middle=True),
    "floor lamp": Family(make=decor.floor_lamp),
    "fridge": Family(make=storage.fridge, front_m=0.6),
    "kitchen": Family(make=storage.kitchen, front_m=0.7),
    "lounge": Family(make=groups.lounge),
    "media bench": Family(make=storage.media_bench, front_m=0.6),
    "plant": Family(make=decor.plant),
    "rug": Family(make=decor.rug, in_the_middle=True),
    "side table": Family(make=tables.side_table),
    "sofa": Family(make=seats.sofa, front_m=0.45),
    "stool": Family(make=seats.stool),
    "wardrobe": Family(make=storage.wardrobe, front_m=0.5),
    "waste bin": Family(make=storage.waste_bin),
    "workplace": Family(make=groups.workplace),
}

ROOM_KINDS: dict[str, tuple[str, ...]] = {
    "living room": (
        "lounge", "media bench", "bookshelf", "armchair", "cupboard", "floor lamp", "plant",
        "side table", "bookshelf", "stool",
    ),
    "bedroom": (
        "bed", "wardrobe", "cupboard", "armchair", "floor lamp", "plant", "workplace", "bookshelf",
        "chair",
    ),
    "kitchen": (
        "kitchen", "fridge", "dining set", "cupboard", "plant", "waste bin", "cupboard", "stool",
    ),
    "study": (
        "workplace", "bookshelf", "bookshelf", "waste bin", "armchair", "floor lamp", "plant",
        "cupboard", "cardboard boxes", "workplace",
    ),
    "dining room": (
        "dining set", "cupboard", "sofa", "plant", "bookshelf", "floor lamp", "side table",
        "wardrobe",
    ),
    "studio": (
        "bed", "kitchen", "workplace", "wardrobe", "bookshelf", "plant", "cardboard boxes",
        "waste bin",
    ),
}  # fmt: skip
FILLERS = ("bookshelf", "plant", "cupboard", "cardboard boxes", "rug", "side table", "chair")
"""What fills up large rooms, after the wishes of their kind."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Room:
    """A room before its light."""

    plan: FloorPlan
    """Outline and height."""
    windows: list[Window]
    """Where daylight comes in."""
    shell: Piece
    """Floor, walls and ceiling."""
    layout: RoomLayout
    """Everything in it."""

    @property
    def pieces(self) -> list[Piece]:
        """All of its parts in world axes."""
        return [self.shell, *self.layout.placed]


def make_room(seed: int) -> Scene:
    """Return a furnished, lit room: the same one for the same seed."""
    rng = np.random.default_rng(seed)
    room = build_room(rng)
    mesh = assemble(room.pieces)
    colors = bake_light(mesh, _lights(rng, room), ambient=float(rng.uniform(0.15, 0.4)))
    return Scene(
        scene_id=f"procedural-{seed:06d}",
        vertices=mesh.vertices,
        faces=mesh.faces,
        uvs=mesh.uvs,
        vertex_colors=colors,
        face_materials=mesh.face_materials,
        materials=mesh.materials,
    )


def build_room(rng: np.random.Generator) -> Room:
    """Draw a room's outline, finishes and furniture."""
    plan = random_floor_plan(rng)
    finishes = Finishes(rng)
    windows, doors = random_openings(rng, plan)
    shell = build_shell(rng, finishes, plan, windows)
    layout = furnish(rng, finishes, plan, windows, doors)
    return Room(plan=plan, windows=windows, shell=shell, layout=layout)


def furnish(
    rng: np.random.Generator,
    finishes: Finishes,
    plan: FloorPlan,
    windows: list[Window],
    doors: list[Door],
) -> RoomLayout:
    """Place doors, curtains, furniture, lamps and pictures."""
    layout = RoomLayout(plan, rng)
    for door in doors:
        wall = plan.walls[door.wall]
        piece = build_door(rng, finishes)
        layout.put(piece.moved(wall.at(door.centre_m), rotation=wall.world_from_wall))
        x, half = door.centre_m, DOOR_HALF_M + 0.04
        layout.keep_clear(wall, (x - half, 0, 0), (x + half, DOOR_HEIGHT_M + 0.05, 0.85))
    for window in windows:
        _dress_window(rng, finishes, layout, window)
    kinds = list(ROOM_KINDS)
    wishes = list(ROOM_KINDS[kinds[int(rng.integers(len(kinds)))]])
    num_fillers = 1 + int(plan.width_m * plan.depth_m / 5)
    wishes += [FILLERS[int(i)] for i in rng.integers(0, len(FILLERS), num_fillers)]
    for name in wishes:
        family = FAMILIES[name]
        piece = family.make(rng, finishes)
        if family.in_the_middle:
            layout.in_the_middle(piece)
        else:
            layout.against_a_wall(piece, front_m=family.front_m)
    _hang_pictures(rng, finishes, layout)
    drop = max(0.06, min(0.6, plan.height_m - 2.25))
    layout.from_the_ceiling(decor.ceiling_lamp(rng, finishes, drop))
    return layout


def _dress_window(
    rng: np.random.Generator, finishes: Finishes, layout: RoomLayout, window: Window
) -> None:
    """Add curtains and a radiator to a window, and keep other things away from it."""
    wall = layout.plan.walls[window.wall]
    width = window.right_m - window.left_m
    side = 0.0
    if rng.random() < 0.65:
        side = min(0.24, window.left_m - 0.05, wall.length_m - window.right_m - 0.05)
        bottom = 0.03 if rng.random() < 0.5 else window.sill_m - 0.12
        top = min(window.head_m + 0.12, layout.plan.height_m - 0.08)
        fabric = decor.curtain(rng, finishes, side + 0.16, bottom, top)
        for centre in (window.left_m + 0.08 - side / 2, window.right_m - 0.08 + side / 2):
            to = wall.at(round(centre, 3), 0.11)
            layout.put(fabric.moved(to, rotation=wall.world_from_wall))
        rod = Piece(rng)
        ends = (window.left_m - side - 0.03, window.right_m + side + 0.03)
        rod.boxes(finishes.pick("metal"), [ends[0], top, 0.17], [ends[1], top + 0.022, 0.192])
        layout.put(rod.moved(wall.at(0.0), rotation=wall.world_from_wall))
    if rng.random() < 0.7:
        heater = decor.radiator(rng, finishes, min(1.2, width - 0.2))
        to = wall.at(round(0.5 * (window.left_m + window.right_m), 3))
        layout.put(heater.moved(to, rotation=wall.world_from_wall))
    low = (window.left_m - side - 0.05, window.sill_m - 0.08, 0.0)
    layout.keep_clear(wall, low, (window.right_m + side + 0.05, layout.plan.height_m, 0.3))


def _hang_pictures(rng: np.random.Generator, finishes: Finishes, layout: RoomLayout) -> None:
    """Cover free wall with pictures at eye height, shelves and a clock."""
    perimeter = sum(wall.length_m for wall in layout.plan.walls)
    for _ in range(int(rng.integers(1, 4))):
        shelf = decor.wall_shelf(rng, finishes)
        layout.on_a_wall(shelf, float(round(rng.uniform(1.25, 1.7), 3)))
    if rng.random() < 0.6:
        layout.on_a_wall(decor.clock(rng, finishes), float(round(rng.uniform(1.7, 1.95), 3)))
    for attempt in range(int(perimeter * 1.3)):
        largest = 0.95 if attempt < 4 else 0.5
        size = np.round(rng.uniform(0.26, largest, 2), 3)
        framed = decor.picture(rng, finishes, (float(size[0]), float(size[1])))
        bottom = max(0.97, rng.uniform(1.35, 1.75) - 0.5 * size[1])
        layout.on_a_wall(framed, float(round(bottom, 3)))


def _lights(rng: np.random.Generator, room: Room) -> list[AreaLight]:
    """Return daylight from every window and light from the first few lamps."""
    lights = []
    day = rng.uniform(0.6, 1.6) * np.array([0.95, 1.0, rng.uniform(1.0, 1.12)])
    # About 20 samples, however many windows share them; more up, for the edges on the ceiling.
    num_up, num_across = {1: (6, 3), 2: (4, 3)}.get(len(room.windows), (3, 2))
    up, across = (np.arange(num_up) + 0.5) / num_up, (np.arange(num_across) + 0.5) / num_across
    for window in room.windows:
        wall = room.plan.walls[window.wall]
        width, height = window.right_m - window.left_m, window.head_m - window.sill_m
        x, y = np.meshgrid(window.left_m + across * width, window.sill_m + up * height)
        local = np.stack([x, y, np.full_like(x, -0.95 * REVEAL_M)], axis=-1).reshape(-1, 3)
        lights.append(
            AreaLight(
                points=local @ wall.world_from_wall.T + wall.at(0.0),
                normal=wall.world_from_wall[:, 2],
                power=day * width * height,
            )
        )
    warm = np.array([1.0, rng.uniform(0.8, 0.92), rng.uniform(0.6, 0.8)])
    around = 0.08 * np.array([[1, 0, 1], [-1, 0, 1], [0, -0.5, -1.2]])
    # The ceiling lamp was placed last of all and matters most.
    lamps = [lamp for piece in room.pieces for lamp in piece.lamps]
    for lamp in lamps[::-1][:MAX_LAMPS]:
        power = rng.uniform(0.25, 0.8) * warm
        lights.append(AreaLight(points=lamp + around, normal=None, power=power))
    return lights
