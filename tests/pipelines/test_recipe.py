"""A whole run, from rooms to a report, at the smallest size that still does everything."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from generation.errors import CrossviewError
from generation.folder_lock import locked
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import read_config
from pipelines.config import ConfigError
from pipelines.executors.choice import make_executor
from pipelines.executors.protocol import Executor
from pipelines.inspection.page import read_accounts
from pipelines.recipe import RECIPES, Recipe, _digest_of, load_recipe, run_recipe
from pipelines.scene_sets import scene_sets
from training.checkpoint import load_newest, stored
from training.stopping import signals_blocked

MICRO = {
    "title": "A micro run",
    "render": {
        "scenes": ["procedural:0-1"],
        "num_pairs": 24,
        "pairs": {"image_size": [40, 40]},
        "shards": {"depth": True},
    },
    "pretrain": {
        "preset": "tiny",
        "model": {
            "image_size": 32, "patch_size": 8, "enc_dim": 24, "enc_depth": 1, "enc_heads": 2,
            "dec_dim": 24, "dec_depth": 1, "dec_heads": 2,
        },
        "optim": {"max_steps": 4, "batch_size": 4},
        "validation": {"num_pairs": 12, "every_steps": 2},
        "log_every_steps": 1,
    },
    "report": {"num_pairs": 2, "num_completions": 2},
}  # fmt: skip


serial = partial(make_executor, "serial")


def write_recipe(folder: Path) -> str:
    path = folder / "micro.yaml"
    path.write_text(yaml.safe_dump(MICRO | {"out": str(folder / "out")}))
    return str(path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")

    def stages() -> list[str]:
        found = re.findall(r"\[\d/\d\] (\w+: \w+)", caplog.text)
        caplog.clear()
        return found

    return stages


@pytest.mark.slow
def test_a_recipe_runs_from_rooms_to_a_report_and_then_only_what_changed(tmp_path: Path, log):
    name = write_recipe(tmp_path)
    recipe = load_recipe(name, {})

    assert run_recipe(recipe, serial(), until="render") == []
    assert log() == ["render: running"]
    assert not recipe.pretrain_folder.exists()

    run_recipe(recipe, serial())
    assert log() == ["render: up", "pretrain: running", "report: running"]
    page = (recipe.out / "report.html").read_text()
    assert "A micro run" in page
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page loads nothing from elsewhere"
    assert {p.name for p in (recipe.out / "report").glob("*.png")} == {
        "pair_0.png", "pair_1.png", "completions.png", "covisibility.png", "losses.png",
        "geometry.png",
    }  # fmt: skip

    run_recipe(recipe, serial())
    assert log() == ["render: up", "pretrain: up", "report: up"]

    (recipe.out / "report.html").unlink()
    run_recipe(recipe, serial())
    assert log() == ["render: up", "pretrain: up", "report: running"]

    longer = load_recipe(name, {"pretrain": {"optim": {"max_steps": 5}}})
    run_recipe(longer, serial())
    assert log() == ["render: up", "pretrain: running", "report: running"]
    assert (recipe.out / "pretrain.before-1").is_dir(), "the earlier run is kept"

    shard = next(recipe.pairs_folder.glob("*.tar"))
    shard.unlink()
    run_recipe(longer, serial(), until="render")
    assert log() == ["render: running"]
    assert shard.exists()


def test_a_model_that_sees_no_reference_has_a_report_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.report.MAX_ROWS", 10)
    recipe = load_recipe(write_recipe(tmp_path), {"pretrain": {"model": {"decoder": "self"}}})
    assert run_recipe(recipe, serial()) == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert "held-out scene" in page
    for words in ("lower validation loss", "shuffled", "found by cross-attention", "a CroCo of"):
        assert words not in page
    for words in ("and the reference", "other reference"):
        assert words not in page
    assert "Co-visibility of 10 pairs, evenly spread over all" in page


def test_training_goes_on_until_its_last_checkpoint_is_there_and_whole(
    tmp_path: Path, log, capsys: pytest.CaptureFixture
):
    name = write_recipe(tmp_path)
    recipe = load_recipe(name, {})
    run_recipe(recipe, serial(), until="render")
    with signals_blocked():  # one that waits is taken after the first step
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        run_recipe(recipe, serial())
    assert "stopped before step 4; the same command goes on" in capsys.readouterr().out
    assert list(json.loads((recipe.out / "stages.json").read_text())) == ["render"]
    assert [path.name for path in stored(recipe.pretrain_folder)] == ["step_00000001.pt"]
    assert log() == ["render: running", "render: up", "pretrain: running"]

    # What only says where and how it runs does not make it another training.
    elsewhere = os.path.relpath(recipe.out)
    free = {"out": elsewhere, "pretrain": {"activation_checkpointing": True}}
    run_recipe(load_recipe(name, free), serial(), until="pretrain")
    assert log() == ["render: up", "pretrain: running"]
    last = stored(recipe.pretrain_folder)[0]
    assert last.name == "step_00000004.pt"
    losses = (recipe.pretrain_folder / "metrics.jsonl").read_text()
    assert losses.count('"kind": "train"') == 4
    started = (recipe.pretrain_folder / "run.json").read_bytes()
    run_recipe(recipe, serial(), until="pretrain")
    assert log() == ["render: up", "pretrain: up"]
    assert (recipe.pretrain_folder / "run.json").read_bytes() == started

    for spoil in (lambda run: run.write_text("{"), lambda run: run.unlink()):
        spoil(recipe.pretrain_folder / "run.json")
        for state in ("running", "up"):
            run_recipe(recipe, serial(), until="pretrain")
            assert log() == ["render: up", f"pretrain: {state}"]

    last.unlink()
    run_recipe(recipe, serial(), until="pretrain")
    assert log() == ["render: up", "pretrain: running"]
    last.write_bytes(last.read_bytes()[:-100])
    run_recipe(recipe, serial())
    assert log() == ["render: up", "pretrain: running", "report: running"]
    assert load_newest(recipe.pretrain_folder)["step"] == 4
    assert not list(recipe.out.glob("*.before-*"))

    page = (recipe.out / "report.html").read_text()
    index = ShardIndex.open(recipe.pairs_folder)
    for position in (0, index.num_pairs - 1):
        record = ShardReader(index).record(position)
        assert f"{record['scene']}: co-visibility {record['covisibility']:.2f} " in page
    proposals = sum(account.proposals for account in read_accounts(index).values())
    assert f"{proposals:,} proposals" in page


def test_the_executor_is_closed_before_training_begins(tmp_path: Path):
    recipe = load_recipe(write_recipe(tmp_path), {})
    trained_when_closed = []

    @contextmanager
    def watched() -> Iterator[Executor]:
        with serial() as executor:
            yield executor
        trained_when_closed.append(recipe.pretrain_folder.exists())

    run_recipe(recipe, watched(), until="pretrain")
    assert recipe.pretrain_folder.exists()
    assert trained_when_closed == [False]


def test_fewer_pairs_move_the_old_ones_aside(tmp_path: Path):
    name = write_recipe(tmp_path)
    run_recipe(load_recipe(name, {}), serial(), until="render")
    held = ShardIndex.open(tmp_path / "out" / "pairs").num_pairs
    fewer = {"render": {"num_pairs": held - 1}}
    run_recipe(load_recipe(name, fewer), serial(), until="render")
    assert ShardIndex.open(tmp_path / "out" / "pairs").num_pairs == held - 1
    assert ShardIndex.open(tmp_path / "out" / "pairs.before-1").num_pairs == held


def test_a_new_seed_moves_the_old_pairs_aside(tmp_path: Path):
    name = write_recipe(tmp_path)
    run_recipe(load_recipe(name, {}), serial(), until="render")
    run_recipe(load_recipe(name, {"render": {"seed": 1}}), serial(), until="render")
    seeds = [
        json.loads((tmp_path / "out" / folder / "index.json").read_text())["config"]["seed"]
        for folder in ("pairs", "pairs.before-1")
    ]
    assert seeds == [1, 0]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_recipes_are_valid(path: Path):
    recipe = load_recipe(path.stem, {})
    assert recipe.pretrain_config.data.path == recipe.pairs_folder


def test_the_papers_recipe_is_the_papers():
    recipe = load_recipe("paper", {})
    assert recipe.render.pairs.image_size == (256, 256)
    assert recipe.render.pairs.overlap.official
    sets = [scene_sets()[pattern.partition(":")[0]] for pattern in recipe.render.scenes]
    splits = [split for each in sets for split in each.splits.values() if not split.held_out]
    assert sum(split.num_scenes or 0 for split in splits) == 2400  # as its comment says
    assert recipe.render.pairs_per_scene == 1000
    model = recipe.pretrain_config.model
    assert (model.image_size, model.patch_size, model.enc_dim, model.dec_depth) == (224, 16, 768, 8)
    assert recipe.render.shards.jpeg_quality == 75
    optim = recipe.pretrain_config.optim
    assert optim.num_steps(2_367_500 / 256) * optim.batch_size == 400 * 1_800_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"render": {"num_pair": 3}}, r"render\.num_pair: unknown key.*num_pairs"),
        ({"render": {"pairs": {"overlap": "0.6-0.4"}}}, r"overlap.*0\.6-0\.4"),
        ({"render": {"num_pairs": 0}}, r"num_pairs.*at least 1"),
        ({"pretrain": {"data": {"path": "elsewhere"}}}, r"trains on its own pairs"),
        ({"report": {"num_completions": 1}}, r"num_completions.*at least 2"),
        ({"pretrain": {"data": 5}}, r"pretrain\.data: expected .*, got 5"),
        ({"pretrain": {"data": None}}, r"pretrain\.data: expected .*, got null"),
        ({"pretrain": {"preset": "huge"}}, r"pretrain\.preset = 'huge'.*tiny"),
        ({"pretrain": {"presett": "tiny"}}, r"presett: unknown key.*did you mean preset\?"),
        ({"pretrain": {"optim": {"base_lr": "1e-4"}}}, r"pretrain\.optim\.base_lr: .*1\.0e-4"),
    ],
)
def test_a_wrong_value_is_named_before_any_work(tmp_path: Path, change: dict, message: str):
    with pytest.raises((ConfigError, CrossviewError), match=message):
        load_recipe(write_recipe(tmp_path), change)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_scene_that_failed_when_training_began_is_left_alone(tmp_path: Path, monkeypatch, log):
    """Till it is asked for: its pairs would have training begin anew."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    (scenes / "broken.glb").write_bytes(b"no mesh")
    overrides = {"render": {"scenes": ["procedural:0-1", str(scenes / "broken.glb")]}}
    recipe = load_recipe(write_recipe(tmp_path), overrides)
    (failure,) = run_recipe(recipe, serial(), until="pretrain")
    assert failure.startswith("broken")
    index = (recipe.pairs_folder / "index.json").read_bytes()
    log()
    export_glb(make_room(3), scenes / "broken.glb")
    (failure,) = run_recipe(recipe, serial(), until="pretrain")
    assert failure.startswith("broken: not all of its pairs could be made before training began")
    assert log() == ["render: up", "pretrain: up"]
    assert (recipe.pairs_folder / "index.json").read_bytes() == index
    assert run_recipe(recipe, serial(), until="render") == []
    assert (recipe.pairs_folder / "index.json").read_bytes() != index
    assert run_recipe(recipe, serial(), until="pretrain") == []
    assert (recipe.out / "pretrain.before-1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["edited", "added"])
def test_scans_that_are_edited_or_added_after_training_began_are_rendered(tmp_path: Path, change):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for number in (0, 1):
        export_glb(make_room(number), scenes / f"{number}.glb")
    recipe = load_recipe(write_recipe(tmp_path), {"render": {"scenes": [f"{scenes}/*.glb"]}})
    assert run_recipe(recipe, serial(), until="pretrain") == []
    index = (recipe.pairs_folder / "index.json").read_bytes()
    export_glb(make_room(7), scenes / ("1.glb" if change == "edited" else "2.glb"))
    assert run_recipe(recipe, serial(), until="pretrain") == []
    assert (recipe.pairs_folder / "index.json").read_bytes() != index
    assert (recipe.out / "pretrain.before-1").exists()


def test_auto_is_the_renderer_that_pairs_were_begun_with(tmp_path: Path, monkeypatch, log):
    """On a machine with a GPU and then on one without."""
    recipe = load_recipe(write_recipe(tmp_path), {})
    assert recipe.render.renderer == "auto"
    assert run_recipe(recipe, serial(), until="render") == []
    log()
    monkeypatch.setattr("generation.renderers.choice._gl_runs_on_a_gpu", lambda: True)
    next(recipe.pairs_folder.glob("*.tar")).unlink()
    assert run_recipe(recipe, serial(), until="render") == []
    assert run_recipe(recipe, serial(), until="render") == []
    assert log() == ["render: running", "render: up"]
    assert not list(recipe.out.glob("*.before-*"))


def test_pairs_of_a_gpu_wait_for_one(tmp_path: Path, monkeypatch):
    """Rather than that training begins with those that were made before it was gone."""
    monkeypatch.setattr("generation.renderers.choice._gl_runs_on_a_gpu", lambda: False)
    name = write_recipe(tmp_path)
    recipe = load_recipe(name, {})
    assert run_recipe(recipe, serial(), until="render") == []
    path = recipe.pairs_folder / "config.json"
    path.write_text(path.read_text().replace('"renderer": "embree"', '"renderer": "gl"'))
    next(recipe.pairs_folder.glob("*.tar")).unlink()
    with pytest.raises(CrossviewError, match="begun with renderer gl, for which there is no GPU"):
        run_recipe(recipe, serial())
    assert not recipe.pretrain_folder.exists()
    embree = load_recipe(name, {"render": {"renderer": "embree"}})
    assert run_recipe(embree, serial(), until="render") == []
    assert read_config(path)["renderer"] == "embree"
    assert (recipe.out / "pairs.before-1").exists()


def test_a_recipe_runs_once_at_a_time(tmp_path: Path):
    recipe = load_recipe(write_recipe(tmp_path), {})
    recipe.out.mkdir()
    with (
        locked(recipe.out),
        pytest.raises(CrossviewError, match="another run is writing to this folder"),
    ):
        run_recipe(recipe, serial())


def test_pairs_that_another_run_is_writing_are_not_moved_aside(tmp_path: Path):
    name = write_recipe(tmp_path)
    recipe = load_recipe(name, {})
    run_recipe(recipe, serial(), until="render")
    other = load_recipe(name, {"render": {"seed": 1}})
    with (
        locked(recipe.pairs_folder),
        pytest.raises(CrossviewError, match="another run is writing to this folder"),
    ):
        run_recipe(other, serial(), until="render")
    assert not list(recipe.out.glob("*.before-*"))


def test_an_unknown_recipe_names_ours():
    with pytest.raises(CrossviewError, match="demo, paper"):
        load_recipe("dmeo", {})


def test_a_scene_that_fails_is_told_every_time(tmp_path: Path):
    scenes = ["procedural:0", str(tmp_path / "gone.glb")]
    recipe = load_recipe(write_recipe(tmp_path), {"render": {"scenes": scenes, "num_pairs": 4}})
    for _ in range(2):
        (failure,) = run_recipe(recipe, serial(), until="render")
        assert "gone.glb: no such file" in failure


@pytest.mark.parametrize(
    ("render", "message"),
    [
        ({"scenes": ["procedural:0"]}, "pairs of only one scene"),
        ({"pairs": {"image_size": [40, 31]}}, "image_size = 31: expected at least 32, the model's"),
    ],
)
def test_what_cannot_be_trained_on_is_not_rendered(tmp_path: Path, render: dict, message: str):
    recipe = load_recipe(write_recipe(tmp_path), {"render": render})
    with pytest.raises(CrossviewError, match=message):
        run_recipe(recipe, serial())
    assert not (tmp_path / "out" / "pairs").exists()


def test_a_report_of_scenes_that_are_trained_on_and_of_a_mask_that_does_not_rise_says_so(
    tmp_path: Path,
):
    """Pictures keep the pairs' shape."""
    data = {"val_path": str(tmp_path / "out" / "pairs")}
    changes = {
        "render": {"pairs": {"image_size": [40, 60]}},
        "pretrain": {"mask": {"ratio_start": None}, "data": data},
    }
    assert run_recipe(load_recipe(write_recipe(tmp_path), changes), serial()) == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not all held out: 2 of them were trained on too" in page
    assert "held-out" not in page
    assert "from None" not in page
    with Image.open(tmp_path / "out" / "report" / "pair_0.png") as picture:
        assert picture.size == (2 * 288, 2 * 192)


def test_a_damaged_state_file_is_named(tmp_path: Path):
    recipe: Recipe = load_recipe(write_recipe(tmp_path), {})
    recipe.out.mkdir()
    (recipe.out / "stages.json").write_text("{")
    with pytest.raises(CrossviewError, match=r"stages\.json: damaged"):
        run_recipe(recipe, serial(), until="render")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"out": "memory://out"}, "expected a folder"), ({"pretrain": {"preset": []}}, "preset = ")],
)
def test_a_recipe_that_cannot_be_is_refused(overrides: dict, message: str):
    with pytest.raises(CrossviewError, match=message):
        load_recipe("demo", overrides)


def test_other_data_to_validate_on_or_to_mix_in_or_first_weights_train_anew(tmp_path: Path):
    name = write_recipe(tmp_path)
    data = [
        {},
        {"val_path": str(tmp_path / "a")},
        {"val_path": str(tmp_path / "b")},
        {"mixture": [{"path": str(tmp_path / "a")}]},
        {"mixture": [{"path": str(tmp_path / "b")}]},
    ]
    changes = [*({"data": each} for each in data), {"init": str(tmp_path / "a")}]
    recipes = [load_recipe(name, {"pretrain": each}) for each in changes]
    assert len({_digest_of(recipe, "pretrain") for recipe in recipes}) == len(changes)
