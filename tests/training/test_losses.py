"""The loss, against loops; pictures of completions."""

import torch

from training.augment import denormalise, normalise
from training.losses import completion_losses, patchify, unpatchify
from training.model.croco import CroCo, ModelConfig, initialise
from training.pictures import complete


def test_the_loss_is_that_of_a_slow_reference():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    prediction = torch.randn(2, 4, 192, generator=generator)
    mask = torch.tensor([[True, True, False, True], [False, True, True, True]])
    for b in range(2):
        errors = []
        for patch in range(4):
            row, column = divmod(patch, 2)
            if not mask[b, patch]:
                continue
            values = [
                float(images[b, c, row * 8 + i, column * 8 + j])
                for i in range(8)
                for j in range(8)
                for c in range(3)
            ]
            mean = sum(values) / 192
            variance = sum((v - mean) ** 2 for v in values) / 191
            for value, predicted in zip(values, prediction[b, patch].tolist()):
                errors.append((predicted - (value - mean) / (variance + 1e-6) ** 0.5) ** 2)
        loss = completion_losses(prediction, images, mask, 8)[b]
        torch.testing.assert_close(float(loss), sum(errors) / len(errors), rtol=1e-5, atol=0)


def test_patches_put_together_are_the_image():
    images = torch.rand(2, 3, 24, 40)
    assert torch.equal(unpatchify(patchify(images, 8), 8, images.shape[-2:]), images)


def test_a_completion_keeps_visible_patches_and_the_mean_of_hidden_ones():
    model = CroCo(
        ModelConfig(
            image_size=16, patch_size=8, enc_dim=16, enc_depth=1, enc_heads=2,
            dec_dim=16, dec_depth=1, dec_heads=2,
        )
    )  # fmt: skip
    initialise(model, torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.prediction_head.weight)
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[False, True, True, True]])
    completed = complete(model, normalise(picture), normalise(picture), mask)
    torch.testing.assert_close(completed[..., :8, :8], picture[..., :8, :8])
    hidden = normalise(completed)[..., 8:, 8:]
    torch.testing.assert_close(hidden, normalise(picture)[..., 8:, 8:].mean().expand_as(hidden))
    torch.testing.assert_close(denormalise(normalise(picture)), picture)
    wide = normalise(picture.repeat(1, 1, 1, 2))
    one_hidden = torch.zeros(1, 8, dtype=torch.bool)
    one_hidden[0, 3] = True  # but the last of the first row
    completed = complete(model, wide, wide, one_hidden)
    torch.testing.assert_close(completed[..., :24], denormalise(wide)[..., :24])
    torch.testing.assert_close(completed[..., 8:, :], denormalise(wide)[..., 8:, :])
