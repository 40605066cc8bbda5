"""Zero-shot correspondence: hand-made maps score as they should, and models as they look."""

from __future__ import annotations

from dataclasses import replace

import micro_tasks
import numpy as np
import pytest
import torch
from micro_tasks import MAE, MODEL
from synthetic import plane_pair, view_of
from tiny_layouts import sintel

from generation.errors import CrossviewError
from generation.shards.cameras import cameras_of
from training.correspondence import true_places
from training.downstream.colours import UNKNOWN_COLOUR, error_picture
from training.downstream.datasets.shards import open_shards, reprojected
from training.downstream.evaluation import untrained
from training.downstream.example import Example, Splits
from training.downstream.recipe import Recipe
from training.downstream.tasks import TASKS
from training.pair_reader import centre_crop, centre_cropped

TASK = TASKS["correspondence"]
SIZE, PATCH = MODEL.image_size, MODEL.patch_size
SIDE = SIZE // PATCH
GRID = np.stack(np.mgrid[:SIDE, :SIDE], -1).reshape(-1, 2)


def plane(shift_px, size=SIZE):
    """A plane that moves left by shift_px; and where its patches truly lie, from its cameras."""
    view1, view2, depth_m, meta = plane_pair(np.random.default_rng(shift_px), size, shift_px)
    cameras = cameras_of(meta)
    flow, occluded = reprojected(*(view_of(camera, depth_m) for camera in cameras))
    truth = {"flow": flow, "occluded": occluded}
    cropped_m = centre_crop(depth_m, SIZE)
    cropped = (view_of(centre_cropped(camera, SIZE), cropped_m) for camera in cameras)
    places = true_places(*cropped, PATCH)
    return Example(name=f"plane {shift_px}", images=(view1, view2), truth=truth), places


def looking_at(places):
    """Return (N, N) attention to (N, 2) places, divided among the patches around each."""
    apart = np.abs(places[:, None] - GRID)
    return np.clip(1 - apart, 0, 1).prod(-1).astype(np.float32)


def scored(pairs, way="attention"):
    """Return the metrics of examples and maps."""
    grid = np.array((SIDE, PATCH))
    return TASK.summarise(
        [TASK.score({"grid": grid, way: weights}, example) for example, weights in pairs]
    )


@pytest.mark.parametrize("way", ["attention", "features"])
@pytest.mark.parametrize(("shift_px", "size"), [(0, SIZE), (8, SIZE), (11, SIZE), (24, 45)])
def test_looking_at_the_truth_is_perfect(way, shift_px, size):
    example, places = plane(shift_px, size)
    metrics = scored([(example, looking_at(np.nan_to_num(places)))], way)
    assert metrics[f"{way}_pck"] == 1
    beyond = np.linalg.norm(places - np.clip(places, 0, SIDE - 1), axis=1)  # of the last patches
    assert metrics[f"{way}_epe_px"] == pytest.approx(np.nanmean(beyond) * PATCH, abs=1e-4)
    if shift_px > PATCH:
        assert metrics[f"{way}_moved"] == 1


@pytest.mark.parametrize("way", ["attention", "features"])
def test_looking_two_patches_beside_the_truth_is_wrong(way):
    example, places = plane(0)
    beside = places + np.where(places[:, :1] < 2, [2, 0], [-2, 0])
    metrics = scored([(example, looking_at(beside))], way)
    assert metrics[f"{way}_pck"] == 0
    assert metrics[f"{way}_epe_px"] == pytest.approx(2 * PATCH)


def test_looking_at_the_same_place_finds_no_patch_that_moved():
    example, _ = plane(12)
    metrics = scored([(example, np.eye(SIDE**2, dtype=np.float32))])
    assert metrics["attention_moved"] == 0
    assert metrics["attention_epe_px"] == pytest.approx(12)


def test_shares_and_distances_are_of_patches_not_of_images():
    """A plane that moves by 24 pixels is seen twice in one column of four."""
    still, far = plane(0), plane(24)
    nowhere = np.eye(SIDE**2, dtype=np.float32)
    metrics = scored([(still[0], nowhere), (far[0], nowhere)])
    assert metrics["attention_pck"] == pytest.approx(16 / 20)
    assert metrics["attention_epe_px"] == pytest.approx(4 * 24 / 20)
    assert metrics["attention_moved"] == 0


def test_what_the_crop_of_the_second_view_does_not_show_never_counts():
    """The plane is 45 pixels wide, of which the model sees 32 in the middle."""
    example, places = plane(12, 45)
    assert not example.truth["occluded"][:, 12:].any()
    score = TASK.score(
        {"grid": np.array((SIDE, PATCH)), "attention": looking_at(np.nan_to_num(places))}, example
    )
    assert score["attention"][0, 0] == np.isfinite(places).all(1).sum() < SIDE**2


def test_of_nothing_known_there_is_no_number():
    example, places = plane(0)
    unknown = {"flow": np.full((SIZE, SIZE, 2), np.nan, np.float32)}
    metrics = scored([(replace(example, truth=unknown), looking_at(places))])
    assert np.isnan(list(metrics.values())).all()


def judged(splits, **options):
    return micro_tasks.judged("correspondence", splits, epochs=0, **options)


def test_models_run_untrained_on_our_shards(dataset):
    """The shards' images are larger than the model's."""
    outcome = judged(open_shards(dataset), max_steps=5)
    assert list(outcome.metrics) == [metric.name for metric in TASK.metrics]
    assert np.isfinite(list(outcome.metrics.values())).all()
    assert outcome.fitted.num_steps == 0
    assert len(outcome.pictures) == 4
    for panels in outcome.pictures.values():
        assert {picture.shape for _, picture in panels} == {(SIZE, SIZE, 3)}


def test_pictures_show_what_is_true_what_is_found_and_how_far_off_it_is():
    """Attention is right everywhere, features half a patch to the right."""
    example, places = plane(8)
    maps = {"attention": looking_at(places), "features": looking_at(places + (0, 0.5))}
    grid = np.array((SIDE, PATCH))
    panels = dict(TASK.pictures(example, {"grid": grid, "attention": maps["attention"]}))
    assert list(panels) == ["first view", "second view", "truth", "attention", "error to 16 px"]
    seen = np.isfinite(places).all(1).reshape(SIDE, SIDE).repeat(PATCH, 0).repeat(PATCH, 1)
    assert 0 < seen.mean() < 1
    np.testing.assert_array_equal(panels["attention"][seen], panels["truth"][seen])
    error = panels["error to 16 px"]
    np.testing.assert_array_equal(error[seen], error_picture(np.zeros(seen.sum())[None], 16)[0])
    assert (error[~seen] == UNKNOWN_COLOUR).all()
    *_, (title, found), (_, error) = TASK.pictures(example, {"grid": grid, **maps})
    assert title == "features"
    assert not np.array_equal(found[seen], panels["truth"][seen])
    assert (error[seen].astype(int).sum(-1) > 0).all()


def test_models_run_untrained_on_sintel(tmp_path):
    """Everything moves by less than a patch there, so of moved patches nothing is known."""
    sintel(tmp_path)
    metrics = judged(TASK.datasets["sintel_clean"](tmp_path)).metrics
    for name, value in metrics.items():
        assert np.isnan(value) == name.endswith("_moved")


def test_a_model_of_one_view_has_features_but_no_attention(dataset):
    splits = open_shards(dataset)
    metrics = judged(splits, config=MAE).metrics
    assert list(metrics) == [m.name for m in TASK.metrics if "attention" not in m.name]


def test_features_find_each_patch_of_the_same_image_where_it_is():
    example, _ = plane(0)
    same = replace(example, images=(example.images[0], example.images[0]))
    with torch.inference_mode():
        prediction = TASK.predict(untrained(MODEL, 0).eval(), same, Recipe())
    assert prediction["features"].argmax(1).tolist() == list(range(SIDE**2))
    for way in ("attention", "features"):
        np.testing.assert_allclose(prediction[way].sum(1), 1, rtol=1e-4)
    assert TASK.summarise([TASK.score(prediction, same)])["features_pck"] == 1


def test_images_smaller_than_the_model_are_named():
    example, _ = plane(0, SIZE)
    small = replace(example, images=tuple(image[:24] for image in example.images))
    with pytest.raises(CrossviewError, match="plane 0: 24 x 32 pixels, but the model takes"):
        judged(Splits(train=[], val=[small]))
