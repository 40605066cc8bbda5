"""Flow and stereo: motion between two images, and what counts of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MAE, RECIPE, Says, judged
from synthetic import texture
from tiny_layouts import SIZE

from generation.errors import CrossviewError
from training.downstream.example import Example, Splits
from training.downstream.tasks import TASKS
from training.downstream.transforms import covering

NAN = np.float32("nan")


@pytest.mark.parametrize(("task", "sign"), [("flow", -1.0), ("stereo", 1.0)])
def test_motion_is_read_from_the_second_image(task, sign):
    """Of one first image and three second ones: who sees the first alone is 4 px off at best."""
    wide = texture(np.random.default_rng(0), 64)
    examples = []
    for shift in (0, 6, 12):
        motion = np.full((32, 32), sign * shift, np.float32)
        flow = np.stack([motion, np.zeros_like(motion)], -1)
        truth = {"flow": flow} if task == "flow" else {"disparity": motion}
        images = (wide[:32, :32].copy(), wide[:32, shift : shift + 32].copy())
        examples.append(Example(name=str(shift), images=images, truth=truth))
    splits = Splits(train=examples, val=examples)
    assert judged(task, splits, max_steps=100, batch_size=3).metrics["epe_px"] < 1.0


@pytest.mark.parametrize(
    ("task", "name", "off"), [("flow", "flow", 4.0), ("stereo", "disparity", 2.0)]
)
def test_motion_is_learnt_by_a_bounded_laplacian(task, name, off):
    """2 px off in each direction, of a scale that is said to be e^3 at most."""
    channels = {"flow": 2, "stereo": 1}[task]
    truth = torch.zeros((1, 2, 2, 2) if task == "flow" else (1, 2, 2))
    truth[0, 0, 0] = torch.nan
    views = {"image": torch.zeros(1, 3, 2, 2), "image2": torch.zeros(1, 3, 2, 2)}
    for raw in (-1.0, 0.0, 1e6):
        log_scale = 3 * np.tanh(raw / 6)
        output = torch.cat([torch.full((1, channels, 2, 2), 2.0), torch.full((1, 1, 2, 2), raw)], 1)
        loss = TASKS[task].loss(Says(output), {**views, name: truth})
        assert float(loss) == pytest.approx(off / np.exp(log_scale) + log_scale, rel=1e-5)


@pytest.mark.parametrize("seen_only", [False, True])
@pytest.mark.parametrize(("task", "name"), [("flow", "flow"), ("stereo", "disparity")])
def test_what_is_hidden_is_learnt_unless_told_otherwise(opened, task, name, seen_only):
    recipe = replace(RECIPE, crop=SIZE, seen_only=seen_only)
    example = opened(task, "kitti").train[0]
    sample = TASKS[task].sample(example, recipe, np.random.default_rng(0))
    hidden = example.truth["occluded"].reshape(*SIZE, *[1] * (example.truth[name].ndim - 2))
    known = np.isfinite(example.truth[name])
    assert (known & hidden).any()
    np.testing.assert_array_equal(sample[name].isfinite(), known & ~hidden if seen_only else known)


@pytest.mark.parametrize(("task", "channels"), [("flow", 2), ("stereo", 1)])
def test_the_tile_that_says_to_err_less_counts_more(task, channels):
    """Two tiles, half of each in the other; the second, which says to err less by e^0.4, counts e^2
    times as much: the fifth power."""
    size = 32
    raw = 6 * np.arctanh(-0.4 / 3)  # of which 3 tanh(raw / 6) is the log of the scale
    said = torch.tensor([[1.0] * channels + [0.0], [3.0] * channels + [raw]])

    class BothTiles(torch.nn.Linear):
        def forward(self, *_):
            return said[..., None, None].expand(2, channels + 1, size, size)

    images = (np.zeros((size, size + size // 2, 3), np.uint8),) * 2
    example = Example(name="wide", images=images, truth={})
    recipe = replace(RECIPE, crop=(size, size))
    ((_, found),) = TASKS[task].predict(BothTiles(1, 1), example, recipe).items()
    found = found.reshape(*images[0].shape[:2], -1)
    np.testing.assert_allclose(found[:, :16], 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, 32:], 3, rtol=1e-5)
    np.testing.assert_allclose(found[:, 16:32], (1 + 3 * np.exp(2)) / (1 + np.exp(2)), rtol=1e-5)


def test_cross_attention_that_is_new_is_not_frozen(opened):
    splits = opened("flow", "kitti")
    with pytest.raises(CrossviewError, match=r"frozen = True.*cross-attention is new"):
        judged("flow", splits, config=MAE, frozen=True)


def stereo_example(**truth):
    images = (np.zeros((2, 2, 3), np.uint8),) * 2
    return Example(name="pair", images=images, truth=truth)


def test_stereo_counts_all_pixels_and_those_seen_twice():
    """Errors 0, 1.5 and 4 px; the last one hidden; one unknown."""
    stereo = TASKS["stereo"]
    truth = np.array([[10, 10], [10, NAN]], np.float32)
    found = {"disparity": np.array([[10, 11.5], [14, 99]], np.float32)}
    hidden = np.array([[0, 0], [1, 0]], bool)
    first = stereo.score(found, stereo_example(disparity=truth, occluded=hidden))
    metrics = stereo.summarise([first])
    assert metrics == pytest.approx(
        {
            "bad1": 2 / 3,
            "bad2": 1 / 3,
            "d1": 1 / 3,
            "epe_px": 5.5 / 3,
            "bad1_seen": 1 / 2,
            "bad2_seen": 0,
            "d1_seen": 0,
            "epe_seen_px": 0.75,
        }
    )
    single = np.array([[10, NAN], [NAN, NAN]], np.float32)  # images count by their pixels
    second = stereo.score(found, stereo_example(disparity=single))
    assert stereo.summarise([first, second])["bad1"] == pytest.approx(2 / 4)
    assert stereo.summarise([first, second])["bad1_seen"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("size", "bad"), [(None, 1.0), ((40, 96), 0.0)])
def test_middlebury_at_half_size_counts_errors_in_full_size_pixels(opened, size, bad):
    """0.8 px of half size are 1.6; of an image resized to the full width they are 0.8."""
    example = covering(opened("stereo", "middlebury").val[0], size)
    scores = TASKS["stereo"].score({"disparity": example.truth["disparity"] + 0.8}, example)
    assert (scores["bad1"], scores["bad1_seen"], scores["bad2"]) == (bad, bad, 0)
    assert scores["epe_px"] == pytest.approx(0.8 + 0.8 * bad)


@pytest.mark.parametrize(("flip", "flip_test"), [(True, False), (False, True)])
def test_stereo_refuses_mirrors(opened, flip, flip_test):
    with pytest.raises(CrossviewError, match=r"stereo: flip = .* in a mirror left and right"):
        judged("stereo", opened("stereo", "kitti"), flip=flip, flip_test=flip_test)
