"""What one says of every example without looking at it."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_layouts import LAYOUTS

from generation.errors import CrossviewError
from training.downstream import evaluation
from training.downstream.evaluation import baseline
from training.downstream.example import Example, Splits
from training.downstream.recipe import Recipe
from training.downstream.tasks import TASKS


def example(image=None, **truth):
    image = np.zeros((2, 2, 3), np.uint8) if image is None else image
    truth = {name: np.asarray(values) for name, values in truth.items()}
    return Example(name="one", images=(image, image), truth=truth)


def judged(task, train, val, classes=(), **changes):
    splits = Splits(train=train, val=val, classes=classes)
    fitted = baseline(TASKS[task], splits, Recipe(**changes))
    return fitted and evaluation.judged(TASKS[task], fitted, val)


def metrics(*arguments, **changes):
    return judged(*arguments, **changes).metrics


NAN = np.nan


def test_depth_is_the_middle_of_what_is_known():
    """Of three images 1, 3 and 100 m away."""
    train = [example(depth_m=[[far, far], [NAN, far]]) for far in (1.0, 3.0, 100.0)]
    blank = example(depth_m=np.full((2, 2), NAN))
    val = [example(depth_m=np.array([[3, 3], [6, NAN]], np.float32))]
    found = metrics("depth", [*train, blank], val)
    assert found["delta1"] == pytest.approx(2 / 3)
    assert found["rmse_m"] == pytest.approx(np.sqrt(3))
    assert judged("depth", [blank], val) is None
    assert judged("depth", [], val) is None


def test_flow_is_of_each_direction_by_itself():
    train = [example(flow=np.broadcast_to((3.0, -2.0), (2, 2, 2)))]
    val = [example(flow=np.broadcast_to(np.float32((3, 2)), (2, 2, 2)))]
    assert metrics("flow", train, val)["epe_px"] == pytest.approx(4)


def test_pixels_are_those_of_the_size_that_is_judged():
    """16 px from one image to the other are 8 where both are halved."""
    image, flow = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 2), 16, np.float32)
    same = [example(image, flow=flow)]
    assert metrics("flow", same, same, resize=(4, 4))["epe_px"] == 0


def test_a_camera_moves_as_in_the_middle_of_training_and_does_not_turn():
    def motion(translation_m):
        turned = np.eye(4)
        turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        turned[:3, 3] = translation_m
        return example(camera2_from_camera1=turned)

    train = [motion((0, 0, z)) for z in (0.5, 1, 9)]
    found = metrics("pose", train, [motion((0, 4, 4))])
    assert found["median_rotation_deg"] == pytest.approx(90)
    assert found["median_translation_m"] == pytest.approx(5)
    assert found["median_direction_deg"] == pytest.approx(45)
    assert judged("pose", [], train) is None


def test_classes_are_the_most_frequent_ones():
    names = ("a", "b", "c")
    train = [example(labels=[[1, 1], [2, -1]]), example(labels=[[-1, -1], [2, 1]])]
    found = metrics("segmentation", train, [example(labels=[[1, 0], [1, 1]])], names)
    assert found["pixel_accuracy"] == 0.75
    train = [example(label=label) for label in (2, 2, 0)]
    val = [example(label=label) for label in (2, 2, 0, 1)]
    assert metrics("classification", train, val, names)["top1"] == 0.5
    even = metrics("classification", [example(label=label) for label in (0, 1, 2)], val, names)
    assert even["top1"] == 0.25
    with pytest.raises(CrossviewError, match="a label is class 3"):
        metrics("classification", [example(label=3)], val, names)


WITHOUT = ("correspondence", "pointmaps")


@pytest.mark.parametrize("task", WITHOUT)
def test_some_tasks_have_none(task):
    assert judged(task, [], [example()]) is None


@pytest.mark.parametrize(
    ("task", "layout"),
    [(t, next(iter(names))) for t, names in LAYOUTS.items() if t not in WITHOUT],
)
def test_public_layouts_have_all_metrics(tmp_path, task, layout):
    LAYOUTS[task][layout](tmp_path)
    opened = TASKS[task].datasets[layout](tmp_path)
    found = metrics(task, opened.train, opened.val, opened.classes)
    assert set(found) == {metric.name for metric in TASKS[task].metrics}
    if task in ("flow", "stereo"):  # the same everywhere in these
        assert found["epe_px"] == 0
