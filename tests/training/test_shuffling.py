"""How far an epoch's order is from a true permutation."""

import numpy as np

from training.data import DataConfig
from training.order import describe_shuffling, epoch_order, neighbour_distances

SHARDS = (256,) * 7032  # 1.8 M pairs


def test_neighbours_of_a_permutation_are_a_third_of_it_apart():
    distances = neighbour_distances(epoch_order((100000,), 0, 0, 10**6), (100000,))
    assert len(distances) == 99999
    np.testing.assert_allclose(distances.mean() / 100000, 1 / 3, rtol=0.01)


def test_neighbours_in_reading_order_are_side_by_side():
    sizes = (3, 1, 5)
    distances = neighbour_distances(epoch_order(sizes, 0, 0, 1), sizes)
    assert distances.tolist() == [1] * 6


def test_the_default_window_scatters_each_scene():
    window = DataConfig(path="unused").window
    order = epoch_order(SHARDS, 0, 0, window)
    distances = neighbour_distances(order, SHARDS)
    # within a window two places are uniform: a third apart, and 2 x 256 / window of them close
    np.testing.assert_allclose(distances.mean() / window, 1 / 3, rtol=0.03)
    assert np.mean(distances < 256) < 1.05 * 2 * 256 / window
    shards_of_batches = (order[: len(order) // 256 * 256] // 256).reshape(-1, 256)
    most = [np.bincount(np.unique(batch, return_inverse=True)[1]).max() for batch in
            shards_of_batches[:: len(shards_of_batches) // 500]]  # fmt: skip
    assert max(most) < 20  # of 256 pairs; 64 shards share a window, so 4 on average


def test_the_statistic_is_told_beside_a_true_permutation():
    lines = describe_shuffling((256,) * 400, 16384).splitlines()
    assert lines[0].startswith("window of 16384: neighbours ")
    assert lines[1].startswith("permutation of 102400: neighbours ")
