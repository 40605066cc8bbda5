"""What all tasks have in common, from folders of a few small images to their metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MAE, MODEL, RECIPE, judged
from pretended_device import pretended_device
from timm.layers.drop import DropPath
from tiny_images import save_image
from tiny_layouts import LAYOUTS, nyuv2_labeled

from generation.errors import CrossviewError
from training.downstream import evaluation
from training.downstream.colours import UNKNOWN_COLOUR, error_picture
from training.downstream.evaluation import untrained
from training.downstream.example import Splits
from training.downstream.tasks import TASKS
from training.model.croco import ModelConfig

PUBLIC = [(task, layout) for task, layouts in LAYOUTS.items() for layout in layouts]
OURS = [(name, "shards") for name, task in TASKS.items() if "shards" in task.datasets]
ONE_OF_EACH = (
    ("depth", "nyuv2"),
    ("flow", "kitti"),
    ("stereo", "kitti"),
    ("pose", "shards"),
    ("pointmaps", "shards"),
    ("segmentation", "ade20k"),
    ("classification", "imagenet"),
    ("taskonomy_normal", "taskonomy"),
    ("taskonomy_reshading", "taskonomy"),
)
TRAINED = [name for name in TASKS if name != "correspondence"]


# They run


def test_every_layout_of_every_task_is_tried():
    assert set(PUBLIC + OURS) == {(n, each) for n, task in TASKS.items() for each in task.datasets}


@pytest.mark.parametrize(("task", "layout"), PUBLIC + OURS)
def test_a_task_runs_on_a_layout(opened, task, layout):
    unsome_of = task == "correspondence" or layout == "scannet1500"
    check_run(task, opened(task, layout), epochs=0 if unsome_of else 1)


@pytest.mark.parametrize(
    ("task", "layout"),
    [
        ("flow", "kitti"),
        ("stereo", "kitti"),
        ("pose", "shards"),
        ("pose", "seven_scenes"),
        ("pointmaps", "shards"),
    ],
)
def test_two_views_take_a_model_that_was_pretrained_on_one(opened, task, layout):
    check_run(task, opened(task, layout), config=MAE)


def test_depth_runs_on_the_file_of_its_owners(tmp_path):
    nyuv2_labeled(tmp_path)
    check_run("depth", TASKS["depth"].datasets["nyuv2"](tmp_path))


def check_run(task, splits, **options):
    outcome = judged(task, splits, **options)
    names = [metric.name for metric in TASKS[task].metrics]
    assert list(outcome.metrics) == [name for name in names if name in outcome.metrics]
    # untrained points may be so far off that no pose is found; then no translation is. And in
    # Sintel's places no patch moves.
    unknown = {"pointmaps": "median_translation_m", "correspondence": "_moved"}.get(task, "none")
    assert all(name.endswith(unknown) for name in set(names) - set(outcome.metrics))
    assert np.isfinite(list(outcome.metrics.values())).all()
    assert outcome.fitted.num_steps == (2 if options.get("epochs", 1) else 0)
    assert outcome.pictures
    for panels in outcome.pictures.values():
        (size,) = {picture.shape for _, picture in panels}
        assert len(size) == 3
        assert size[2] == 3
        assert {picture.dtype for _, picture in panels} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(("task", "layout"), ONE_OF_EACH)
def test_every_recipe_trains_and_predicts(opened, task, layout):
    """But for its sizes, of images and batches, and its length, as it is."""
    for recipe in TASKS[task].recipes.values():
        resize = None if recipe.resize is None else (40, 40)
        outcome = judged(
            task, opened(task, layout), recipe=recipe,
            resize=resize, crop=None, max_steps=1, batch_size=2,
        )  # fmt: skip
        assert outcome.fitted.num_steps == 1
        assert outcome.fitted.recipe.lr == recipe.lr
        assert np.isfinite(list(outcome.metrics.values())).all()


@pytest.mark.parametrize(("task", "layout"), [*ONE_OF_EACH, ("correspondence", "shards")])
def test_a_device_of_its_own_says_what_the_cpu_says(opened, task, layout):
    splits, epochs = opened(task, layout), 0 if task == "correspondence" else 1
    here = judged(task, splits, epochs=epochs).metrics
    with pretended_device() as device:
        assert judged(task, splits, epochs=epochs, device=device).metrics == here


@pytest.mark.parametrize("task", TASKS)
def test_every_recipe_fits_the_published_model(task):
    recipes = TASKS[task].recipes
    assert {"short", "published"} <= set(recipes)
    for recipe in recipes.values():
        filled = recipe.for_model(ModelConfig())
        assert filled.crop == (recipe.crop or (224, 224))
        if recipe.resize is not None:
            assert filled.crop[0] <= recipe.resize[0]
            assert filled.crop[1] <= recipe.resize[1]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "depth",  # as MultiMAE
            {
                "epochs": 2000,
                "batch_size": 128,
                "lr": 1e-4,
                "weight_decay": 1e-4,
                "layer_decay": 0.75,
                "warmup": 100 / 2000,
                "crop": (256, 256),
                "clip_norm": None,
                "precision": "float32",
                "head": "dpt",
            },
        ),
        (
            "taskonomy_normal",  # as MultiMAE
            {
                "epochs": 100,
                "batch_size": 8,
                "lr": 3e-4,
                "warmup": 5 / 100,
                "weight_decay": 0.05,
                "crop": (384, 384),
                "head": "dpt",
                "layer_decay": 0.75,
                "drop_path": 0.1,
                "clip_norm": None,
            },
        ),
        (
            "segmentation",  # as MultiMAE
            {
                "epochs": 64,
                "crop": (512, 512),
                "head_width": 384,
                "batch_size": 16,
                "lr": 1e-4,
                "warmup": 1 / 64,
                "weight_decay": 0.05,
                "layer_decay": 0.75,
                "drop_path": 0.1,
            },
        ),
        (
            "classification",  # as MAE
            {
                "epochs": 100,
                "crop": (224, 224),
                "batch_size": 1024,
                "lr": 5e-4 * 1024 / 256,
                "min_lr": 1e-6,
                "warmup": 5 / 100,
                "weight_decay": 0.05,
                "layer_decay": 0.65,
                "drop_path": 0.1,
            },
        ),
        (
            "flow",  # as CroCo v2
            {
                "epochs": 240,
                "crop": (320, 384),
                "batch_size": 8,
                "lr": 2e-5,
                "warmup": 1 / 240,
                "weight_decay": 0.05,
                "betas": (0.9, 0.95),
                "clip_norm": None,
                "tile_overlap": 0.9,
                "precision": "float32",
            },
        ),
        (
            "stereo",  # as CroCo v2
            {
                "epochs": 32,
                "crop": (352, 704),
                "batch_size": 6,
                "lr": 3e-5,
                "warmup": 1 / 32,
                "weight_decay": 0.05,
                "betas": (0.9, 0.95),
                "clip_norm": None,
                "tile_overlap": 0.9,
                "precision": "float32",
            },
        ),
        (
            "pointmaps",  # as DUSt3R
            {"epochs": 100, "batch_size": 128, "lr": 1e-4, "min_lr": 1e-6, "warmup": 0.1},
        ),
    ],
)
def test_published_recipes_are_the_papers(task, expected):
    recipe = TASKS[task].recipes["published"]
    assert {name: getattr(recipe, name) for name in expected} == expected


def test_the_linear_probe_is_maes_but_for_its_optimizer():
    recipe = TASKS["classification"].recipes["linear"]
    assert (recipe.epochs, recipe.warmup, recipe.weight_decay) == (90, 10 / 90, 0)
    assert recipe.frozen


def test_on_the_cpu_no_gpu_is_asked_for_its_random_numbers(opened, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", None)
    judged("classification", opened("classification", "imagenet"))


@pytest.mark.parametrize("task", ["pose", "pointmaps"])
def test_a_task_runs_in_bfloat16(opened, task):
    splits = opened(task, "shards")
    metrics = judged(task, splits, precision="bfloat16").metrics
    assert np.isfinite(list(metrics.values())).all()
    assert metrics != judged(task, splits).metrics


# They repeat, and they learn


@pytest.mark.parametrize(("task", "layout"), ONE_OF_EACH)
def test_a_seed_decides_the_numbers(opened, task, layout):
    splits = opened(task, layout)
    changes = {"jitter": 0.4, "drop_path": 0.2, "flip": task != "stereo"}
    numbers = []
    for seed in (0, 0, 1):
        losses = []
        outcome = judged(
            task, splits, seed=seed, report=lambda _, loss, to=losses: to.append(loss), **changes
        )
        numbers.append((losses, outcome.metrics))
    (losses, metrics), again, (other_losses, other_metrics) = numbers
    assert (losses, metrics) == again
    assert losses != other_losses
    if task != "classification":  # a share of three images
        assert metrics != other_metrics


@pytest.mark.parametrize(
    ("task", "layout", "metric", "at_most", "share"),
    [
        ("depth", "nyuv2", "rel", 0.2, 0.5),
        ("flow", "kitti", "epe_px", 0.8, 0.2),
        ("stereo", "kitti", "epe_px", 0.8, 0.2),
        ("taskonomy_reshading", "taskonomy", "l1", 0.1, 0.4),
    ],
)
def test_learning_beats_the_untrained_head_by_far(opened, task, layout, metric, at_most, share):
    splits = opened(task, layout)
    before = judged(task, splits, epochs=0, max_steps=None).metrics[metric]
    after = judged(task, splits, max_steps=50, batch_size=4).metrics[metric]
    assert after < at_most
    assert after < share * before


@pytest.mark.parametrize(
    ("task", "layout", "metric"),
    [("segmentation", "ade20k", "miou"), ("classification", "imagenet", "top1")],
)
def test_classes_told_by_their_colours_are_learnt(opened, task, layout, metric):
    splits = opened(task, layout)
    assert judged(task, splits, epochs=0, max_steps=None).metrics[metric] < 0.5
    assert judged(task, splits, max_steps=50, batch_size=6).metrics[metric] > 0.8


# The published parts are what a network is made of and trained by


@pytest.mark.parametrize("task", TRAINED)
def test_blocks_are_skipped_as_often_as_the_recipe_says(opened, task):
    layout = next(iter(TASKS[task].datasets))
    model = untrained(replace(MODEL, enc_depth=3), 0)
    recipe = replace(RECIPE, drop_path=0.2).for_model(MODEL)
    network = TASKS[task].network(model, opened(task, layout), recipe)
    chances = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert chances == pytest.approx([0.1, 0.1, 0.2, 0.2])  # two branches a block; none of the first


# What counts


PICTURED = (
    ("depth", "nyuv2", "depth_m", "m"),
    ("flow", "kitti", "flow", None),
    ("stereo", "kitti", "disparity", "px"),
    ("segmentation", "ade20k", "labels", None),
    ("taskonomy_reshading", "taskonomy", "reshading", ""),
)


def in_words(values, unit):
    low, high = np.nanpercentile(values, (2, 98))
    return f" {low:.3g} to {high:.3g} {unit}".rstrip()


@pytest.mark.parametrize(("task", "layout", "name", "unit"), PICTURED)
def test_pictures_show_truth_prediction_and_error_by_their_names(opened, task, layout, name, unit):
    """Of the truth as a prediction, and of what is wrong in the lower half."""
    example = opened(task, layout).val[0]
    truth = example.truth[name]
    wrong = truth.copy()
    lower = slice(len(truth) // 2, None)
    wrong[lower] = (wrong[lower] + 1) % 3 if name == "labels" else wrong[lower] * 1.5 + 2
    right, off = {}, {}
    for panels, found in ((right, truth), (off, wrong)):
        drawn = TASKS[task].pictures(example, {name: found, "num_classes": np.array(3)})
        for title, image in drawn:
            title, _, spanned = title.partition(",")
            title = title.partition(" to ")[0]
            panels[title] = image
            if title in ("truth", "prediction"):
                expected = (
                    "" if unit is None else in_words(truth if title == "truth" else found, unit)
                )
                assert spanned == expected
    *inputs, first, second, error = right
    assert [first, second] == ["truth", "prediction"]
    assert error in ("error", "relative error", "wrong")
    for title, image in zip(inputs, example.images):
        np.testing.assert_array_equal(off[title], image)
    np.testing.assert_array_equal(right["prediction"], right["truth"])
    np.testing.assert_array_equal(off["truth"], right["truth"])
    known = ~(right[error] == UNKNOWN_COLOUR).all(-1)
    assert known.any()
    assert (right[error][known] == error_picture(np.zeros((1, 1)), 1.0)[0, 0]).all()
    for title in ("prediction", error):
        changed = (off[title] != right[title]).any(-1)
        assert not changed[: lower.start].any()
        assert changed[lower][known[lower]].mean() > 0.9


@pytest.mark.parametrize(
    ("task", "layout", "name"),
    [
        ("depth", "nyuv2", "depth_m"),
        ("flow", "kitti", "flow"),
        ("stereo", "kitti", "disparity"),
        ("taskonomy_normal", "taskonomy", "normal"),
        ("taskonomy_reshading", "taskonomy", "reshading"),
        ("segmentation", "ade20k", "labels"),
    ],
)
def test_metrics_of_which_nothing_is_known_are_missing(opened, task, layout, name):
    splits = opened(task, layout)
    example = splits.val[0]
    unknown = np.full_like(example.truth[name], -1 if name == "labels" else np.nan)
    blank = replace(example, truth={**example.truth, name: unknown})
    assert judged(task, replace(splits, val=[blank])).metrics == {}


# What a user can mend


@pytest.mark.parametrize(("task", "layout"), PUBLIC)
def test_an_empty_folder_says_how_it_should_look(tmp_path, task, layout):
    with pytest.raises(CrossviewError, match=r"(?s)to be had from https?://.*Expected:"):
        TASKS[task].datasets[layout](tmp_path)


@pytest.mark.parametrize(
    ("task", "layout", "file"),
    [
        ("depth", "nyuv2", "train/a/sync_depth_1.png"),
        ("flow", "flying_chairs", "data/00001_img2.ppm"),
        ("flow", "kitti", "training/image_2/000001_11.png"),
        ("flow", "sintel_final", "training/occlusions/alley_1/frame_0001.png"),
        ("stereo", "kitti", "training/image_3/000001_10.png"),
        ("stereo", "eth3d", "two_view_training/delivery_area_1l/mask0nocc.png"),
        ("stereo", "middlebury", "trainingH/ArtL/mask0nocc.png"),
        ("stereo", "scene_flow_clean", "frames_cleanpass/TRAIN/A/0000/right/0006.png"),
        ("stereo", "sintel_stereo_clean", "training/outofframe/alley_1/frame_0001.png"),
        ("segmentation", "ade20k", "annotations/training/ADE_train_00000001.png"),
        ("taskonomy_normal", "taskonomy", "a/normal/point_0_view_0_domain_normal.png"),
    ],
)
def test_a_file_of_another_size_than_its_image_is_named(tmp_path, task, layout, file):
    LAYOUTS[task][layout](tmp_path)
    save_image(tmp_path / file, np.zeros((8, 8, 3) if file.endswith("ppm") else (8, 8)))
    splits = TASKS[task].datasets[layout](tmp_path)
    with pytest.raises(CrossviewError, match="8 x 8 pixels") as raised:
        judged(task, splits, max_steps=4)
    assert file in str(raised.value)


def test_all_damaged_examples_are_named_at_once_and_judging_tells_how_far_it_is(
    opened, monkeypatch
):
    splits = opened("depth", "nyuv2")
    whole = splits.val[0]

    class Damaged:
        def __len__(self):
            return 5

        def __getitem__(self, number):
            if number in (1, 3):
                raise CrossviewError(f"image {number} is cut off")
            return whole

    monkeypatch.setattr(evaluation, "PATIENCE_S", 0.0)
    asked, done = [], []

    def answer(example):
        asked.append(example)
        return {"depth_m": np.ones_like(example.truth["depth_m"])}

    constant = evaluation.Fitted(answer=answer, recipe=RECIPE, train_s=0.0)
    named = r"^2 of 5 examples cannot be read; image 1 is cut off; image 3 is cut off$"
    with pytest.raises(CrossviewError, match=named):
        evaluation.judged(TASKS["depth"], constant, Damaged(), report=done.append)
    assert len(asked) == 1  # nothing is predicted that would be thrown away
    assert done == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("task", "layout"), [("segmentation", "ade20k"), ("classification", "imagenet")]
)
@pytest.mark.parametrize(
    ("classes", "max_steps", "expected"),
    [
        ((), 2, "the dataset has no classes: expected at least 2"),
        (("floor",), 2, r"the dataset has 1 classes \(floor\): expected at least 2"),
        (("floor", "wall"), 8, r"class 2: expected 0 to 1, for the dataset names 2 classes"),
        (("floor", "wall"), 0, r"2.*expected 0 to 1"),
    ],
)
def test_classes_that_do_not_fit_are_an_error(opened, task, layout, classes, max_steps, expected):
    splits = opened(task, layout)
    if task == "segmentation":
        splits = Splits(train=third_class(splits.train), val=third_class(splits.val))
    with pytest.raises(CrossviewError, match=expected):
        judged(task, replace(splits, classes=classes), max_steps=max_steps)


def third_class(examples):
    """Return the examples, the last column of each of class 2."""
    changed = []
    for number in range(len(examples)):
        example = examples[number]
        labels = example.truth["labels"].copy()
        labels[:, -labels.shape[1] // 2 :] = 2
        changed.append(replace(example, truth={"labels": labels}))
    return changed
