"""One unit of regeneration: recorded pairs of one scene become one shard and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.covisibility import measure_pair
from generation.geometry import Camera
from generation.keep_last import keep_last
from generation.locations import location
from generation.pairs import Pair
from generation.plain import to_plain
from generation.recorded import RecordedPairs
from generation.renderers.choice import open_renderer
from generation.renderers.protocol import Renderer
from generation.renderers.supersampling import supersampled
from generation.scenes.digest import load_digested
from generation.scenes.sources import SceneSource
from generation.scenes.untrusted import unlikely_extent
from generation.shard_task import (
    GENERATION_VERSION,
    ShardConfig,
    ShardReport,
    encode_pair,
    finished_shard,
    remove_other_sidecar,
)
from generation.shards.schema import Sidecar
from generation.shards.writer import open_shard


@dataclass(frozen=True, eq=False, kw_only=True)
class RegenerateTask:
    """Recorded pairs of one scene, to be rendered again."""

    scene: SceneSource
    """The scene."""
    scene_digest: str
    """Of the scene's files, from scene_digest(); an edited scan makes another task."""
    recorded: RecordedPairs
    """The pairs."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    hfov_deg: float
    """Horizontal field of view, degrees."""
    shards: ShardConfig
    """How pairs are stored."""
    renderer: str
    """Who renders: a name of RENDERERS other than auto."""
    supersampling: int
    """Samples along each side of a pixel."""
    out: str
    """Folder of the dataset."""

    @property
    def name(self) -> str:
        """Of the shard."""
        return self.recorded.name

    @property
    def count(self) -> int:
        """Pairs asked for."""
        return len(self.recorded.keys)

    @property
    def num_pairs(self) -> int:
        """As count: there are no levels."""
        return self.count

    @property
    def shard_path(self) -> Path:
        """Where the task's tar goes."""
        return location(self.out) / f"{self.name}.tar"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the shard's bytes, as plain values; kept in its sidecar."""
        return {
            "generation_version": GENERATION_VERSION,
            "scene": {**to_plain(self.scene), "path": Path(self.scene.path).name},
            "scene_digest": self.scene_digest,
            "recorded": self.recorded.digest(),
            "image_size": list(self.image_size),
            "hfov_deg": self.hfov_deg,
            "shards": to_plain(self.shards),
            "renderer": self.renderer,
            "supersampling": self.supersampling,
        }

    def finished(self, *, verify: bool = False) -> Sidecar | None:
        """Return the sidecar of an earlier run of this very task, or None.

        verify: also read the shard and compare it with all that its sidecar says.
        """
        return finished_shard(self.shard_path, self.identity, verify=verify)


def regenerate_shard(task: RegenerateTask) -> ShardReport:
    """Render a task's pairs; write its shard, then its sidecar.

    The shard's bytes depend on the task and the versions alone. Raises SceneError or RendererError
    where the scene cannot be rendered; nothing is left half-written then.
    """
    start = time.perf_counter()
    renderer, num_faces, warning = _prepare(
        task.scene, task.scene_digest, task.renderer, task.supersampling
    )
    prepared = time.perf_counter()
    remove_other_sidecar(task.shard_path, task.identity, renderer.device)
    poses = task.recorded.world_from_cameras.reshape(-1, 4, 4)
    cameras = (Camera.from_hfov(task.hfov_deg, task.image_size, pose) for pose in poses)
    views = renderer.render_each(cameras)
    scene_id = task.scene.scene_id
    with open_shard(task.shard_path, scene_id) as writer:
        for key, view1, view2 in zip(task.recorded.keys, views, views):
            pair = Pair(view1=view1, view2=view2, covisibility=measure_pair(view1, view2))
            writer.add(key, encode_pair(pair, scene_id, renderer.name, task.hfov_deg, task.shards))
    sidecar = Sidecar(
        entry=writer.entry,
        task=task.identity,
        samples=writer.samples,
        attempts=task.num_pairs,
        rejections={},
        device=renderer.device,
    )
    sidecar.write(task.shard_path)
    return ShardReport(
        scene_id=task.scene.scene_id,
        count=task.num_pairs,
        attempts=task.num_pairs,
        shortfall="",
        num_faces=num_faces,
        num_renders=len(poses),
        seconds={"prepare": prepared - start, "total": time.perf_counter() - prepared},
        device=renderer.device,
        warning=warning,
    )


@keep_last
def _prepare(
    source: SceneSource, digest: str, renderer: str, supersampling: int
) -> tuple[Renderer, int, str]:
    """Open a scene's renderer, count its triangles, judge its size; a worker keeps the last one."""
    scene = load_digested(source, digest)
    opened = open_renderer(renderer, scene, source)
    return supersampled(opened, supersampling), scene.num_faces, unlikely_extent(scene)
