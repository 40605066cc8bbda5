"""Losses by hand, by torch where it has them, by their gradients, and where they are least."""

import math

import numpy as np
import pytest
import torch
from host import FromHost, pretended_gpu
from torch.nn import functional

from generation.geometry import rotation_about_axis
from training.downstream.losses import (
    berhu_loss,
    bounded_log_scale,
    cross_entropy,
    l1_loss,
    laplacian_loss,
    matching_loss,
    normal_loss,
    pointmap_loss,
    rotation_loss,
    translation_loss,
)

NAN = float("nan")


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 + 0.5


def rotations(*angles_rad, axis=2):
    base = rotation_about_axis(0, 0.4) @ rotation_about_axis(1, 2.0)
    turned = [base @ rotation_about_axis(axis, angle) for angle in angles_rad]
    return torch.from_numpy(np.stack(turned)).float()


# What is unknown, in all losses of maps: (B, C, H, W), of which the right half of the columns is
# unknown. The same loss of the left half alone is what it should be.

MAPS = {
    "l1": (lambda p, t: l1_loss(p, t), 2),
    "berhu": (lambda p, t: berhu_loss(p, t), 1),
    "normal": (lambda p, t: normal_loss(p, t), 3),
    "flow": (lambda p, t: laplacian_loss(p[:, :2], p[:, 2], t[:, :2]), 3),
    "disparity": (lambda p, t: laplacian_loss(p[:, :1], p[:, 1], t[:, :1]), 2),
    "pointmap": (lambda p, t: pointmap_loss(points(p), p[:, ::4], points(t)), 8),
    "rotation": (lambda p, t: rotation_loss(matrices(p), matrices(t)), 9),
    "translation": (lambda p, t: translation_loss(vectors(p), vectors(t)), 3),
    "cross_entropy": (lambda p, t: cross_entropy(p, labels(t)), 5),
    "matching": (
        lambda p, t: matching_loss(vectors(p)[None], vectors(p.flip(1))[None], known(t)), 6,
    ),
}  # fmt: skip
maps = pytest.mark.parametrize(("loss", "channels"), MAPS.values(), ids=MAPS)


def points(values):
    """Make (B, 2, H, W, 3) of the (B, 8, H, W) channels: 0 and 4 are for confidence."""
    return values.unflatten(1, (2, 4))[:, :, 1:].permute(0, 1, 3, 4, 2)


def vectors(values):
    return values.permute(0, 2, 3, 1).flatten(0, 2)


def matrices(values):
    return vectors(values).unflatten(1, (3, 3))


def labels(truth):
    first = truth[:, 0]
    return torch.where(first.isfinite(), first.nan_to_num(), -1).long()


def known(truth):
    return vectors(truth)[None, :, 0].isfinite()


@maps
@pytest.mark.parametrize("unknown", [NAN, math.inf])
def test_unknown_pixels_have_no_influence_and_no_gradient(loss, channels, unknown):
    predicted = random(2, channels, 3, 8)
    predicted[..., 4:] = torch.tensor([0.0, NAN, math.inf, -1e30])
    predicted.requires_grad_()
    truth = random(2, channels, 3, 8, seed=1)
    truth[..., 4:] = unknown
    left = predicted.detach()[..., :4].requires_grad_()

    value, expected = loss(predicted, truth), loss(left, truth[..., :4])
    value.backward()
    expected.backward()
    assert expected.abs() > 1e-3
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(predicted.grad[..., :4], left.grad)
    assert left.grad.abs().max() > 0
    assert (predicted.grad[..., 4:] == 0).all()


@maps
def test_a_batch_of_which_nothing_is_known_has_no_loss_and_no_gradient(loss, channels):
    predicted = random(2, channels, 3, 8).requires_grad_()
    value = loss(predicted, torch.full((2, channels, 3, 8), NAN))
    value.backward()
    assert value == 0
    assert (predicted.grad == 0).all()


@maps
def test_a_loss_takes_nothing_from_the_host(loss, channels):
    with pretended_gpu() as gpu, FromHost() as host:
        loss(*torch.empty(2, 2, channels, 3, 8, device=gpu))
    assert host.found == []


@maps
def test_predictions_in_bfloat16_give_a_loss_in_float32(loss, channels):
    predicted, truth = random(2, channels, 3, 8), random(2, channels, 3, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(predicted.bfloat16(), truth)
    assert value.dtype == torch.float32
    # As exact as the prediction: nothing after it is rounded again.
    torch.testing.assert_close(value, loss(predicted.bfloat16().float(), truth))


# Dense regression


def test_l1_is_torchs():
    predicted, truth = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    torch.testing.assert_close(l1_loss(predicted, truth), functional.l1_loss(predicted, truth))


def test_berhu_by_hand():
    # the largest error is 10, so the limit is 2
    predicted, truth = torch.tensor([1.0, 2.0, 4.0, -10.0, 5.0]), torch.tensor([0.0] * 4 + [NAN])
    expected = (1 + 2 + (16 + 4) / 4 + (100 + 4) / 4) / 4
    torch.testing.assert_close(berhu_loss(predicted, truth), torch.tensor(expected))


def test_the_limit_of_berhu_is_a_constant_to_the_gradient():
    predicted = torch.tensor([1.0, 2.0, 4.0, -10.0], requires_grad=True)
    berhu_loss(predicted, torch.zeros(4)).backward()  # of e^2 / 4 + 1 above 2
    torch.testing.assert_close(predicted.grad * 4, torch.tensor([1.0, 1, 2, -5]))


def test_berhu_of_a_perfect_prediction_is_zero_with_a_finite_gradient():
    predicted = torch.ones(5, requires_grad=True)
    value = berhu_loss(predicted, torch.ones(5))
    value.backward()
    assert value == 0
    assert predicted.grad.isfinite().all()


def test_the_normal_loss_is_one_minus_the_cosine():
    angles = torch.tensor([0.0, math.pi / 3, math.pi / 2, math.pi])
    predicted = 7 * torch.stack([angles.sin(), 0 * angles, angles.cos()])[None, :, None]
    truth = torch.tensor([0.0, 0, 2]).view(1, 3, 1, 1).repeat(1, 1, 1, 4)
    losses = [normal_loss(predicted[..., i : i + 1], truth[..., :1]).item() for i in range(4)]
    assert losses == pytest.approx([0, 0.5, 1, 2], abs=1e-6)
    truth[..., 3] = 0  # no direction
    assert normal_loss(predicted, truth) == pytest.approx(0.5)


def test_the_gradient_of_normals_of_length_zero_is_of_a_sane_size():
    predicted = torch.zeros(1, 3, 1, 1, requires_grad=True)
    normal_loss(predicted, torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1)).backward()
    torch.testing.assert_close(predicted.grad.flatten(), torch.tensor([0.0, 0, -100]))


def test_the_laplacian_loss_by_hand():
    predicted, truth = torch.zeros(1, 2, 1, 2), torch.tensor([[[[3.0, 1]], [[-4.0, NAN]]]])
    raw = torch.tensor([[[2.0, 50.0]]])
    scale = 3 * math.tanh(2 / 6)
    expected = 7 / math.exp(scale) + scale
    assert laplacian_loss(predicted, raw, truth) == pytest.approx(expected, rel=1e-6)


def test_the_log_scale_is_bounded():
    raw = torch.tensor([-1e9, -1e-3, 0.0, 1e-3, 1e9])
    expected = torch.tensor([-3, -5e-4, 0, 5e-4, 3])
    torch.testing.assert_close(bounded_log_scale(raw), expected)
    two_sigmoids = 2 * 3 * (torch.sigmoid(raw / 3) - 0.5)  # the form in which it was published
    torch.testing.assert_close(bounded_log_scale(raw), two_sigmoids)


@pytest.mark.parametrize(
    ("size", "best"), [(1.0, 1.0), (5.0, 5.0), (1e3, math.e**3), (0, math.e**-3)]
)
def test_the_best_laplacian_scale_is_the_mean_error_within_its_bounds(size, best):
    truth = size * torch.tensor([0.5, 1.5, 1.0, 1.0]).view(1, 1, 2, 2)  # errors, their mean is size
    raw = torch.linspace(-40, 40, 8001)
    losses = torch.stack(
        [laplacian_loss(torch.zeros_like(truth), r.expand(1, 2, 2), truth) for r in raw[::8]]
    )
    found = bounded_log_scale(raw[::8][losses.argmin()]).exp()
    assert float(found) == pytest.approx(best, rel=0.02)


# Labels


def test_cross_entropy_is_torchs_where_labels_are_known():
    logits = random(2, 5, 3, 4)
    truth = torch.randint(-1, 5, (2, 3, 4), generator=torch.Generator().manual_seed(2))
    assert (truth == -1).any()
    expected = functional.cross_entropy(logits, truth, ignore_index=-1)
    torch.testing.assert_close(cross_entropy(logits, truth), expected)
    image = cross_entropy(logits[..., 0, 0], truth[:, 0, 0].clamp(min=0))  # (B, C), (B,)
    expected = functional.cross_entropy(logits[..., 0, 0], truth[:, 0, 0].clamp(min=0))
    torch.testing.assert_close(image, expected)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[math.log(3), 0.0], [9.0, 9.0]])
    assert cross_entropy(logits, torch.tensor([0, -1])) == pytest.approx(-math.log(0.75))


# Pose


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0, 1e-4, 0.01, 1.0, 3.0, 3.1415, math.pi])
def test_the_rotation_loss_is_the_angle(angle, axis):
    value = rotation_loss(rotations(angle, axis=axis), rotations(0.0, axis=axis))
    assert value == pytest.approx(angle, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("angle", [0, 1e-7, 1e-4, 1.0, math.pi - 1e-4, math.pi - 1e-7, math.pi])
def test_the_gradient_of_a_rotation_is_bounded_at_every_angle(angle):
    truth = rotations(0.0)
    predicted = rotations(angle).requires_grad_()
    rotation_loss(predicted, truth).backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad.norm() < 1.5
    same = truth.clone().requires_grad_()
    rotation_loss(same, truth).backward()
    assert same.grad.isfinite().all()


def test_descending_the_rotation_loss_finds_the_rotation():
    angle = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.SGD([angle], lr=0.05)
    for _ in range(100):
        cos, sin = angle.cos(), angle.sin()
        predicted = torch.stack([cos, -sin, 0 * sin, sin, cos, 0 * sin, *torch.tensor([0.0, 0, 1])])
        loss = rotation_loss(predicted.view(1, 3, 3), torch.eye(3)[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(angle.item()) < 0.06


def test_the_translation_loss_by_hand():
    predicted = torch.tensor([[0.03, 0.04, 0], [3.0, 0, 4.0], [1, 1, 1]])
    truth = torch.tensor([[0.0, 0, 0], [0, 0, 0], [NAN, 0, 0]])  # 0.05 m, 5 m, unknown
    expected = (0.05**2 / 0.2 + 5 - 0.05) / 2
    assert translation_loss(predicted, truth) == pytest.approx(expected)


def test_the_translation_loss_does_not_change_with_the_axes():
    predicted, truth = random(5, 3), random(5, 3, seed=1)
    turn = rotations(0.7)[0]
    turned = translation_loss(predicted @ turn.T, truth @ turn.T)
    torch.testing.assert_close(turned, translation_loss(predicted, truth))


# Pointmaps and descriptors


def test_the_pointmap_loss_by_hand():
    truth = torch.tensor([[0.0, 0, 1], [0, 0, 3], [NAN, NAN, NAN], [0, 3, 4]]).view(1, 2, 1, 2, 3)
    predicted = torch.tensor([[0.0, 0, 2], [0, 0, 2], [9, 9, 9], [0, 0, 2]]).view(1, 2, 1, 2, 3)
    raw = torch.tensor([[[[0.0, 1.0]], [[5.0, -1.0]]]])
    # the mean distance is (1 + 3 + 5) / 3 = 3
    t = np.array([[0, 0, 1 / 3], [0, 0, 1], [0, 1, 4 / 3]])
    confidence = 1 + np.exp([0, 1, -1])
    distances = np.linalg.norm([0, 0, 2 / 3] - t, axis=1)
    expected = np.mean(confidence * distances - 0.2 * np.log(confidence))
    assert pointmap_loss(predicted, raw, truth) == pytest.approx(expected, rel=1e-5)


def test_the_scale_of_a_pointmap_is_learnt_and_that_of_the_truth_is_not():
    truth = random(2, 2, 3, 4, 3)
    raw = torch.zeros(2, 2, 3, 4)
    scales = torch.tensor([0.3, 8]).view(2, 1, 1, 1, 1)  # each pair has its own
    perfect = -0.2 * math.log(2)
    far = truth * scales
    assert pointmap_loss(truth, raw, truth) == pytest.approx(perfect, abs=1e-5)
    assert pointmap_loss(far, raw, truth) > 1
    of_far = pointmap_loss(far * 1.5, raw, far)
    torch.testing.assert_close(of_far, pointmap_loss(truth * 1.5, raw, truth))
    # one scale for both views: it cannot hide that one is closer
    views = truth * torch.tensor([1.0, 2]).view(1, 2, 1, 1, 1)
    assert pointmap_loss(views, raw, truth) > perfect + 0.1
    assert pointmap_loss(truth, raw, views) > perfect + 0.1


def test_the_best_confidence_is_alpha_over_the_distance_and_at_least_one():
    truth = torch.tensor([[0.0, 0, 1], [0, 0, 1]]).view(1, 2, 1, 1, 3)
    for offset, best in ((0.05, 4.0), (0.5, 1.0)):  # conf * d - 0.2 log conf is least at 0.2 / d
        turned = torch.tensor(
            [[0.0, math.sin(a), math.cos(a)] for a in [2 * math.asin(offset / 2)] * 2]
        )
        raw = torch.linspace(-12, 5, 2001)
        losses = torch.stack(
            [pointmap_loss(turned.view_as(truth), r.expand(1, 2, 1, 1), truth) for r in raw]
        )
        assert 1 + raw[losses.argmin()].exp().item() == pytest.approx(best, rel=0.02)


def test_a_pointmap_of_zeros_has_a_finite_gradient():
    predicted = torch.zeros(1, 2, 3, 4, 3, requires_grad=True)
    pointmap_loss(predicted, torch.zeros(1, 2, 3, 4), random(1, 2, 3, 4, 3)).backward()
    assert predicted.grad.isfinite().all()


def test_the_matching_loss_is_that_of_a_slow_reference():
    first, second = random(2, 6, 4).sub(2.5), random(2, 6, 4, seed=1).sub(2.5)
    seen = torch.tensor([[True] * 6, [True, False, True, True, False, True]])
    losses = []
    for b in range(2):
        rows = [k for k in range(6) if seen[b, k]]
        for x, y in ((first[b], second[b]), (second[b], first[b])):
            for k in rows:
                cosines = [float(functional.cosine_similarity(x[k], y[j], dim=0)) for j in rows]
                own = math.exp(cosines[rows.index(k)] / 0.07)
                losses.append(-math.log(own / sum(math.exp(c / 0.07) for c in cosines)))
    value = matching_loss(first, second, seen)
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    torch.testing.assert_close(matching_loss(second, first, seen), value)
    torch.testing.assert_close(matching_loss(first * 9, second * 0.1, seen), value)


def test_the_matching_loss_is_least_for_descriptors_that_tell_places_apart():
    seen = torch.ones(1, 8, dtype=torch.bool)
    alike = torch.ones(1, 8, 8)
    apart = torch.eye(8)[None]
    assert matching_loss(alike, alike, seen) == pytest.approx(math.log(8))
    assert matching_loss(apart, apart, seen) < 1e-4
    assert matching_loss(apart, apart.roll(1, 1), seen) > 10
    one = torch.zeros(1, 8, dtype=torch.bool)
    one[0, 3] = True
    assert matching_loss(apart, alike, one) == pytest.approx(0, abs=1e-6)  # no other to confuse
