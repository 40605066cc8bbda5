"""Classification: probes, parts of images, and what its pictures say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_tasks import MODEL, RECIPE, fitted

from training.downstream.evaluation import untrained
from training.downstream.example import Example
from training.downstream.tasks import TASKS


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


def test_pictures_of_classes_say_which_is_true_and_how_sure_the_other_is():
    image = np.full((4, 4, 3), 7, np.uint8)
    example = Example(name="dot", images=(image,), truth={"label": np.array(2)})
    logits = np.log([0.2, 0.7, 0.1])
    panels = TASKS["classification"].pictures(example, {"logits": logits})
    assert [title for title, _ in panels] == ["truth: class 2", "prediction: class 1, 70%"]
    for _, picture in panels:
        np.testing.assert_array_equal(picture, image)
