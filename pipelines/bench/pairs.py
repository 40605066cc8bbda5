"""Measure pair generation: what a scene costs, where the time goes, and how it scales."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from generation.errors import CrossviewError
from generation.geometry import Float64, UInt8
from generation.machine import processor
from generation.overlap import OverlapBand
from generation.pairs import PairConfig
from generation.render_task import RenderTask, render_shards
from generation.renderers.choice import chosen_renderer
from generation.scenes.digest import scene_digest
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.scenes.scene import Scene
from generation.scenes.sources import SceneSource, resolve_scenes
from generation.shard_task import ShardConfig, ShardReport
from pipelines.executors.on_ray import RayExecutor
from pipelines.executors.protocol import Outcome
from pipelines.scene_sets import scene_sets
from pipelines.tables import format_table

REAL_SCENES = Path(__file__).resolve().parents[3] / "shared" / "scenes"
SCAN_TRIANGLES = 1_700_000
STAGES = ("renders", "proposals", "covisibility", "encoding")
NEAR_HALF = OverlapBand()
LEVELS = tuple(OverlapBand(low=low / 100, high=low / 100 + 0.1) for low in (5, 25, 45, 65, 85))
ORIGINAL_PAIRS_PER_S = {"living-room": 0.73, "bathroom": 0.54, "scan": 0.20}
"""CroCo's published generator on habitat-sim 0.3.3, two cores and software OpenGL; scan: one of as
many triangles."""


def bench(patterns: list[str] | None, num_pairs: int, renderer: str = "embree") -> str:
    """Measure pair generation, and return tables with what was measured and on which machine.

    Pairs are of 256 x 256 and, but for the table of levels, of co-visibility 0.4 to 0.6; times run
    from a loaded scene to JPEG in a closed shard.
    """
    renderer = chosen_renderer(renderer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = BenchPlan(num_pairs=num_pairs, folder=folder, renderer=renderer)
        sources = (
            resolve_scenes(patterns, sets=scene_sets()) if patterns else _default_sources(folder)
        )
        parts = [
            f"{num_pairs} pairs a scene on {os.cpu_count()} cores, {processor()}, "
            f"Python {platform.python_version()}, renderer {renderer}",
            *_one_core(sources, plan),
            _workers(sources, plan),
            _start_up(sources[0], plan),
        ]
    return "\n\n".join(parts)


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What is measured."""

    num_pairs: int
    """Of each scene."""
    folder: Path
    """Where shards go."""
    renderer: str

    def task(
        self, source: SceneSource, first_index: int, count: int, band: OverlapBand
    ) -> RenderTask:
        """Return a task of default pairs."""
        return RenderTask(
            scene=source,
            scene_digest=scene_digest(source),
            first_index=first_index,
            count=count,
            seed=0,
            pairs=PairConfig(),  # the same for all bands: the worker keeps its scene
            shards=ShardConfig(pairs_per_shard=count),
            renderer=self.renderer,
            supersampling=1,
            outputs=((str(self.folder), band),),
        )


def _one_core(sources: list[SceneSource], plan: BenchPlan) -> list[str]:
    """Return tables of rates and shares, and of what levels of overlap cost, on one worker."""
    rates, levels, devices = [], [], []
    for source in sources:
        near_half, *others = _measured(source, plan)
        rates.append(_rates_row(near_half))
        costs = [1000 * report.seconds["total"] / report.count for report in others]
        ratio = max(costs) / min(costs)
        levels.append((source.scene_id, *(f"{cost:.1f}" for cost in costs), f"{ratio:.2f}"))
        devices.append(near_half.device)
    rates_headers = (
        "scene", "triangles", "render ms/view", "renders/pair", "tries/pair", "kept renders",
        *STAGES[1:], "pairs/s/core", "peak MB",
    )  # fmt: skip
    levels_headers = ("scene", *map(str, LEVELS), "dearest / cheapest")
    return [
        f"One core, rendered on {devices[0]}:\n" + format_table(rates, rates_headers),
        "Milliseconds a kept pair, by level of overlap:\n" + format_table(levels, levels_headers),
    ]


def _rates_row(report: ShardReport) -> tuple[object, ...]:
    total = report.seconds["total"]
    shares = [report.seconds.get(stage, 0.0) / total for stage in STAGES]
    kept = shares[0] * 2 * report.count / report.num_renders
    return (
        report.scene_id,
        report.num_faces,
        f"{1000 * report.seconds['renders'] / report.num_renders:.1f}",
        f"{report.num_renders / report.count:.2f}",
        f"{report.attempts / report.count:.1f}",
        f"{kept:.0%}",
        *(f"{share:.0%}" for share in shares[1:]),
        f"{report.count / total:.1f}",
        f"{report.peak_memory_bytes / 2**20:.0f}",
    )


def _workers(sources: list[SceneSource], plan: BenchPlan) -> str:
    rows = []
    factors = []
    for source in sources:
        one, two = (_rate(source, plan, workers) for workers in (1, 2))
        original = ORIGINAL_PAIRS_PER_S.get(source.scene_id)
        if original:
            factors.append(two / original)
        times = f"{two / original:.0f}" if original else "-"
        cells = (f"{one:.1f}", f"{two:.1f}", f"{two / one / 2:.2f}", times)
        rows.append((source.scene_id, *cells))
    headers = ("scene", "1 worker", "2 workers", "efficiency", "times the original")
    text = "Pairs a second by Ray's wall clock:\n" + format_table(rows, headers)
    if factors:
        text += f"\ngeometric mean: {np.exp(np.log(factors).mean()):.0f} times the original"
    return text


def _start_up(source: SceneSource, plan: BenchPlan) -> str:
    """Time the command from its start to the first closed shard of 16 pairs."""
    rows = []
    for executor in ("serial", "ray"):
        out = plan.folder / f"start-up-{executor}"
        scenes = f"procedural:{source.room_seed}" if source.is_generated else source.path
        command = [
            sys.executable, "-m", "pipelines.cli", "render-pairs", "--scenes", scenes, "--out",
            str(out), "--num-pairs", "32", "--executor", executor, "--renderer", plan.renderer,
            "--set", "shards.pairs_per_shard=16",
        ]  # fmt: skip
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while not list(out.glob("*.tar")) and process.poll() is None:
                time.sleep(0.02)
            seconds = time.perf_counter() - start
        if process.returncode:
            raise CrossviewError(f"{' '.join(command)}: failed")
        rows.append((executor, f"{seconds:.1f}"))
    headers = ("executor", "seconds")
    return f"From the command to the first shard, {source.scene_id}:\n" + format_table(
        rows, headers
    )


def _measured(source: SceneSource, plan: BenchPlan) -> list[ShardReport]:
    """Return the reports of tasks near one half and at each level, by one worker that is warm."""
    bands = (NEAR_HALF, *LEVELS)
    tasks = [plan.task(source, 0, 5, NEAR_HALF)]
    tasks += [
        plan.task(source, 1000 * number, plan.num_pairs, band)
        for number, band in enumerate(bands, 1)
    ]
    with closing(RayExecutor(num_workers=1)) as executor:
        outcomes = list(executor.run(render_shards, tasks, group=lambda task: task.scene))
    found = {outcome.task.first_index: _report_of(outcome) for outcome in outcomes}
    return [found[1000 * number] for number in range(1, len(bands) + 1)]


def _rate(source: SceneSource, plan: BenchPlan, num_workers: int) -> float:
    """Return pairs a second of several workers, by the wall clock.

    The first eighth of the tasks, in which workers load the scene, is not counted.
    """
    share = max(1, plan.num_pairs // 4)
    tasks = [plan.task(source, 1000 * index, share, NEAR_HALF) for index in range(8 * num_workers)]
    finished = []
    with closing(RayExecutor(num_workers=num_workers)) as executor:
        for outcome in executor.run(render_shards, tasks):
            finished.append((time.perf_counter(), _report_of(outcome).count))
    start, _ = finished[num_workers - 1]
    counted = finished[num_workers:-num_workers]
    return sum(count for _, count in counted) / (counted[-1][0] - start)


def _report_of(outcome: Outcome[RenderTask, ShardReport]) -> ShardReport:
    if outcome.report is None:
        raise CrossviewError(f"{outcome.task.scene.scene_id}: {outcome.error}")
    return outcome.report


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
