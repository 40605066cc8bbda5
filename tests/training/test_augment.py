"""Warps and colour jitter are torchvision's."""

import numpy as np
import torch
from micro import micro_config
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import InterpolationMode, functional

from training.augment import AugmentConfig, Jitter, apply_jitter, augment, draw_jitter
from training.order import crop_positions
from training.pair_reader import crop_at
from training.trainer import pretrain
from training.warp import draw_warps, perspective, resample, rotation

OPERATIONS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
)


def test_jitter_is_torchvisions_image_by_image():
    images = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    for jitter in draw_jitter(AugmentConfig(), seed=0, step=3, batch_size=3):
        expected = []
        for image, factors in zip(images, jitter.factors):
            for operation in jitter.order:
                image = OPERATIONS[operation](image, float(factors[operation]))
            expected.append(image)
        # torchvision rounds its luma weights differently in versions: 1e-4 each
        torch.testing.assert_close(
            apply_jitter(images, jitter), torch.stack(expected), atol=5e-4, rtol=0
        )


def test_factors_are_uniform_between_their_ends_and_differ_between_views():
    first, second = draw_jitter(AugmentConfig(), 0, 0, 5000)
    for jitter in (first, second):
        assert 0.6 <= jitter.factors.min() < 0.61
        assert 1.39 < jitter.factors.max() <= 1.4
    assert not torch.equal(first.factors, second.factors)


def test_a_spread_of_zero_changes_nothing():
    images = torch.rand(2, 3, 4, 4)
    off = AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0)
    for jitter in draw_jitter(off, 0, 0, 2):
        torch.testing.assert_close(apply_jitter(images.clone(), jitter), images)


def test_a_rank_jitters_its_rows_as_one_process_would():
    images = torch.rand(4, 3, 6, 6)
    jitter: Jitter = draw_jitter(AugmentConfig(), 0, 0, 4)[0]
    whole = apply_jitter(images.clone(), jitter)
    part = apply_jitter(images[2:].clone(), jitter, slice(2, 4))
    torch.testing.assert_close(part, whole[2:])


def smooth_images(count, height, width):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


BILINEAR = InterpolationMode.BILINEAR


def test_a_rotation_is_torchvisions_image_by_image():
    images = smooth_images(3, 40, 40)
    angles = np.array([10.0, -7.0, 90.0])
    maps = torch.from_numpy(rotation(angles, 40, 40).astype(np.float32))
    expected = [
        functional.rotate(image, float(angle), interpolation=BILINEAR)
        for image, angle in zip(images, angles)
    ]
    inside = (..., slice(8, -8), slice(8, -8))  # torchvision fills its borders otherwise
    torch.testing.assert_close(
        resample(images, maps, 40)[inside], torch.stack(expected)[inside], atol=1e-4, rtol=0
    )


def test_a_homography_is_torchvisions_image_by_image():
    height, width = 36, 48
    images = smooth_images(3, height, width)
    moves = np.random.default_rng(0).uniform(0, 0.25, (3, 4, 2))
    moves = np.round(moves * (width, height)) / (width, height)  # torchvision moves whole pixels
    expected = []
    for image, move in zip(images, moves):
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * move * (width, height)
        start = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        warped = functional.perspective(
            image, start.tolist(), (start + inwards).round().astype(int).tolist(), BILINEAR
        )
        expected.append(warped[:, :36, :36])
    maps = torch.from_numpy(perspective(moves, height, width).astype(np.float32))
    difference = (resample(images, maps, 36) - torch.stack(expected)).abs()
    assert difference.mean() < 2e-3
    assert difference.quantile(0.97) < 5e-3  # the rest is the border


def test_a_warp_without_bending_is_the_loaders_crop():
    images = torch.rand(4, 3, 36, 40)
    (warp, _) = draw_warps(0.0, 0.0, seed=1, step=2, batch_size=4)
    got = resample(images, warp.maps(slice(None), (36, 40), 32), 32)
    for row in range(4):
        whole = images[row].permute(1, 2, 0).numpy()
        expected = crop_at(whole, 32, crop_positions(1, 2, 4)[row, 0])
        np.testing.assert_allclose(got[row].permute(1, 2, 0), expected, atol=1e-4)


def test_one_warp_is_homography_then_rotation_then_crop():
    images = smooth_images(2, 64, 64)
    warp = draw_warps(0.3, 20.0, seed=0, step=0, batch_size=2)[0]
    maps = [
        torch.from_numpy(m.astype(np.float32))
        for m in (perspective(warp.moves, 64, 64), rotation(warp.turns_deg, 64, 64))
    ]
    chained = resample(resample(images, maps[0], 64), maps[1], 64)
    corners = (warp.places * (64 - 48 + 1)).astype(int)
    expected = torch.stack(
        [image[:, i : i + 48, j : j + 48] for image, (i, j) in zip(chained, corners)]
    )
    got = resample(images, warp.maps(slice(None), (64, 64), 48), 48)
    assert (got - expected).abs().mean() < 5e-3


def test_warps_are_uniform_between_their_ends_and_differ_between_views():
    first, second = draw_warps(0.5, 10.0, 0, 0, 4000)
    for warp in (first, second):
        assert 0 <= warp.moves.min() < 0.001
        assert 0.249 < warp.moves.max() <= 0.25
        assert -10 <= warp.turns_deg.min() < -9.9
        assert 9.9 < warp.turns_deg.max() <= 10
    assert not np.array_equal(first.moves, second.moves)


def test_a_rank_warps_its_rows_as_one_process_would():
    config = AugmentConfig(homography=0.5, rotation_deg=10.0)
    jitter = draw_jitter(config, 0, 0, 4)[0]
    images = torch.rand(4, 3, 36, 36)
    whole = augment(images.clone(), jitter, slice(None), 32)
    assert whole.shape == (4, 3, 32, 32)
    torch.testing.assert_close(augment(images[2:].clone(), jitter, slice(2, 4), 32), whole[2:])


def test_a_run_with_warps_trains(dataset, tmp_path):
    config = micro_config(dataset, augment={"homography": 0.5, "rotation_deg": 10.0})
    assert pretrain(config, tmp_path).metrics["step"] == 8
