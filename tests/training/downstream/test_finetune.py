"""The loop that fine-tunes: which samples when, which rate, which weights in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_network import Network, make_model, random_images
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from generation.errors import CrossviewError
from generation.shards.reader import SampleError
from training import loader
from training.downstream import finetune as module
from training.downstream.example import Example
from training.downstream.features import set_drop_path
from training.downstream.finetune import Snapshot, finetune, layer_decay_groups, learning_rate
from training.downstream.heads import LinearHead
from training.downstream.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=3, lr=0.1, weight_decay=0.0, precision="float32")


class Numbers:
    """Examples 0 to 6, whose truth is their number."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, number: int) -> Example:
        image = np.zeros((4, 4, 3), np.uint8)
        return Example(name=str(number), images=(image,), truth={"label": np.array(number)})


class Fit:
    """Fits one weight to the numbers, and keeps what it was asked for."""

    name = "fit"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.batches: list[list[int]] = []
        self.draws: list[list[float]] = []

    def sample(self, example, recipe, random):
        label = torch.from_numpy(example.truth["label"])
        return {"label": label, "draw": torch.tensor(random.random())}

    def loss(self, network, batch):
        self.batches.append(batch["label"].tolist())
        self.draws.append(batch["draw"].tolist())
        return self.scale * (network.weight - batch["label"]).square().mean()


def train(
    task, network, recipe=RECIPE, *, examples=None, report=lambda step, loss: None, **changes
):
    """Fine-tune alone, with seed 0, keeping nothing, unless told otherwise."""
    options = {"seed": 0, "num_workers": 0, "snapshot": None, **changes}
    finetune(task, network, examples or Numbers(), recipe, report=report, **options)


def fitted(recipe: Recipe = RECIPE, *, scale: float = 1.0, **changes):
    """Return the task after training, its network, and the weights after each step."""
    task, network = Fit(scale), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    weights: list[float] = []

    def report(step, loss):
        weights.append(float(network.weight.detach()))

    train(task, network, recipe, report=report, **changes)
    return task, network, weights


def test_every_example_comes_once_an_epoch_in_an_order_of_the_seed():
    task, _, _ = fitted()
    seen = [number for batch in task.batches for number in batch]
    assert len(seen) == 15  # 2 epochs of 7 in whole steps of 3
    assert sorted(seen[:7]) == sorted(seen[7:14]) == list(range(7))
    assert fitted()[0].batches == task.batches
    assert fitted(seed=1)[0].batches != task.batches


def test_workers_change_neither_the_samples_nor_their_random_numbers():
    alone, helped = fitted()[0], fitted(num_workers=2)[0]
    assert helped.batches == alone.batches
    assert helped.draws == alone.draws
    drawn = [number for batch in alone.draws for number in batch]
    assert len(set(drawn)) == len(drawn)


def test_workers_whose_batches_do_not_fit_into_shared_memory_are_refused(monkeypatch):
    room = SimpleNamespace(free=72)  # a batch of each of both: 3 labels of 8 bytes, draws of 4
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda folder: room)
    assert fitted(num_workers=2)[0].batches == fitted()[0].batches
    room.free = 71
    with pytest.raises(CrossviewError, match=r"--num-workers = 2: 2 batches .* do not fit"):
        fitted(num_workers=2)


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine():
    recipe = Recipe(lr=1.0, min_lr=0.2, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(101)]
    assert np.diff(rates[:10]) == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)


def test_an_average_of_the_weights_is_what_stays():
    weights = fitted()[2]
    assert len(weights) == 5
    average = 0.0  # what the weight began with
    for step, weight in enumerate(weights):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    _, network, _ = fitted(Recipe(**{**vars(RECIPE), "ema": 0.5}))
    assert float(network.weight.detach()) == pytest.approx(average, rel=1e-5)
    assert average != pytest.approx(weights[-1], rel=1e-3)


@pytest.fixture
def stepped() -> Iterator[list[list[dict]]]:
    """The groups of parameters of each step that any optimizer takes, as they are at it."""
    groups: list[list[dict]] = []

    def note(optimizer, *_):
        groups.append(
            [
                {**group, "grads": [parameter.grad.clone() for parameter in group["params"]]}
                for group in optimizer.param_groups
            ]
        )

    hook = register_optimizer_step_pre_hook(note)
    yield groups
    hook.remove()


@pytest.mark.parametrize(("clip_norm", "least", "most"), [(None, 3.0, 1e9), (0.5, 0.4999, 0.5001)])
def test_gradients_are_clipped_as_the_recipe_says(stepped, clip_norm, least, most):
    fitted(Recipe(**{**vars(RECIPE), "clip_norm": clip_norm}))
    norms = [float(grad.norm()) for (group,) in stepped for grad in group["grads"]]
    assert least < min(norms)
    assert max(norms) < most


def test_rates_and_betas_of_the_recipe_reach_every_layer(stepped):
    """Of an encoder of four blocks, by what the optimizer is given at the step."""
    recipe = replace(RECIPE, lr=0.2, warmup=0.0, layer_decay=0.5, betas=(0.8, 0.7), epochs=1)
    network = Network(make_model())

    class Shrink(Fit):
        def loss(self, network, batch):
            return sum(parameter.square().sum() for parameter in network.parameters())

    train(Shrink(), network, recipe)
    names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {names[p]: group["lr"] for group in stepped[0] for p in group["params"]}
    assert {group["betas"] for group in stepped[0]} == {(0.8, 0.7)}
    for name, scale in (
        ("head.linear.weight", 1.0),
        ("features.model.enc_blocks.3.attn.qkv.weight", 0.5),
        ("features.model.enc_blocks.0.attn.qkv.weight", 0.0625),
    ):
        assert rates[name] == pytest.approx(learning_rate(recipe, 0, 2) * scale)
    assert learning_rate(recipe, 0, 2) > 0


def rate_and_decay(network, recipe):
    """Return the (lr_scale, weight_decay) of each parameter by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in layer_decay_groups(network, recipe)
        for parameter in group["params"]
    }


def test_rates_fall_from_the_head_to_the_patches_block_by_block():
    network = Network(make_model())
    found = rate_and_decay(network, Recipe(layer_decay=0.5, weight_decay=0.1))
    assert set(found) == {name for name, _ in network.named_parameters()}
    model = "features.model"
    expected = {
        "head.linear.weight": (1.0, 0.1),
        "head.linear.bias": (1.0, 0.0),
        f"{model}.decoder_embed.weight": (1.0, 0.1),
        f"{model}.dec_blocks.0.mlp.fc1.weight": (1.0, 0.1),
        f"{model}.enc_norm.weight": (1.0, 0.0),
        f"{model}.enc_blocks.3.attn.qkv.weight": (0.5, 0.1),
        f"{model}.enc_blocks.3.norm1.weight": (0.5, 0.0),
        f"{model}.enc_blocks.1.mlp.fc2.weight": (0.125, 0.1),
        f"{model}.enc_blocks.0.mlp.fc2.bias": (0.0625, 0.0),
        f"{model}.patch_embed.proj.weight": (0.03125, 0.1),
        f"{model}.patch_embed.proj.bias": (0.03125, 0.0),
    }
    assert {name: found[name] for name in expected} == expected


def test_without_layer_decay_there_are_two_groups_and_without_a_model_too():
    for network in (Network(make_model()), nn.Linear(2, 3)):
        groups = layer_decay_groups(network, Recipe())
        assert sorted((g["lr_scale"], g["weight_decay"]) for g in groups) == [(1, 0), (1, 0.05)]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_changes_the_head_and_the_model_only_where_it_is_not_frozen(frozen):
    network = Network(make_model())
    set_drop_path(network.features.model, 0.5)
    (images,) = random_images(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups = layer_decay_groups(network, Recipe(frozen=frozen))
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    network.train()
    assert network.head.training
    assert all(part.training != frozen for part in network.features.modules())
    network(images).square().mean().backward()
    optimizer.step()
    changed = {
        name for name, old in before.items() if not torch.equal(network.state_dict()[name], old)
    }
    encoder = {name for name in before if name.startswith("features.model.enc_blocks")}
    assert {"head.linear.weight", "head.linear.bias"} <= changed
    assert changed.isdisjoint(encoder) if frozen else "features.model.enc_norm.bias" in changed
    if frozen:
        assert changed == {"head.linear.weight", "head.linear.bias"}


class Cut(Exception):
    pass


@pytest.mark.parametrize("ema", [None, 0.5])
def test_training_goes_on_as_if_it_had_not_been_cut(tmp_path, monkeypatch, ema):
    monkeypatch.setattr(module, "_KEEP_EVERY_S", 0.0)
    recipe = replace(RECIPE, ema=ema, clip_norm=None)  # which would hide how large a loss is
    snapshot = Snapshot(path=tmp_path / "cell" / "training.pt", fingerprint="this")

    def run(snapshot, network, *, until=None, seed=0):
        """Train with a loss that is random, as drop path is; return what it was asked."""
        torch.manual_seed(seed)
        task = Fit()
        plain = task.loss

        def loss(network, batch):
            if len(task.batches) == until:
                raise Cut
            return plain(network, batch) * (1 + torch.rand(()))

        task.loss = loss
        train(task, network, recipe, snapshot=snapshot)
        return task.batches

    def fresh():
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        return network

    whole = fresh()
    batches = run(None, whole)
    with pytest.raises(Cut):
        run(snapshot, fresh(), until=3)
    rest = fresh()
    assert run(snapshot, rest, seed=7) == batches[3:]
    assert torch.equal(rest.weight, whole.weight)
    ended = fresh()  # with nothing left to train
    assert run(snapshot, ended) == []
    assert torch.equal(ended.weight, whole.weight)
    other = fresh()
    assert run(replace(snapshot, fingerprint="another"), other) == batches
    snapshot.path.write_bytes(snapshot.path.read_bytes()[:100])
    assert run(snapshot, fresh()) == batches


class Normed(Fit):
    def loss(self, network, batch):
        return network(batch["label"].float()[:, None, None]).square().mean()


def test_statistics_of_a_norm_are_averaged_beside_the_weights(tmp_path, monkeypatch):
    """After a cut too."""
    monkeypatch.setattr(module, "_KEEP_EVERY_S", 0.0)
    snapshot = Snapshot(path=tmp_path / "cell" / "training.pt", fingerprint="this")

    def run(snapshot, *, until=None):
        head, means = LinearHead(1, 2), []

        def report(step, loss):
            if step == until:
                raise Cut
            means.append(float(head.norm.running_mean))

        recipe = replace(RECIPE, ema=0.5)
        train(Normed(), head, recipe, report=report, snapshot=snapshot)
        return float(head.norm.running_mean), means

    found, means = run(None)
    assert len(means) == 5
    average = 0.0
    for step, mean in enumerate(means):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * mean
    assert found == pytest.approx(average, rel=1e-5)
    assert found != pytest.approx(means[-1], rel=1e-3)
    with pytest.raises(Cut):
        run(snapshot, until=4)
    assert run(snapshot) == (found, means[3:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_that_a_cpu_began_goes_on_on_a_gpu(tmp_path):
    snapshot = Snapshot(path=tmp_path / "cell" / "training.pt", fingerprint="this")
    weights = []
    for device in ("cpu", "cuda"):
        network, task = nn.Linear(1, 1, bias=False).to(device), Fit()
        train(task, network, snapshot=snapshot)
        weights.append(network.weight.detach().cpu())
    assert task.batches == []  # nothing was left to train
    assert torch.equal(*weights)


def test_no_epochs_are_no_training_whatever_the_steps():
    task, network, _ = fitted(Recipe(epochs=0, max_steps=5))
    assert task.batches == []
    assert float(network.weight.detach()) == 0
    assert not network.training


class Damaged(Numbers):
    def __getitem__(self, number: int) -> Example:
        raise SampleError(f"number {number}: damaged")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_an_example_complains_of_comes_as_it_is_from_a_worker_too(num_workers):
    with pytest.raises(SampleError, match=r"^number \d: damaged$"):
        train(Fit(), nn.Linear(1, 1), examples=Damaged(), num_workers=num_workers)


def test_a_fraction_of_an_epoch_is_a_step_at_least():
    assert Recipe(epochs=0.01, batch_size=16).num_steps(48) == 1
    assert len(fitted(Recipe(epochs=1, batch_size=16, precision="float32"))[0].batches) == 1
    assert Recipe(epochs=0).num_steps(48) == 0


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(CrossviewError, match=r"fit: the loss is inf.*lower lr"):
        fitted(scale=float("inf"))


@pytest.mark.parametrize(("field", "value"), [("precision", "bf16"), ("head", "mlp")])
def test_a_choice_that_there_is_not_is_refused(field: str, value: str):
    with pytest.raises(CrossviewError, match=rf"{field} = '{value}': expected \w+ or \w+"):
        Recipe(**{field: value})
