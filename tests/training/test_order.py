"""Order, masks and crops are pure functions of seed and step."""

import numpy as np
import pytest

from generation.errors import CrossviewError
from training.loader import Requests
from training.optim import MaskConfig, num_masked
from training.order import (
    Schedule,
    Share,
    crop_positions,
    epoch_order,
    random_masks,
    rank_part,
    validation_masks,
)
from training.pair_reader import crop_at

SIZES = (5, 9, 1, 20)


@pytest.mark.parametrize("window", [1, 7, 35, 16384])
def test_epoch_order_is_a_permutation(window):
    order = epoch_order(SIZES, seed=3, epoch=1, window=window)
    assert sorted(order) == list(range(35))


def test_epoch_order_is_a_pure_function_of_its_arguments():
    first = epoch_order(SIZES, 0, 0, 8)
    np.random.seed(5)  # noqa: NPY002
    assert np.array_equal(first, epoch_order(SIZES, 0, 0, 8))
    assert not np.array_equal(first, epoch_order(SIZES, 0, 1, 8))
    assert not np.array_equal(first, epoch_order(SIZES, 1, 0, 8))


def test_a_window_touches_few_shards():
    sizes = (100,) * 50
    order = epoch_order(sizes, 0, 0, window=200)
    for start in range(0, 5000, 200):
        assert len(set(order[start : start + 200] // 100)) == 2


def test_a_large_window_puts_every_sample_everywhere():
    means = np.mean([np.argsort(epoch_order((4, 4), 0, e, 100)) for e in range(2000)], 0)
    np.testing.assert_allclose(means, 3.5, atol=0.2)


def schedule(batch_size=8):
    return Schedule(shares=(Share(shard_sizes=SIZES),), batch_size=batch_size, seed=0, window=100)


def test_ranks_together_work_on_the_batches_of_one_process():
    alone = list(Requests(schedule(), 0, 9, rank=0, world_size=1))
    parts = [list(Requests(schedule(), 0, 9, rank, 4)) for rank in range(4)]
    for step, whole in enumerate(alone):
        for field in range(2):
            joined = np.concatenate([part[step][field] for part in parts])
            assert np.array_equal(joined, whole[field])


def test_requests_can_start_at_any_step():
    every = list(Requests(schedule(), 0, 11, 0, 1))
    for first in (1, 4, 5, 10):
        later = list(Requests(schedule(), first, 11, 0, 1))
        assert len(later) == 11 - first
        for one, other in zip(every[first:], later):
            assert np.array_equal(one.samples, other.samples)
            assert np.array_equal(one.crops, other.crops)


@pytest.mark.parametrize("batch_size", [1, 8, 12, 35])
def test_an_epoch_visits_every_sample_once_and_its_last_batch_goes_on_with_the_next(batch_size):
    num_steps = 3 * 35 // batch_size + 1
    requests = Requests(schedule(batch_size), 0, num_steps, 0, 1)
    visits = np.concatenate([request.samples for request in requests])
    assert all(len(request.samples) == batch_size for request in requests)
    for epoch in range(3):
        assert sorted(visits[35 * epoch : 35 * (epoch + 1)]) == list(range(35))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [7, 8, 35])
def test_ranks_cut_a_batch_evenly_to_a_row(rows, ranks):
    parts = [rank_part(rows, rank, ranks) for rank in range(ranks)]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("batch_size", [5, 7, 12])
@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_run_resumed_on_other_ranks_sees_the_rest_of_the_epoch(before, after, batch_size):
    num_steps, stopped_at = -(-35 // batch_size), 2  # to the end of an epoch, or into the next

    def seen(first, last, ranks):
        """Sample ids, step after step."""
        parts = [
            list(Requests(schedule(batch_size), first, num_steps, rank, ranks))
            for rank in range(ranks)
        ]
        return [part[step].samples for step in range(last - first) for part in parts]

    earlier = np.concatenate(seen(0, stopped_at, before))
    later = np.concatenate(seen(stopped_at, num_steps, after))
    rest = later[: 35 - len(earlier)]
    assert sorted(rest) == sorted(set(range(35)) - set(earlier))
    assert len(earlier) == stopped_at * batch_size


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(CrossviewError, match=r"optim.batch_size = 36, .* hold only 35 pairs"):
        schedule(36)


def test_masks_hide_exactly_as_many_patches_everywhere_equally():
    masks = random_masks(0, 7, 4000, 16, 14)
    assert (masks.sum(1) == 14).all()
    np.testing.assert_allclose(masks.mean(0), 14 / 16, atol=0.03)
    assert np.array_equal(masks, random_masks(0, 7, 4000, 16, 14))
    assert not np.array_equal(masks, random_masks(0, 8, 4000, 16, 14))
    assert np.array_equal(masks[5:9], random_masks(0, 7, 4000, 16, 14, slice(5, 9)))
    assert (validation_masks(5, 64, 57).sum(1) == 57).all()


def test_published_mask_hides_176_of_196():
    assert num_masked(0.9, 196) == 176


def test_mask_ratio_rises_linearly_between_its_ends():
    mask = MaskConfig(ratio=0.9, ratio_start=0.5, rise_from=0.25, rise_to=0.75)
    ratios = [mask.ratio_at(step, 100) for step in (0, 25, 50, 75, 99)]
    np.testing.assert_allclose(ratios, [0.5, 0.5, 0.7, 0.9, 0.9])
    assert MaskConfig().ratio_at(0, 100) == 0.9
    step = MaskConfig(ratio_start=0.5, rise_from=0.5, rise_to=0.5)
    assert [step.ratio_at(i, 10) for i in (4, 5)] == [0.5, 0.9]


def test_crops_reach_every_place_equally_and_views_differ():
    image = np.arange(6 * 8).reshape(6, 8, 1).repeat(3, 2).astype(np.uint8)
    positions = crop_positions(0, 0, 4000)
    corners = [crop_at(image, 5, p)[0, 0, 0] for p in positions[:, 0]]
    places, counts = np.unique(corners, return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert counts.min() > 400
    assert not np.allclose(positions[:, 0], positions[:, 1])
    assert crop_at(image[:5, :5], 5, positions[0, 0]).shape == (5, 5, 3)
