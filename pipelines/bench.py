"""Measure pair generation on one core: what a scene costs, and where the time goes."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import trimesh

from generation.errors import CrossviewError
from generation.geometry import Float64, UInt8
from generation.pairs import PairConfig
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.scenes.scene import Scene
from generation.scenes.sources import SceneSource, resolve_scenes
from generation.task import RenderTask, ShardConfig, ShardReport, render_shard
from pipelines.executors import RayExecutor
from pipelines.tables import format_table

REAL_SCENES = Path(__file__).resolve().parents[2] / "shared" / "scenes"
SCAN_TRIANGLES = 1_700_000
STAGES = ("renders", "proposals", "covisibility", "encoding")
HEADERS = (
    "scene", "triangles", "render ms/view", "renders/pair", "tries/pair", *STAGES, "writing",
    "pairs/s/core", "peak MB",
)  # fmt: skip


def bench(patterns: list[str] | None, num_pairs: int) -> str:
    """Return a table of rates, one row a scene, each measured in a process of its own.

    Pairs are the default ones (256 x 256, co-visibility 0.4 to 0.6), from a loaded scene to JPEG in
    a closed shard. The final renders' share is that of 'renders', which also counts the few views
    that full resolution rejects.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = resolve_scenes(patterns) if patterns else _default_sources(Path(folder))
        # One worker, so that memory is that of one scene and nothing else runs.
        rows: list[tuple[object, ...]] = []
        for source in sources:
            executor = RayExecutor(num_workers=1)
            tasks = [_task(source, 0, 5, folder), _task(source, 1000, num_pairs, folder)]
            outcomes = list(executor.run(render_shard, tasks))
            executor.close()
            measured = next(o for o in outcomes if o.task.first_index == 1000)
            if measured.report is None:
                raise CrossviewError(f"{source.scene_id}: {measured.error}")
            rows.append(_row(source, measured.report))
    machine = f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}"
    return f"{format_table(rows, HEADERS)}\n\n{num_pairs} pairs a scene, one core of: {machine}"


def _task(source: SceneSource, first_index: int, count: int, folder: str) -> RenderTask:
    return RenderTask(
        scene=source,
        scene_digest="",
        first_index=first_index,
        count=count,
        seed=0,
        pairs=PairConfig(),
        shards=ShardConfig(pairs_per_shard=count),
        supersampling=1,
        out=folder,
    )


def _row(source: SceneSource, report: ShardReport) -> tuple[object, ...]:
    total = report.seconds["total"]
    shares = [report.seconds.get(stage, 0.0) / total for stage in STAGES]
    return (
        source.scene_id,
        report.num_faces,
        f"{1000 * report.seconds['renders'] / report.num_renders:.1f}",
        f"{report.num_renders / report.count:.2f}",
        f"{report.attempts / report.count:.1f}",
        *(f"{share:.0%}" for share in shares),
        f"{1 - sum(shares):.0%}",
        f"{report.count / total:.1f}",
        f"{report.peak_memory_bytes / 2**20:.0f}",
    )


def _default_sources(folder: Path) -> list[SceneSource]:
    scan = folder / "scan.glb"
    export_glb(make_scan(SCAN_TRIANGLES), scan)
    patterns = ["procedural:0", str(scan)]
    if REAL_SCENES.is_dir():
        patterns += [str(REAL_SCENES / f"{name}.glb") for name in ("living-room", "bathroom")]
    return resolve_scenes(patterns)


def make_scan(num_triangles: int) -> Scene:
    """Return a room as a scanner gives it: one dense mesh with small bumps and vertex colours.

    A generated room, its triangles cut into four again and again, the largest first.
    """
    room = make_room(0)
    materials = np.zeros((len(room.vertices), 1))
    materials[room.faces, 0] = room.face_materials[:, None]
    vertices, faces = room.vertices.astype(float), room.faces
    attributes = {"of": np.hstack([room.uvs, room.vertex_colors, materials])}
    while len(faces) < num_triangles:
        edges = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, axis=1)], axis=2)
        largest = np.argsort(-edges.max(axis=1), kind="stable")
        vertices, faces, attributes = trimesh.remesh.subdivide(
            vertices,
            faces,
            face_index=largest[: (num_triangles - len(faces)) // 3 + 1],
            vertex_attributes=attributes,
        )
    waves = np.array([[97.0, 0.0, 31.0], [13.0, 89.0, 0.0], [0.0, 41.0, 83.0]])
    return Scene(
        scene_id="scan",
        vertices=(vertices + 0.0015 * np.sin(vertices @ waves)).astype(np.float32),
        faces=faces.astype(np.int32),
        uvs=np.zeros((len(vertices), 2), np.float32),
        vertex_colors=_surface_colors(room, attributes["of"]),
        face_materials=np.zeros(len(faces), np.int32),
    )


def _surface_colors(room: Scene, attributes: Float64) -> UInt8:
    """Return (V, 3) colours: base colour times the nearest texel times the vertex colour.

    attributes: (V, 6) texture coordinates, vertex colour, number of the material.
    """
    uvs, surface, materials = attributes[:, :2], attributes[:, 2:5].copy(), attributes[:, 5]
    for number, material in enumerate(room.materials):
        rows = np.flatnonzero(np.rint(materials) == number)
        surface[rows] *= material.base_color
        if material.texture is not None and len(rows):
            image = material.texture.image
            height, width = image.shape[:2]
            column, row = np.floor(uvs[rows] * [width, height]).astype(np.int64).T
            surface[rows] *= image[row % height, column % width] / 255
    return np.rint(surface).clip(0, 255).astype(np.uint8)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
