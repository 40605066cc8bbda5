from dataclasses import replace

import numpy as np
import pytest

from generation.covisibility import covisibility_a_in_b, official_covisibility
from generation.errors import CrossviewError
from generation.overlap import OverlapBand
from generation.pairs import MAX_HALVINGS, Pair, PairConfig, PairFinder, PreparedScene
from generation.scenes.scene import Material, Scene, SceneError
from generation.view_proposals import ViewLimits

SMALL = {"image_size": (64, 64)}


def find_pairs(scene: Scene, config: PairConfig, indices, seed: int = 0):
    prepared = PreparedScene.prepare(scene, config)
    finder = PairFinder(prepared, config, seed=seed, bands=[config.overlap])
    pairs = [found[0] if (found := finder.find(index)) else None for index in indices]
    return pairs, finder.ledger


@pytest.mark.parametrize("band", ["0.1-0.2", "0.4-0.6", "0.8-0.9"])
def test_what_is_kept_lies_in_the_band_at_full_resolution(box_room: Scene, band: str):
    overlap = OverlapBand.parse(band)
    pairs, _ = find_pairs(box_room, PairConfig(overlap=overlap, **SMALL), range(10))
    for pair in pairs:
        assert pair is not None
        forward = covisibility_a_in_b(pair.view1, pair.view2)
        backward = covisibility_a_in_b(pair.view2, pair.view1)
        assert overlap.low <= min(forward, backward) <= overlap.high
        assert pair.covisibility.covisibility == min(forward, backward)
        assert pair.covisibility.covisibility_1_in_2 == forward


def test_official_pairs_satisfy_the_official_number(box_room: Scene):
    config = PairConfig(overlap=OverlapBand.parse("official"), **SMALL)
    pairs, _ = find_pairs(box_room, config, range(10))
    for pair in pairs:
        assert pair is not None
        assert official_covisibility(pair.view1, pair.view2) >= 0.5
        assert (pair.view1.depth_m > 0).mean() >= 0.7


def test_every_proposal_is_accounted_for(box_room: Scene):
    pairs, ledger = find_pairs(box_room, PairConfig(**SMALL), range(10))
    assert ledger.accepted == sum(pair is not None for pair in pairs) == 10
    assert ledger.attempts == ledger.accepted + sum(ledger.rejections.values())
    assert ledger.attempts > 10


def test_a_pair_depends_on_its_index_alone(box_room: Scene):
    config = PairConfig(**SMALL)
    forwards, _ = find_pairs(box_room, config, range(4))
    backwards, _ = find_pairs(box_room, config, reversed(range(4)))

    def colours(pair: Pair | None) -> np.ndarray:
        assert pair is not None
        return np.stack([pair.view1.color, pair.view2.color])

    for one, other in zip(forwards, reversed(backwards)):
        np.testing.assert_array_equal(colours(one), colours(other))
    other_seed, _ = find_pairs(box_room, config, range(1), seed=1)
    assert (colours(forwards[0]) != colours(other_seed[0])).any()


def test_a_band_that_the_scene_cannot_give_ends_after_a_bounded_number_of_proposals(
    box_room: Scene,
):
    config = PairConfig(overlap=OverlapBand(low=0.9999, high=1.0), max_tries=60, **SMALL)
    (pair,), ledger = find_pairs(box_room, config, [0])
    assert pair is None
    assert 60 <= ledger.attempts < 60 + config.second_views * (1 + MAX_HALVINGS)


def test_blank_walls_are_rejected_by_name(box_room: Scene):
    colors = box_room.vertex_colors.copy()
    colors[0] -= 1  # not blank to the last bit, which is refused at once
    fields = vars(box_room) | {"materials": (Material(),), "vertex_colors": colors}
    config = PairConfig(max_tries=20, **SMALL)
    (pair,), ledger = find_pairs(Scene(**fields), config, [0])
    assert pair is None
    assert set(ledger.rejections) == {"first view almost blank", "first view too close"}


@pytest.mark.parametrize("materials", [1, 2])
def test_a_mesh_without_colours_is_refused_unless_blank_views_are_wanted(
    box_room: Scene, materials: int
):
    colorless = replace(
        box_room,
        materials=(*(Material(base_color=(0.4, 0.4, 0.4)) for _ in range(materials)), Material()),
        face_materials=(np.arange(box_room.num_faces) % materials).astype(np.int32),
    )
    with pytest.raises(SceneError, match="neither texture nor vertex colours"):
        PreparedScene.prepare(colorless, PairConfig(**SMALL))
    for config in (
        PairConfig(views=ViewLimits(min_contrast=0.0), **SMALL),
        PairConfig(overlap=OverlapBand.parse("official"), **SMALL),
    ):
        (pair,), _ = find_pairs(colorless, config, [0])
        assert pair is not None
        assert (pair.view1.depth_m > 0).all()


def test_colours_of_materials_alone_are_colours(box_room: Scene):
    painted = replace(
        box_room,
        materials=(Material(), Material(base_color=(0.4, 0.4, 0.4))),
        face_materials=(np.arange(box_room.num_faces) % 2).astype(np.int32),
    )
    (pair,), _ = find_pairs(painted, PairConfig(**SMALL), [0])
    assert pair is not None


@pytest.mark.parametrize("text", ["0.6-0.4", "0.5-0.5", "-0.1-0.5", "0.5-1.5", "half", "0.5", ""])
def test_an_impossible_band_is_refused(text: str):
    with pytest.raises(CrossviewError, match=r"overlap: expected LO-HI"):
        OverlapBand.parse(text)


@pytest.mark.parametrize("text", ["0.4-0.6", "0-1", "0.1-0.9:flat", "official"])
def test_a_band_prints_as_it_is_read(text: str):
    assert str(OverlapBand.parse(text)) == text


def test_levels_share_their_first_views_and_each_keeps_its_band(box_room: Scene):
    bands = [OverlapBand.parse(text) for text in ("0.1-0.3", "0.4-0.6", "0.7-0.9")]
    config = PairConfig(**SMALL)
    finder = PairFinder(PreparedScene.prepare(box_room, config), config, seed=0, bands=bands)
    for index in range(5):
        pairs = finder.find(index)
        assert pairs is not None
        for pair, band in zip(pairs, bands, strict=True):
            assert band.low <= pair.covisibility.covisibility <= band.high
            assert pair.view1 is pairs[0].view1
    ledger = finder.ledger
    assert ledger.accepted == 15
    assert ledger.attempts == 15 + sum(ledger.rejections.values())


def test_a_flat_band_is_filled_evenly(box_room: Scene):
    config = PairConfig(overlap=OverlapBand.parse("0.2-0.8:flat"), **SMALL)
    pairs, _ = find_pairs(box_room, config, range(120))
    numbers = np.array([pair.covisibility.covisibility for pair in pairs if pair])
    assert len(numbers) == 120
    counts = np.histogram(numbers, 3, (0.2, 0.8))[0]
    assert counts.min() > 25, counts


def test_any_level_costs_about_the_same(box_room: Scene):
    costs = {}
    for low in (0.05, 0.25, 0.45, 0.65, 0.85):
        config = PairConfig(overlap=OverlapBand(low=low, high=low + 0.1), **SMALL)
        _, ledger = find_pairs(box_room, config, range(60))
        # At 256 x 256 a try takes about a thirtieth of the time of a render.
        costs[low] = (ledger.num_renders + ledger.attempts / 30) / ledger.accepted
    assert max(costs.values()) < 1.5 * min(costs.values()), costs
