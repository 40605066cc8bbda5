"""The table of tasks."""

from __future__ import annotations

from generation.errors import CrossviewError
from training.downstream.classification import Classification
from training.downstream.correspondence import Correspondence
from training.downstream.datasets.taskonomy import TARGETS
from training.downstream.depth import Depth
from training.downstream.flow import Flow
from training.downstream.pointmaps import Pointmaps
from training.downstream.pose import Pose
from training.downstream.segmentation import Segmentation
from training.downstream.stereo import Stereo
from training.downstream.task import Task
from training.downstream.taskonomy import Taskonomy

_ALL: tuple[Task, ...] = (
    Depth(),
    Flow(),
    Stereo(),
    Pose(),
    Pointmaps(),
    Correspondence(),
    Segmentation(),
    Classification(),
    *(Taskonomy(target) for target in TARGETS),
)
TASKS = {task.name: task for task in _ALL}
"""By name."""
OF_MIDDLES = (Pose.name, Pointmaps.name)
"""Tasks that see the middle of views, and learn angles and metres from it."""


def named_tasks(names: str) -> list[Task]:
    """Return the tasks of a text such as 'depth,flow'. Raises CrossviewError listing them all."""
    chosen = []
    for name in names.split(","):
        if name not in TASKS:
            listed = "\n".join(f"  {task.name}: {task.summary}" for task in TASKS.values())
            raise CrossviewError(f"--task {name!r}: expected some of\n{listed}")
        chosen.append(TASKS[name])
    return list(dict.fromkeys(chosen))
