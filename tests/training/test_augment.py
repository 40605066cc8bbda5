"""Colour jitter is torchvision's."""

import torch
from torchvision.transforms.v2 import functional

from training.augment import AugmentConfig, Jitter, apply_jitter, draw_jitter

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
