"""Examples that are cut and mirrored stay true."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_images import colours

from training.downstream.datasets.shards import open_shards
from training.downstream.example import Example
from training.downstream.transforms import covering, mirrored, size_of


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 48), (32, 38)), ((24, 30), (32, 40)), ((50, 40), (40, 32)), ((32, 32), (32, 32))],
)
def test_what_covers_a_crop_keeps_its_shape(size, expected):
    labels = np.arange(size[0])[:, None].repeat(size[1], 1)
    image = colours(0, size)
    example = covering(Example(name="a", images=(image,), truth={"labels": labels}), (32, 32))
    assert size_of(example) == example.truth["labels"].shape == expected


def test_a_mirrored_pair_shows_a_mirrored_space(dataset):
    """The reprojection of mirrored cameras and depth is the mirrored flow."""
    example = open_shards(dataset).val[0]
    other = mirrored(example)
    height, width = size_of(example)
    rows, columns = np.mgrid[:height, :width] + 0.5
    truth = other.truth
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(truth["intrinsics1"]).T
    pose = truth["camera2_from_camera1"]
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    points = (rays * truth["depth_m"][..., None]) @ pose[:3, :3].T + pose[:3, 3]
    pixels = points @ truth["intrinsics2"].T
    flow = pixels[..., :2] / pixels[..., 2:] - np.stack([columns, rows], -1)
    known = np.isfinite(truth["flow"])
    assert known.any()
    np.testing.assert_allclose(flow[known], truth["flow"][known], atol=0.05)
    twice = mirrored(other).truth
    for name, value in example.truth.items():
        np.testing.assert_array_equal(twice[name], value)
