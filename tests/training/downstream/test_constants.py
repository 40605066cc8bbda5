"""What one says of every example without looking at it."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_layouts import LAYOUTS

from generation.errors import CrossviewError
from training.downstream.evaluation import evaluate_constant
from training.downstream.example import Example, Splits
from training.downstream.recipe import Recipe
from training.downstream.tasks import TASKS


def example(image=None, **truth):
    image = np.zeros((2, 2, 3), np.uint8) if image is None else image
    truth = {name: np.asarray(values) for name, values in truth.items()}
    return Example(name="one", images=(image, image), truth=truth)


def metrics(task, train, val, classes=()):
    splits = Splits(train=train, val=val, classes=classes)
    return evaluate_constant(TASKS[task], splits, Recipe()).metrics


NAN = np.nan


def test_depth_is_the_middle_of_what_is_known():
    """Of three images 1, 3 and 100 m away."""
    train = [example(depth_m=[[far, far], [NAN, far]]) for far in (1.0, 3.0, 100.0)]
    blank = example(depth_m=np.full((2, 2), NAN))
    val = [example(depth_m=np.array([[3, 3], [6, NAN]], np.float32))]
    found = metrics("depth", [*train, blank], val)
    assert found["delta1"] == pytest.approx(2 / 3)
    assert found["rmse_m"] == pytest.approx(np.sqrt(3))
    assert metrics("depth", [blank], val) == {}
    assert metrics("depth", [], val) == {}


def test_flow_is_of_each_direction_by_itself():
    train = [example(flow=np.broadcast_to((3.0, -2.0), (2, 2, 2)))]
    val = [example(flow=np.broadcast_to(np.float32((3, 2)), (2, 2, 2)))]
    assert metrics("flow", train, val)["epe_px"] == pytest.approx(4)


def test_a_camera_that_does_not_move_is_wrong_by_how_it_moves():
    motion = np.eye(4)
    motion[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    motion[:3, 3] = 0, 3, 4
    found = metrics("pose", [], [example(camera2_from_camera1=motion)])
    assert found["median_rotation_deg"] == pytest.approx(90)
    assert found["median_translation_m"] == pytest.approx(5)


def test_classes_are_the_most_frequent_ones():
    names = ("a", "b", "c")
    train = [example(labels=[[1, 1], [2, -1]]), example(labels=[[-1, -1], [2, 1]])]
    found = metrics("segmentation", train, [example(labels=[[1, 0], [1, 1]])], names)
    assert found["pixel_accuracy"] == 0.75
    train = [example(label=label) for label in (2, 2, 0)]
    val = [example(label=label) for label in (2, 2, 0, 1)]
    assert metrics("classification", train, val, names)["top1"] == 0.5
    with pytest.raises(CrossviewError, match="a label is class 3"):
        metrics("classification", [example(label=3)], val, names)


@pytest.mark.parametrize("task", ["correspondence", "pointmaps"])
def test_some_tasks_have_none(task):
    assert metrics(task, [], [example()]) == {}


@pytest.mark.parametrize(
    ("task", "layout"), [(t, next(iter(names))) for t, names in LAYOUTS.items()]
)
def test_public_layouts_have_all_metrics(tmp_path, task, layout):
    LAYOUTS[task][layout](tmp_path)
    found = evaluate_constant(TASKS[task], TASKS[task].datasets[layout](tmp_path), Recipe())
    assert set(found.metrics) == {metric.name for metric in TASKS[task].metrics}
    if task in ("flow", "stereo"):  # the same everywhere in these
        assert found.metrics["epe_px"] == 0
