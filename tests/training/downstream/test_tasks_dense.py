"""Tasks on images and pairs, from public folders of a few small images to their metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MODEL, RECIPE, fitted, judged
from synthetic import texture
from timm.layers.drop import DropPath
from tiny_images import colours, save_image
from tiny_layouts import LAYOUTS, SIZE, nyuv2_labeled

from generation.errors import CrossviewError
from training.augment import normalise
from training.downstream import evaluation, taskonomy
from training.downstream.colours import UNKNOWN_COLOUR, error_picture
from training.downstream.evaluation import untrained
from training.downstream.example import Example, Splits
from training.downstream.inference import starts
from training.downstream.tasks import TASKS
from training.downstream.transforms import covering, mirrored, size_of
from training.model.croco import ModelConfig

NAN = np.float32("nan")


ONE_OF_EACH = (
    ("depth", "nyuv2"),
    ("flow", "kitti"),
    ("stereo", "kitti"),
    ("segmentation", "ade20k"),
    ("classification", "imagenet"),
    ("taskonomy_normal", "taskonomy"),
    ("taskonomy_reshading", "taskonomy"),
)
ALL = [(task, layout) for task, layouts in LAYOUTS.items() for layout in layouts]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Return a function that writes the folder of a task's layout, once."""
    folders = {}

    def folder_of(task, layout):
        write = LAYOUTS[task][layout]
        if write not in folders:
            folders[write] = tmp_path_factory.mktemp(write.__name__)
            write(folders[write])
        return folders[write]

    return folder_of


@pytest.fixture
def opened(written):
    """Return a function that opens the dataset of a task and layout."""
    return lambda task, layout: TASKS[task].datasets[layout](written(task, layout))


# They run


@pytest.mark.parametrize(("task", "layout"), ALL)
def test_a_task_runs_on_a_public_layout(opened, task, layout):
    check_run(task, opened(task, layout))


def test_depth_runs_on_the_file_of_its_owners(tmp_path):
    nyuv2_labeled(tmp_path)
    check_run("depth", TASKS["depth"].datasets["nyuv2"](tmp_path))


def check_run(task, splits):
    outcome = judged(task, splits)
    expected = [metric.name for metric in TASKS[task].metrics]
    assert list(outcome.metrics) == expected
    assert np.isfinite(list(outcome.metrics.values())).all()
    assert outcome.fitted.num_steps == 2
    assert outcome.pictures
    for panels in outcome.pictures.values():
        (size,) = {picture.shape for _, picture in panels}
        assert len(size) == 3
        assert size[2] == 3
        assert {picture.dtype for _, picture in panels} == {np.dtype(np.uint8)}


def test_every_layout_of_every_task_of_this_file_is_tried():
    for task, layouts in LAYOUTS.items():
        assert set(layouts) == set(TASKS[task].datasets) - {"shards"}


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


@pytest.mark.parametrize("task", ["depth", "flow"])
def test_a_task_runs_on_our_shards(dataset, task):
    outcome = judged(task, TASKS[task].datasets["shards"](dataset))
    assert list(outcome.metrics) == [metric.name for metric in TASKS[task].metrics]
    assert np.isfinite(list(outcome.metrics.values())).all()


@pytest.mark.parametrize("task", ["flow", "stereo"])
def test_two_views_take_a_model_that_was_pretrained_on_one(opened, task):
    outcome = judged(task, opened(task, "kitti"), config=replace(MODEL, decoder="self"))
    assert np.isfinite(outcome.metrics["epe_px"])


@pytest.mark.parametrize("task", LAYOUTS)
def test_every_recipe_fits_the_published_model(task):
    recipes = TASKS[task].recipes
    assert {"short", "published"} <= set(recipes)
    for recipe in recipes.values():
        filled = recipe.for_model(ModelConfig())
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
                "lr": 3e-4,
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
                "lr": 1e-4,
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
                "layer_decay": 0.65,
                "drop_path": 0.1,
                "warmup": 5 / 100,
            },
        ),
        (
            "flow",  # as CroCo v2
            {
                "epochs": 240,
                "crop": (320, 384),
                "batch_size": 8,
                "lr": 2e-5,
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


@pytest.mark.parametrize(("name", "trained"), [("linear", 0), ("short", 0), ("published", 1)])
def test_probes_leave_the_encoder_as_it_is(opened, name, trained):
    model = untrained(MODEL, 0)
    before = {name: weight.clone() for name, weight in model.enc_blocks.named_parameters()}
    recipe = TASKS["classification"].recipes[name]
    splits = opened("classification", "imagenet")
    fitted(
        "classification", splits, model=model, recipe=recipe, crop=None, max_steps=2, batch_size=4
    )
    after = dict(model.enc_blocks.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before) == trained


def test_on_the_cpu_no_gpu_is_asked_for_its_random_numbers(opened, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", None)
    judged("classification", opened("classification", "imagenet"))


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


@pytest.mark.parametrize(("task", "sign"), [("flow", -1.0), ("stereo", 1.0)])
def test_motion_is_read_from_the_second_image(task, sign):
    """Of one first image and three second ones: who sees the first alone is 4 px off at best."""
    wide = texture(np.random.default_rng(0), 64)
    examples = []
    for shift in (0, 6, 12):
        motion = np.full((32, 32), sign * shift, np.float32)
        flow = np.stack([motion, np.zeros_like(motion)], -1)
        truth = {"flow": flow} if task == "flow" else {"disparity": motion}
        images = (wide[:32, :32].copy(), wide[:32, shift : shift + 32].copy())
        examples.append(Example(name=str(shift), images=images, truth=truth))
    splits = Splits(train=examples, val=examples)
    assert judged(task, splits, max_steps=100, batch_size=3).metrics["epe_px"] < 1.0


@pytest.mark.parametrize(
    ("task", "layout", "metric"),
    [("segmentation", "ade20k", "miou"), ("classification", "imagenet", "top1")],
)
def test_classes_told_by_their_colours_are_learnt(opened, task, layout, metric):
    splits = opened(task, layout)
    assert judged(task, splits, epochs=0, max_steps=None).metrics[metric] < 0.5
    assert judged(task, splits, max_steps=50, batch_size=6).metrics[metric] > 0.8


# Sizes


@pytest.mark.parametrize(("task", "layout"), ONE_OF_EACH)
def test_predictions_have_the_size_of_the_example(opened, task, layout):
    task, splits = TASKS[task], opened(task, layout)
    recipe = RECIPE.for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    with torch.inference_mode():
        for number in range(len(splits.val)):
            example = splits.val[number]
            prediction = task.predict(network, example, recipe)
            for name, value in prediction.items():
                if name in example.truth:
                    assert value.shape == example.truth[name].shape


def test_segmentation_slides_over_what_is_longer_than_the_crop(opened, monkeypatch):
    """36 x 70 pixels cover the crop as 32 x 62."""
    task, splits = TASKS["segmentation"], opened("segmentation", "ade20k")
    recipe = RECIPE.for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    shapes = []
    network.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    example = splits.val[0]
    assert size_of(example) == (36, 70)
    with torch.inference_mode():
        task.predict(network, example, recipe)
    assert shapes == [(len(starts(62, 32, recipe.tile_overlap)), 3, 32, 32)]


def test_classification_trains_on_parts_and_judges_the_middle(opened):
    task = TASKS["classification"]
    image = np.zeros((80, 120, 3), np.uint8)
    image[5:75, 25:95] = 255  # the middle 7/8 of the shorter side
    example = Example(name="square", images=(image,), truth={"label": np.array(0)})
    seen = []

    def network(images):
        seen.append(images)
        return torch.zeros(len(images), 3)

    network.parameters = lambda: iter([torch.zeros(1)])
    recipe = replace(RECIPE, crop=(28, 28), flip_test=True)
    assert task.predict(network, example, recipe)["logits"].shape == (3,)
    (images,) = seen
    assert images.shape == (2, 3, 28, 28)
    assert float(images.mean()) > 0.97  # white but for what the filter mixes in at the border
    random = np.random.default_rng(0)
    samples = [task.sample(example, recipe, random) for _ in range(50)]
    assert {sample["image"].shape for sample in samples} == {(3, 28, 28)}
    bright = [float(sample["image"].mean()) for sample in samples]
    assert min(bright) < 0.5 < 0.99 < max(bright)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 48), (32, 38)), ((24, 30), (32, 40)), ((50, 40), (40, 32)), ((32, 32), (32, 32))],
)
def test_what_covers_a_crop_keeps_its_shape(size, expected):
    labels = np.arange(size[0])[:, None].repeat(size[1], 1)
    image = colours(0, size)
    example = covering(Example(name="a", images=(image,), truth={"labels": labels}), (32, 32))
    assert size_of(example) == example.truth["labels"].shape == expected


@pytest.mark.parametrize(
    ("task", "layout", "name", "signs"),
    [
        ("depth", "nyuv2", "depth_m", 1),
        ("flow", "kitti", "flow", (-1, 1)),
        ("taskonomy_normal", "taskonomy", "normal", (-1, 1, 1)),
    ],
)
def test_what_points_to_the_side_is_turned_round_in_a_mirror(opened, task, layout, name, signs):
    """What a network says of an image and of its mirror image is the same, mirrored."""
    task, splits = TASKS[task], opened(task, layout)
    recipe = replace(RECIPE, flip_test=True).for_model(MODEL)
    network = task.network(untrained(MODEL, 0), splits, recipe).eval()
    example = splits.val[0]
    with torch.inference_mode():
        found = task.predict(network, example, recipe)[name]
        again = task.predict(network, mirrored(example), recipe)[name]
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(again, found[:, ::-1] * signs, atol=1e-4)


def test_taskonomy_trains_on_no_more_images_than_published(written, monkeypatch):
    monkeypatch.setattr(taskonomy, "NUM_TRAIN", 2)
    root = written("taskonomy_normal", "taskonomy")
    splits = TASKS["taskonomy_normal"].datasets["taskonomy"](root)
    assert len(splits.train) == 2
    assert set(splits.train[0].truth) == {"normal"}


# The published parts are what a network is made of and trained by


@pytest.mark.parametrize("task", ["depth", "taskonomy_normal"])
def test_a_dense_head_takes_four_blocks_of_the_encoder(opened, task):
    """Equally spaced: tokens of blocks 1, 3, 5 and 7, the last ones after the norm."""
    model = untrained(replace(MODEL, enc_depth=8), 0).eval()
    network = TASKS[task].network(model, opened(task, first_layout(task)), RECIPE)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = []
        last = model.encode(normalise(image), outputs=blocks)
        taken = network.features(image)
    assert len(taken) == 4
    for tokens, expected in zip(taken, (blocks[1], blocks[3], blocks[5], last)):
        assert torch.equal(tokens, expected)


@pytest.mark.parametrize("task", LAYOUTS)
def test_blocks_are_skipped_as_often_as_the_recipe_says(opened, task):
    model = untrained(replace(MODEL, enc_depth=3), 0)
    recipe = replace(RECIPE, drop_path=0.2).for_model(MODEL)
    network = TASKS[task].network(model, opened(task, first_layout(task)), recipe)
    chances = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert chances == pytest.approx([0.1, 0.1, 0.2, 0.2])  # two branches a block; none of the first


def first_layout(task):
    return next(iter(LAYOUTS[task]))


class Says(torch.nn.Module):
    """Says the same of whatever it is given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *images):
        return self.output


def test_depth_learns_by_berhu():
    """Errors of 0.1, 1 and 2 m: up to a fifth of the largest they count as they are."""
    truth = torch.tensor([[[1.0, 2.0, 4.0, NAN]]])
    found = torch.tensor([[[1.1, 3.0, 2.0, 9.0]]])
    raw = (found - 1e-3).expm1().log()  # of which softplus is the inverse
    batch = {"image": torch.zeros(1, 3, 1, 4), "depth_m": truth}
    loss = TASKS["depth"].loss(Says(raw.unsqueeze(1)), batch)
    squares = [(error**2 + 0.4**2) / 0.8 for error in (1.0, 2.0)]
    assert float(loss) == pytest.approx((0.1 + sum(squares)) / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "name", "off"), [("flow", "flow", 4.0), ("stereo", "disparity", 2.0)]
)
def test_motion_is_learnt_by_a_bounded_laplacian(task, name, off):
    """2 px off in each direction, of a scale that is said to be e^3 at most."""
    channels = {"flow": 2, "stereo": 1}[task]
    truth = torch.zeros((1, 2, 2, 2) if task == "flow" else (1, 2, 2))
    truth[0, 0, 0] = torch.nan
    views = {"image": torch.zeros(1, 3, 2, 2), "image2": torch.zeros(1, 3, 2, 2)}
    for raw in (-1.0, 0.0, 1e6):
        log_scale = 3 * np.tanh(raw / 6)
        output = torch.cat([torch.full((1, channels, 2, 2), 2.0), torch.full((1, 1, 2, 2), raw)], 1)
        loss = TASKS[task].loss(Says(output), {**views, name: truth})
        assert float(loss) == pytest.approx(off / np.exp(log_scale) + log_scale, rel=1e-5)


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
            panels[title] = image
            if title in ("truth", "prediction"):
                expected = (
                    "" if unit is None else in_words(truth if title == "truth" else found, unit)
                )
                assert spanned == expected
    *inputs, first, second, error = right
    assert [first, second] == ["truth", "prediction"]
    assert error.startswith(("error to ", "relative error to ", "wrong"))
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


def test_pictures_of_classes_say_which_is_true_and_how_sure_the_other_is():
    image = np.full((4, 4, 3), 7, np.uint8)
    example = Example(name="dot", images=(image,), truth={"label": np.array(2)})
    logits = np.log([0.2, 0.7, 0.1])
    panels = TASKS["classification"].pictures(example, {"logits": logits})
    assert [title for title, _ in panels] == ["truth: class 2", "prediction: class 1, 70%"]
    for _, picture in panels:
        np.testing.assert_array_equal(picture, image)


@pytest.mark.parametrize(("task", "channels"), [("flow", 2), ("stereo", 1)])
def test_the_tile_that_says_to_err_less_counts_more(task, channels):
    """Two tiles, half of each in the other; the second, which says to err less by e^0.4, counts e^2
    times as much: the fifth power."""
    size = 32
    raw = 6 * np.arctanh(-0.4 / 3)  # of which 3 tanh(raw / 6) is the log of the scale
    said = torch.tensor([[1.0] * channels + [0.0], [3.0] * channels + [raw]])

    class BothTiles(torch.nn.Linear):
        def forward(self, *_):
            return said[..., None, None].expand(2, channels + 1, size, size)

    images = (np.zeros((size, size + size // 2, 3), np.uint8),) * 2
    example = Example(name="wide", images=images, truth={})
    recipe = replace(RECIPE, crop=(size, size))
    ((_, found),) = TASKS[task].predict(BothTiles(1, 1), example, recipe).items()
    found = found.reshape(*images[0].shape[:2], -1)
    np.testing.assert_allclose(found[:, :16], 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, 32:], 3, rtol=1e-5)
    np.testing.assert_allclose(found[:, 16:32], (1 + 3 * np.exp(2)) / (1 + np.exp(2)), rtol=1e-5)


def test_pictures_of_normals_show_angles_whatever_their_length():
    """The prediction is parallel, 30 degrees off, of no length; the truth unknown at last."""
    truth = np.array([[[0, 0, 0.9], [0, 0, 1], [0, 0, 1], [NAN] * 3]], np.float32)
    found = np.array([[[0, 0, 7], [0, 0.5, 0.75**0.5], [0, 0, 0], [0, 0, 1]]], np.float32)
    example = Example(name="row", images=(np.zeros((1, 4, 3), np.uint8),), truth={"normal": truth})
    *_, (title, error) = TASKS["taskonomy_normal"].pictures(example, {"normal": found})
    assert title == "error to 30 deg"
    np.testing.assert_array_equal(error, error_picture(np.array([[0, 30, NAN, NAN]]), 30))


def stereo_example(**truth):
    images = (np.zeros((2, 2, 3), np.uint8),) * 2
    return Example(name="pair", images=images, truth=truth)


@pytest.mark.parametrize("seen_only", [False, True])
@pytest.mark.parametrize(("task", "name"), [("flow", "flow"), ("stereo", "disparity")])
def test_what_is_hidden_is_learnt_unless_told_otherwise(opened, task, name, seen_only):
    recipe = replace(RECIPE, crop=SIZE, seen_only=seen_only)
    example = opened(task, "kitti").train[0]
    sample = TASKS[task].sample(example, recipe, np.random.default_rng(0))
    hidden = example.truth["occluded"].reshape(*SIZE, *[1] * (example.truth[name].ndim - 2))
    known = np.isfinite(example.truth[name])
    assert (known & hidden).any()
    np.testing.assert_array_equal(sample[name].isfinite(), known & ~hidden if seen_only else known)


def test_stereo_counts_all_pixels_and_those_seen_twice():
    """Errors 0, 1.5 and 4 px; the last one hidden; one unknown."""
    stereo = TASKS["stereo"]
    truth = np.array([[10, 10], [10, NAN]], np.float32)
    found = {"disparity": np.array([[10, 11.5], [14, 99]], np.float32)}
    hidden = np.array([[0, 0], [1, 0]], bool)
    first = stereo.score(found, stereo_example(disparity=truth, occluded=hidden))
    metrics = stereo.summarise([first])
    assert metrics == pytest.approx(
        {
            "bad1": 2 / 3,
            "bad2": 1 / 3,
            "d1": 1 / 3,
            "epe_px": 5.5 / 3,
            "bad1_seen": 1 / 2,
            "bad2_seen": 0,
            "d1_seen": 0,
            "epe_seen_px": 0.75,
        }
    )
    single = np.array([[10, NAN], [NAN, NAN]], np.float32)  # images count by their pixels
    second = stereo.score(found, stereo_example(disparity=single))
    assert stereo.summarise([first, second])["bad1"] == pytest.approx(2 / 4)
    assert stereo.summarise([first, second])["bad1_seen"] == pytest.approx(1 / 3)


def test_segmentation_sums_before_it_divides():
    """Class 0: 3 of 4 pixels in all; class 1: 1 of 2. A mean over images would differ."""
    segmentation = TASKS["segmentation"]
    scores = []
    for truth, found in (([[0, 0, 0, -1]], [[0, 0, 0, 1]]), ([[1, 0]], [[1, 1]])):
        labels = np.array(truth)
        image = np.zeros((*labels.shape, 3), np.uint8)
        example = Example(name="row", images=(image,), truth={"labels": labels})
        prediction = {"labels": np.array(found), "num_classes": np.array(3)}
        scores.append(segmentation.score(prediction, example))
    metrics = segmentation.summarise(scores)
    assert metrics == pytest.approx({"miou": (3 / 4 + 1 / 2) / 2, "pixel_accuracy": 4 / 5})


@pytest.mark.parametrize(("size", "bad"), [(None, 1.0), ((40, 96), 0.0)])
def test_middlebury_at_half_size_counts_errors_in_full_size_pixels(opened, size, bad):
    """0.8 px of half size are 1.6; of an image resized to the full width they are 0.8."""
    example = covering(opened("stereo", "middlebury").val[0], size)
    scores = TASKS["stereo"].score({"disparity": example.truth["disparity"] + 0.8}, example)
    assert (scores["bad1"], scores["bad1_seen"], scores["bad2"]) == (bad, bad, 0)
    assert scores["epe_px"] == pytest.approx(0.8 + 0.8 * bad)


def test_segmentation_keeps_little_of_each_image():
    segmentation, labels = TASKS["segmentation"], np.arange(6).reshape(2, 3)
    image = np.zeros((2, 3, 3), np.uint8)
    example = Example(name="few", images=(image,), truth={"labels": labels})
    prediction = {"labels": labels[::-1], "num_classes": np.array(150)}
    score = segmentation.score(prediction, example)
    assert sum(value.nbytes for value in score.values()) < 200
    assert segmentation.summarise([score]) == {"miou": 0, "pixel_accuracy": 0}


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


@pytest.mark.parametrize(("task", "layout"), ALL)
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
    ("task", "channels", "factor"),
    [("depth", 1, 1), ("flow", 3, (44 / 94, 30 / 64)), ("stereo", 2, 44 / 94)],
)
def test_images_smaller_than_the_crop_are_enlarged_to_train_and_to_judge(task, channels, factor):
    """By a network that says each pixel's colours: brighter to the right and downwards."""
    row, column = np.mgrid[:30, :44]
    image = np.stack([5 * column, 8 * row, 5 * column], -1).astype(np.uint8)
    maps = {"depth_m": (30, 44), "flow": (30, 44, 2), "disparity": (30, 44)}
    truth = {name: np.zeros(shape, np.float32) for name, shape in maps.items()}
    example = Example(name="small", images=(image, image), truth=truth)
    shapes = set()

    class Colours(torch.nn.Linear):
        def forward(self, image, *_):
            shapes.add(image.shape)
            return 9 * image[:, :channels]

    def found(crop):
        recipe = replace(RECIPE, crop=crop)
        ((_, values),) = TASKS[task].predict(Colours(1, 1), example, recipe).items()
        return values[2:-2, 2:-2]

    expected = found((15, 22)) * factor
    shapes.clear()
    np.testing.assert_allclose(found((64, 64)), expected, rtol=1e-4)
    assert shapes == {(2, 3, 64, 64)}  # tiles of 64 x 94
    sample = TASKS[task].sample(example, replace(RECIPE, crop=(64, 64)), np.random.default_rng(0))
    assert sample["image"].shape == (3, 64, 64)


@pytest.mark.parametrize(("flip", "flip_test"), [(True, False), (False, True)])
def test_stereo_refuses_mirrors(opened, flip, flip_test):
    with pytest.raises(CrossviewError, match=r"stereo: flip = .* in a mirror left and right"):
        judged("stereo", opened("stereo", "kitti"), flip=flip, flip_test=flip_test)


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


@pytest.mark.parametrize("task", ["depth", "flow"])
def test_a_linear_head_probes_what_is_frozen(opened, task):
    splits = opened(task, next(iter(LAYOUTS[task])))
    outcome = judged(task, splits, head="linear", frozen=True)
    assert outcome.fitted.num_parameters < judged(task, splits).fitted.num_parameters
    assert all(np.isfinite(list(outcome.metrics.values())))


def test_cross_attention_that_is_new_is_not_frozen(opened):
    splits = opened("flow", next(iter(LAYOUTS["flow"])))
    alone = replace(MODEL, decoder="self")
    with pytest.raises(CrossviewError, match=r"frozen = True.*cross-attention is new"):
        judged("flow", splits, config=alone, frozen=True)
