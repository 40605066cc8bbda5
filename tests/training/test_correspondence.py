"""True patches and their scores, in closed form on planes."""

import numpy as np
import pytest
import torch
from synthetic import plane_pair, view_of

from generation.shards.cameras import cameras_of
from training.correspondence import geometry_counts, geometry_metrics, true_places
from training.pair_reader import centre_crop, centre_cropped


def plane_truth(shift_px, size=64, patch_size=8):
    _, _, depth, meta = plane_pair(np.random.default_rng(0), size, shift_px)
    view1, view2 = (view_of(camera, depth) for camera in cameras_of(meta))
    return true_places(view1, view2, patch_size).reshape(8, 8, 2)


GRID = np.stack(np.mgrid[:8, :8], -1).astype(float)


@pytest.mark.parametrize("shift_px", [0, 4, 8, 24])
def test_a_shifted_plane_shifts_the_true_places(shift_px):
    truth = plane_truth(shift_px)
    gone = (shift_px + 3) // 8  # columns whose middle pixel leaves the image
    expected = GRID - [0, shift_px / 8]
    np.testing.assert_allclose(truth[:, gone:], expected[:, gone:], atol=1e-5)
    assert np.isnan(truth[:, :gone]).all()


def test_a_centre_crop_leaves_correspondences_alone():
    _, _, depth, meta = plane_pair(np.random.default_rng(0), 80, 16)
    view1, view2 = (
        view_of(centre_cropped(camera, 64), centre_crop(depth, 64)) for camera in cameras_of(meta)
    )
    truth = true_places(view1, view2, 8).reshape(8, 8, 2)
    np.testing.assert_allclose(truth, plane_truth(16), atol=1e-5)
    image = np.arange(80 * 80).reshape(80, 80)
    assert np.array_equal(centre_crop(image, 64), image[8:72, 8:72])


def test_nothing_hit_occluded_and_behind_are_not_seen():
    _, _, depth, meta = plane_pair(np.random.default_rng(0), 64, 0)
    camera1, camera2 = cameras_of(meta)
    occluder, missing = depth.copy(), depth.copy()
    occluder[:, :32] = 1.0
    missing[:32] = 0
    truth = true_places(view_of(camera1, missing), view_of(camera2, occluder), 8).reshape(8, 8, 2)
    assert np.isnan(truth[:4]).all()
    assert np.isnan(truth[:, :4]).all()
    np.testing.assert_allclose(truth[4:, 4:], GRID[4:, 4:], atol=1e-5)
    turned = np.array(meta["world_from_camera2"])
    turned[[0, 2], [0, 2]] = -1  # looks the other way
    behind, _ = cameras_of({**meta, "world_from_camera1": turned.tolist()})
    assert np.isnan(true_places(view_of(camera1, depth), view_of(behind, depth), 8)).all()


def test_depth_may_disagree_by_one_percent():
    _, _, depth, meta = plane_pair(np.random.default_rng(0), 64, 0)
    camera1, camera2 = cameras_of(meta)
    near, far = (view_of(camera2, depth + more) for more in (0.019, 0.021))
    assert np.isfinite(true_places(view_of(camera1, depth), near, 8)).all()
    assert np.isnan(true_places(view_of(camera1, depth), far, 8)).all()


def scores(best_of, shift_px):
    """Score the attention whose best patch best_of says, given (64, 2) true places."""
    truth = torch.from_numpy(plane_truth(shift_px).reshape(1, 64, 2))
    mask = torch.ones(1, 64, dtype=torch.bool)
    mask[:, ::7] = False
    attention = torch.zeros(1, 64, 64)
    attention[0, torch.arange(64), best_of(truth[0].nan_to_num())] = 1
    return geometry_metrics(geometry_counts(attention, truth, mask)), truth, mask


def oracle(truth):
    row, column = truth.round().long().unbind(1)
    return row * 8 + column


def test_an_oracle_finds_every_patch():
    for shift_px in (0, 3, 8, 24):
        metrics, _, _ = scores(oracle, shift_px)
        assert metrics["geometry_all"] == 1
        assert metrics.get("geometry_moved", 1) == 1


def test_the_same_position_finds_no_patch_that_moved():
    for shift_px in (9, 24):
        metrics, truth, mask = scores(lambda truth: torch.arange(64), shift_px)
        seen = mask & truth.isfinite().all(-1)
        assert metrics["geometry_moved_patches"] == int(seen.sum())
        assert metrics["geometry_moved"] == metrics["geometry_moved_same_position"] == 0
    still, _, _ = scores(lambda truth: torch.arange(64), 8)
    assert still["geometry_all"] == still["geometry_all_same_position"] == 1
    assert still["geometry_moved_patches"] == 0
    assert "geometry_moved" not in still


def test_the_random_baseline_is_the_exact_share_of_near_patches():
    for shift_px in (11, 24):
        metrics, truth, mask = scores(oracle, shift_px)
        expected = [
            np.mean(np.abs(GRID.reshape(64, 2) - place).max(1) <= 1.0001)
            for place in truth[mask & truth.isfinite().all(-1)].numpy()
        ]
        assert metrics["geometry_moved_random"] == pytest.approx(np.mean(expected))


def test_visible_and_unseen_patches_do_not_count():
    truth = torch.full((1, 64, 2), torch.nan)
    truth[0, :4] = torch.tensor([0.0, 3.0])
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, 2:] = True
    metrics = geometry_metrics(geometry_counts(torch.rand(1, 64, 64), truth, mask))
    assert metrics["geometry_all_patches"] == 2
