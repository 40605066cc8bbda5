"""Heads: shapes at any grid, and the known cases of what they compute."""

import math

import numpy as np
import pytest
import torch
from host import FromHost, pretended_gpu
from scipy.spatial.transform import Rotation
from torch import nn

from generation.errors import CrossviewError
from training.downstream.dpt import DPT, as_map
from training.downstream.heads import (
    LinearHead,
    PatchHead,
    PoseHead,
    SegmentationHead,
    nearest_rotation,
    points_and_confidence,
)
from training.losses import unpatchify


def random_tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


IMAGE_HEADS = {
    "dpt": lambda patch: DPT([12, 12, 8, 8], 5, patch, width=16),
    "patch": lambda patch: PatchHead(8, 5, patch),
    "segmentation": lambda patch: SegmentationHead(8, 5, patch, width=8),
}


@pytest.mark.parametrize("head", IMAGE_HEADS)
@pytest.mark.parametrize("patch_size", [6, 8, 16])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 7)])
def test_an_image_head_gives_each_pixel_of_any_grid_its_channels(head, patch_size, grid):
    network = IMAGE_HEADS[head](patch_size)
    num = grid[0] * grid[1]
    tokens = [random_tokens(2, num, dim) for dim in (12, 12, 8, 8)]
    size = grid[0] * patch_size, grid[1] * patch_size
    output = network(tokens, size)
    assert output.shape == (2, 5, *size)
    output.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_published_dpt_has_its_strides_and_widths():
    head = DPT([24] * 4, 1, 16)
    maps = []
    for align in head.alignments:
        align.register_forward_hook(lambda part, inputs, output: maps.append(inputs[0].shape[1:]))
    with torch.no_grad():
        head([random_tokens(1, 16, 24)] * 4, (64, 64))
    assert maps == [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]
    assert head.reduce.in_channels == 256
    assert [part.out_channels for part in head.output if isinstance(part, nn.Conv2d)] == [32, 1]


def test_dpt_takes_part_of_every_block_and_keeps_the_place_of_each_patch():
    head = DPT([8] * 4, 1, 8, width=16).eval()
    tokens = [random_tokens(1, 16 * 16, 8, seed=seed) for seed in range(4)]
    with torch.no_grad():
        before = head(tokens, (128, 128))
        for block in range(4):
            others = list(tokens)
            others[block] = tokens[block].clone()
            others[block][0, 0] += 1  # the patch at the top left
            change = (head(others, (128, 128)) - before).abs()[0, 0]
            assert change[:8, :8].max() > 0
            assert change[:8, :8].mean() > 100 * change[-32:, -32:].mean()


def test_a_patch_head_lays_out_each_patch_at_its_place():
    head = PatchHead(3 * 16, 3, 4)
    patches = random_tokens(2, 9, 4 * 4 * 3)  # row, column, channel
    channels_first = patches.unflatten(2, (16, 3)).transpose(2, 3).flatten(2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(48))
        head.linear.bias.zero_()
        output = head([channels_first], (12, 12))
    assert torch.equal(output, unpatchify(patches, 4, output.shape[-2:]))


def test_tokens_are_laid_out_row_by_row():
    tokens = torch.arange(6.0).view(1, 6, 1)
    assert as_map(tokens, (2, 3)).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_a_linear_classifier_sees_the_mean_token_at_unit_variance():
    head = LinearHead(4, 3).train()
    tokens = random_tokens(64, 5, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 7
    logits = head(tokens)
    mean = tokens.mean(1)
    unit = (mean - mean.mean(0)) / mean.std(0, correction=0)
    torch.testing.assert_close(logits, unit @ head.linear.weight.T, atol=1e-4, rtol=1e-3)
    assert head(tokens).shape == (64, 3)
    assert not list(head.norm.parameters())
    with pytest.raises(CrossviewError, match="batch_size = 1"):
        head(tokens[:1])
    assert head.eval()(tokens[:1]).shape == (1, 3)


def rotations(number):
    matrices = Rotation.random(number, random_state=np.random.RandomState(0)).as_matrix()
    return torch.from_numpy(matrices)


def test_the_nearest_rotation_of_a_rotation_is_itself():
    matrices = rotations(16)
    torch.testing.assert_close(nearest_rotation(matrices), matrices)
    torch.testing.assert_close(nearest_rotation(3 * matrices), matrices)


def test_the_nearest_rotation_is_nearer_than_all_others_even_to_a_mirror():
    matrices = random_tokens(32, 3, 3).double()
    assert (torch.det(matrices) < 0).any()
    found = nearest_rotation(matrices)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).double().expand(32, 3, 3))
    torch.testing.assert_close(torch.det(found), torch.ones(32).double())
    others = rotations(500)
    distance = (matrices - found).flatten(1).norm(dim=1)
    assert (distance <= (matrices.unsqueeze(1) - others).flatten(2).norm(dim=2).min(1)[0]).all()


def test_gradients_of_the_nearest_rotation_are_right_where_torchs_are_not_finite():
    rough = random_tokens(8, 3, 3).double()
    for matrices in (rough, rotations(8), torch.eye(3).double().unsqueeze(0)):
        assert torch.autograd.gradcheck(nearest_rotation, matrices.requires_grad_())
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0])).unsqueeze(0)
    for matrices in (torch.zeros(1, 3, 3), mirror):
        matrices.requires_grad_()
        nearest_rotation(matrices)[0, 0, 1].backward()
        assert matrices.grad.isfinite().all()


def test_a_pose_that_is_not_finite_stays_so():
    assert nearest_rotation(torch.full((1, 3, 3), math.nan)).isnan().all()
    assert nearest_rotation(torch.full((1, 3, 3), math.inf)).isnan().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_pose_is_a_rigid_transform_in_any_precision(precision):
    head = PoseHead((8, 4), 6, width=16)
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        poses = head([random_tokens(5, 6, 8), random_tokens(5, 6, 4)])
    assert poses.shape == (5, 4, 4)
    assert poses.dtype == torch.float32
    rotation = poses[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3))
    assert poses[:, 3].tolist() == [[0, 0, 0, 1]] * 5
    poses.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_pose_takes_nothing_from_the_host():
    with pretended_gpu() as gpu:
        with gpu:
            head, tokens = PoseHead((8,), 6, width=16), torch.empty(5, 6, 8)
        with FromHost() as host:
            head([tokens])
    assert host.found == []


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_large_values_are_not_rounded_under_autocast(head):
    """In bfloat16 all disparities near 150 pixels would be 150."""
    tokens = [random_tokens(1, 16, 8)] * 4
    network = DPT((8,) * 4, 1, 4, width=16) if head == "dpt" else PatchHead(8, 1, 4)
    last = network.output[-1] if head == "dpt" else network.linear
    torch.nn.init.constant_(last.bias, 150.0)
    with torch.autocast("cpu", torch.bfloat16):
        values = network(tokens, (16, 16))
    assert values.dtype == torch.float32
    assert len(values[(values - 150).abs() < 0.5].unique()) > 50


def test_a_pose_head_learns_poses():
    head = PoseHead((8,), 4, width=32)
    tokens = random_tokens(8, 4, 8)
    wanted = torch.eye(4).repeat(8, 1, 1)
    wanted[:, :3, :3] = rotations(8).float()
    wanted[:, :3, 3] = random_tokens(8, 3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (head([tokens]) - wanted).square().sum((1, 2)).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_a_pose_depends_on_where_the_tokens_lie():
    head, tokens = PoseHead((8,), 6, width=16), random_tokens(1, 6, 8)
    assert not torch.allclose(head([tokens]), head([tokens.flip(1)]))


def test_points_are_read_in_direction_and_distance_of_their_vectors():
    maps = torch.tensor([[0.0, 0.6, 0.0], [0.0, 0.0, -2.0], [0.0, 0.8, 0.0], [0.0, 1.0, -50.0]])
    maps = maps.view(1, 4, 1, 3).requires_grad_()
    points, confidence = points_and_confidence(maps)
    far = math.e - 1
    expected = [[0, 0, 0], [0.6 * far, 0, 0.8 * far], [0, 1 - math.exp(2), 0]]
    torch.testing.assert_close(points[0, :, 0].T, torch.tensor(expected))
    torch.testing.assert_close(confidence, torch.tensor([[[2.0, 1 + math.e, 1.0]]]))
    points.sum().backward()
    assert maps.grad[:, :3].isfinite().all()
    assert maps.grad[0, :3, 0, 0].tolist() == [1, 1, 1]  # at the origin
