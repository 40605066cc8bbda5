"""Which patches of two images match."""

import numpy as np
import pytest
import torch
from appearance_model import PATCH_SIZE, SIDE, appearance_model, noise

from generation.errors import CrossviewError
from training import cross_attention
from training.augment import normalise
from training.cross_attention import (
    centred_peaks,
    cross_attention_either_way,
    cross_attention_when_hidden,
    match,
)
from training.model.positions import grid_places


def shifted_pair(rows, columns):
    """Two normalised windows of one noise picture; the second begins so many patches later."""
    wide = noise(np.random.default_rng(0), (SIDE + 4) * PATCH_SIZE)
    size = SIDE * PATCH_SIZE
    row, column = rows * PATCH_SIZE, columns * PATCH_SIZE
    views = wide[:size, :size], wide[row : row + size, column : column + size]
    return [normalise(torch.from_numpy(v.copy()).permute(2, 0, 1)[None] / 255) for v in views]


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (2, 0), (1, 3)])
def test_patches_match_where_the_other_image_shows_them(rows, columns):
    found = match(appearance_model(), *shifted_pair(rows, columns))
    shift = torch.tensor([rows, columns])
    shown = (found.first >= shift).all(1)  # by the other image too
    assert int(shown.sum()) == (SIDE - rows) * (SIDE - columns)
    # The mean of looking at one place, and, while hidden, at all alike.
    assert found.confidence[shown].numpy() == pytest.approx(0.5 + 0.5 / SIDE**2, abs=1e-3)
    assert torch.allclose(found.second[shown], found.first[shown] - shift, atol=0.05)
    assert (found.confidence.diff() <= 0).all()


@pytest.mark.parametrize("size", [(2, SIDE), (SIDE + 1, SIDE + 2)])
def test_images_of_another_size_than_the_model_s_match(size):
    height, width = (PATCH_SIZE * patches for patches in size)
    picture = noise(np.random.default_rng(0), (SIDE + 2) * PATCH_SIZE)[:height, :width]
    image = normalise(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255)
    found = match(appearance_model(), image, image)
    assert {tuple(place) for place in found.first.tolist()} == {*np.ndindex(*size)}
    assert torch.allclose(found.second, found.first, atol=0.2)


def test_matches_are_mutual_and_no_patch_has_two():
    target, reference = torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    model = appearance_model()
    found = match(model, target, reference)
    there = cross_attention_either_way(model, target, reference)[0]
    back = cross_attention_either_way(model, reference, target)[0]
    expected = {i for i in range(SIDE**2) if int(back[int(there[i].argmax())].argmax()) == i}
    assert {int(row * SIDE + column) for row, column in found.first} == expected
    assert 0 < len(expected) < SIDE**2


def test_maps_that_are_too_large_together_are_made_one_after_the_other(monkeypatch):
    images = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    together = cross_attention_when_hidden(appearance_model(), *images)
    monkeypatch.setattr(cross_attention, "_MAPS_BYTES", 1)
    apart = cross_attention_when_hidden(appearance_model(), *images)
    assert torch.allclose(apart, together, atol=1e-6)


def test_a_model_that_sees_no_reference_has_no_matches():
    with pytest.raises(CrossviewError, match="sees no reference"):
        match(appearance_model("self"), *shifted_pair(0, 0))


def test_a_match_lies_between_the_peak_s_patch_and_its_neighbours_and_nothing_far_moves_it():
    attention = torch.zeros(1, 5, 5)
    attention[0, 2, 2], attention[0, 2, 3], attention[0, 0, 0] = 0.6, 0.2, 0.2
    found = centred_peaks(attention.flatten(1), grid_places((5, 5)))
    assert found[0].tolist() == pytest.approx([2, 2.25])
