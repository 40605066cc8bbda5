"""Tiles make the whole, and mirror images count like the plain ones."""

import math

import numpy as np
import pytest
import torch

from training.downstream.inference import flipped, starts, tiled


@pytest.fixture(autouse=True)
def _same_images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(100, 32, 0.5), (33, 32, 0.9), (64, 32, 0)]
)
def test_tiles_reach_from_border_to_border_and_overlap_by_their_share(length, tile, overlap):
    found = starts(length, tile, overlap)
    assert found[0] == 0
    assert found[-1] == length - tile
    steps = np.diff(found)
    assert (steps > 0).all()
    assert (steps <= math.ceil(tile * (1 - overlap))).all()
    assert starts(tile, tile, overlap) == [0]


@pytest.mark.parametrize("size", [(32, 48), (33, 32), (71, 50)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_tiles_of_a_local_prediction_are_the_prediction_of_the_whole(size, overlap):
    first, second = torch.rand(2, 2, 3, *size)

    def predict(first, second):
        return torch.cat([first * second - 1, first.exp()], 1)

    found = tiled(predict, [first, second], (32, 24), overlap)
    torch.testing.assert_close(found, predict(first, second))

    def weighted(first, second):
        return predict(first, second), 1000 * second[:, :1] ** 8

    torch.testing.assert_close(tiled(weighted, [first, second], (32, 24), overlap), found)


def test_one_tile_is_the_prediction_itself():
    (images,) = torch.rand(1, 2, 3, 32, 24)
    found = tiled(lambda image: image.flip(-1).bfloat16(), [images], (32, 24), 0.5)
    assert torch.equal(found, images.flip(-1).bfloat16().float())


def test_tiles_are_blended_smoothly():
    def number_of_the_tile(image):
        return (image[:, :1, :1, :1] / 16).expand_as(image[:, :1])

    columns = torch.arange(128.0).expand(1, 3, 32, 128)
    blended = tiled(number_of_the_tile, [columns], (32, 32), 0.5)[0, 0]
    torch.testing.assert_close(blended, blended[:1].expand_as(blended))
    steps = blended[0].diff()
    assert (steps > -1e-5).all()
    assert steps.max() < 0.15
    assert blended[0, 0] == 0
    assert blended[0, -1] == 6


def test_where_tiles_overlap_the_surer_one_counts_more():
    def left_part_is_sure(image):
        column = torch.arange(32.0).expand_as(image[:, :1])
        return column, torch.where(column < 16, 1.0, 1e-6)

    blended = tiled(left_part_is_sure, [torch.zeros(1, 3, 32, 48)], (32, 32), 0.5)[0, 0]
    # Of the left tile's unsure half the right tile is sure; weights alone decide, not the place.
    torch.testing.assert_close(blended[0, 16:32], torch.arange(16.0), atol=1e-4, rtol=0)


def test_a_mirrored_prediction_counts_like_the_plain_one():
    images = torch.rand(2, 3, 8, 10)
    places = torch.linspace(-1, 1, 10)

    def predict(images):  # an error that depends on the place, and a signed x
        return torch.cat([images[:, :1] + places, images[:, 1:2] + places], 1)

    found = flipped(predict, negated=[1])(images)
    torch.testing.assert_close(found[:, :1], images[:, :1])
    torch.testing.assert_close(found[:, 1:], places.expand(2, 1, 8, 10))
    same = flipped(lambda images: images)(images)
    torch.testing.assert_close(same, images)
