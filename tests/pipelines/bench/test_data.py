"""The measurement of the data path."""

import numpy as np
import pytest
from synthetic import write_dataset

from generation.errors import CrossviewError
from pipelines.bench.data import bench_data, describe_shuffling, neighbour_distances
from training.data import DataConfig
from training.order import epoch_order

SHARDS = (256,) * 7032  # 1.8 M pairs


@pytest.mark.slow
def test_ours_is_faster_and_a_large_dataset_starts_in_time(tmp_path):
    data = write_dataset(tmp_path, scenes=2, pairs=16, size=256, with_depth=False)
    said = bench_data(data, 64)
    rates = [float(line.split()[-3]) for line in said.splitlines() if line.endswith(" x")]
    assert len(rates) == 2
    (ours,) = [line for line in said.splitlines() if line.startswith("crossview, ")]
    usual, cropping = rates
    # 7 and 2 times on an idle core; this one may be busy, now with the one, then with the other
    assert float(ours.split()[-1]) > 3 * usual
    assert float(ours.split()[-1]) > cropping
    (large,) = [line.split() for line in said.splitlines() if line.startswith("1800192 ")]
    (small,) = [line.split() for line in said.splitlines() if line.lstrip().startswith("2048 ")]
    assert float(large[2]) < 5
    assert 0 < float(large[3]) - float(small[3]) < 100  # MB: an order of 1.8 M, and the entries
    assert "window of 16384: neighbours" in said


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(CrossviewError, match="--num-pairs = 3: expected at least 64"):
        bench_data(None, 3)


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
