"""crossview evaluate: one table of models, tasks and seeds."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import synthetic
import torch
from micro import MICRO
from PIL import Image
from synthetic import write_dataset
from tiny_layouts import (
    ade20k,
    flying_chairs,
    imagenet,
    kitti_flow,
    kitti_stereo,
    nyuv2,
    scannet1500,
    seven_scenes,
    sintel,
    taskonomy_views,
)

from generation.errors import CrossviewError
from generation.shards.schema import Sidecar, sidecar_path
from pipelines.cli import main
from pipelines.evaluation import cells as module
from pipelines.evaluation import contenders as contenders_module
from pipelines.evaluation.benchmarks import Benchmark, Source
from pipelines.evaluation.cells import Cell, evaluate_all
from pipelines.evaluation.contenders import CONSTANT, Contender, Weights, contenders
from pipelines.evaluation.report import Summary, parts_of, write_report
from training.checkpoint import load_model
from training.data import DataConfig, open_split
from training.device import device_name
from training.distributed import Process
from training.downstream import finetune
from training.downstream.depth import Depth
from training.downstream.evaluation import VERSION, untrained
from training.downstream.recipe import Recipe
from training.downstream.tasks import TASKS
from training.model.croco import ModelConfig
from training.model.weights import weights_digest
from training.model_folder import write_model_folder
from training.presets import PRESETS

QUICK = ["--set", "max_steps=2", "batch_size=2", "head_width=8", "precision=float32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Two seeds of a model that looks at both views, and one that does not."""
    folder = tmp_path_factory.mktemp("weights")
    for name, seed, decoder in (("two-0", 0, "cross"), ("two-1", 1, "cross"), ("one", 0, "self")):
        config = ModelConfig(**{**MICRO["model"], "decoder": decoder})
        write_model_folder(untrained(config, seed), folder / name)
    return folder


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu", *QUICK])


def complaint_of(capsys, *arguments: object) -> str:
    """Return what is said of arguments that are refused."""
    assert evaluate(*arguments) == 2
    complaint: str = capsys.readouterr().err
    assert "Traceback" not in complaint
    return complaint


def records(out: Path) -> dict[tuple[str, str, str], list[float]]:
    return {
        (record["benchmark"], record["weights"], record["metric"]): record["values"]
        for record in json.loads((out / "results.json").read_text())
    }


def test_one_table_of_models_tasks_and_seeds(data, weights, tmp_path, capsys, monkeypatch):
    arguments = [
        *("--weights", f"two={weights}/two-{{seed}}", "--weights", weights / "one", "--scratch"),
        *("--task", "depth,correspondence", "--data", data, "--seeds", 2, "--num-val", 3),
        *("--out", tmp_path),
    ]
    assert evaluate(*arguments) == 0
    found = records(tmp_path)
    assert {label for _, label, _ in found} == {"two", "one", "scratch", "constant"}
    assert len(found["depth", "constant", "rmse_m"]) == 1
    assert ("correspondence", "constant", "attention_pck") not in found
    assert all(len(found["depth", label, "rmse_m"]) == 2 for label in ("two", "one", "scratch"))
    # Without a decoder that sees the second view there is no attention: missing, never zero.
    assert found["correspondence", "one", "attention_pck"] == []
    assert len(found["correspondence", "two", "attention_pck"]) == 2
    # Without training, seeds of the same weights would say the same again.
    for label, seeds in (("two", 2), ("scratch", 2), ("one", 1)):
        assert len(found["correspondence", label, "features_pck"]) == seeds
    # scratch is what pre-training with the same seed begins with, as these weights are.
    assert found["depth", "two", "rmse_m"] == found["depth", "scratch", "rmse_m"]
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in capsys.readouterr().out
    for picture in ("results.png", "depth/one/seed_1/picture_0.png"):
        assert (tmp_path / picture).stat().st_size > 3000

    # The same command makes nothing anew, not even where older code did not say on which device; a
    # lost cell alone comes again, with the same numbers.
    older = tmp_path / "depth" / "one" / "seed_0" / "result.json"
    record = json.loads(older.read_text())
    assert record.pop("device") == device_name(torch.device("cpu"))
    older.write_text(json.dumps(record))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    lost = tmp_path / "depth" / "one" / "seed_1" / "result.json"
    lost.unlink()
    assert evaluate(*arguments) == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert records(tmp_path) == found

    # Each file of weights is read once, to compare it, and no network is built.
    read = []
    real = contenders_module.load_model
    monkeypatch.setattr(
        contenders_module, "load_model", lambda path: read.append(Path(path).name) or real(path)
    )
    monkeypatch.delattr(module, "CroCo")
    assert evaluate(*arguments) == 0
    assert read == ["two-0", "two-1", "one"]


def test_public_datasets(weights, tmp_path, capsys):
    """Each is trained on and judged on by itself; then one is judged on after another."""
    writers = {
        "nyuv2": nyuv2,
        "kitti": kitti_flow,
        "ade20k": ade20k,
        "imagenet": imagenet,
        "taskonomy": taskonomy_views,
        "seven_scenes": seven_scenes,
        "flying_chairs": flying_chairs,
        "scannet1500": scannet1500,
    }
    for name, write in writers.items():
        write(tmp_path / name)
    kitti_stereo(tmp_path / "kitti")
    layouts = {name: f"{name}={tmp_path / name}" for name in writers}
    judge = ("--weights", weights / "one", "--out", tmp_path / "out", "--task")
    of_tasks = {
        "depth-nyuv2": "delta1",
        "flow-kitti": "fl_all",
        "segmentation-ade20k": "miou",
        "classification-imagenet": "top1",
        "stereo-kitti": "d1",
        "taskonomy_normal-taskonomy": "mean_deg",
        "pose-seven_scenes": "median_rotation_deg",
    }
    tasks = ",".join(name.partition("-")[0] for name in of_tasks)
    named = dict.fromkeys(layouts[name.partition("-")[2]] for name in of_tasks)
    datasets = [word for layout in named for word in ("--dataset", layout)]
    assert evaluate(*judge, tasks, *datasets) == 0
    found = records(tmp_path / "out")
    for benchmark, metric in of_tasks.items():
        assert len(found[benchmark, "one", metric]) == 1
        assert (tmp_path / "out" / benchmark / "one" / "seed_0" / "picture_0.png").exists()

    other = ("--dataset", layouts["flying_chairs"], "--val-dataset", layouts["kitti"])
    assert evaluate(*judge[:2], "--out", tmp_path / "other", "--task", "flow", *other) == 0
    assert next(iter(records(tmp_path / "other")))[0] == "flow-kitti"
    poses = ("--task", "pose", "--dataset", layouts["scannet1500"], "--out", tmp_path / "poses")
    assert evaluate(*judge[:2], *poses) == 2
    assert "nothing to train pose on" in capsys.readouterr().err
    depth = ("--task", "depth,flow", *other, "--dataset", layouts["nyuv2"])
    assert evaluate(*judge[:4], *depth) == 2
    assert "it takes --val-data DIR, --val-dataset nyuv2=DIR" in capsys.readouterr().err


def test_tasks_of_two_views_on_our_shards(data, weights, tmp_path):
    """Of what was pre-trained on pairs and on single images; then poses are judged elsewhere."""
    judge = ("--weights", weights / "two-0", "--weights", weights / "one", "--data", data)
    tasks = ("--task", "flow,pose,pointmaps", "--num-val", 2)
    assert evaluate(*judge, *tasks, "--out", tmp_path / "ours") == 0
    found = records(tmp_path / "ours")
    for label in ("two-0", "one"):
        assert len(found["flow", label, "epe_seen_px"]) == 1
        assert len(found["pose", label, "median_rotation_deg"]) == 1
        assert len(found["pointmaps", label, "match_recall"]) == 1
        assert (tmp_path / "ours/pointmaps" / label / "seed_0/picture_0.png").exists()

    scannet1500(tmp_path / "scannet")
    elsewhere = ("--task", "pose", "--val-dataset", f"scannet1500={tmp_path / 'scannet'}")
    assert evaluate(*judge, *elsewhere, "--out", tmp_path / "elsewhere") == 0
    assert len(records(tmp_path / "elsewhere")["pose-scannet1500", "one", "auc20"]) == 1


@pytest.mark.parametrize(
    ("task", "val", "told"),
    [
        ("pose", "scannet1500", "60.0 degrees, but judged on views of 47.9, .*hfov_deg=47.9$"),
        ("pointmaps", "narrow", "60.0 degrees, but judged on views of 50.0, .*hfov_deg=50.0$"),
        ("pointmaps", "same", None),
        ("depth", "narrow", None),  # sees pictures tile by tile
        ("flow", "narrow", None),  # learns pixels
    ],
)
def test_views_of_another_width_are_told(data, tmp_path, monkeypatch, caplog, task, val, told):
    if val == "scannet1500":
        scannet1500(tmp_path / val)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(synthetic, "HFOV_DEG", 50.0 if val == "narrow" else 60.0)
            write_dataset(tmp_path / val, scenes=1, first_scene=10)
    layout = val if val == "scannet1500" else "shards"
    benchmark = Benchmark(
        task=TASKS[task],
        data=Source(layout="shards", root=data),
        val=Source(layout=layout, root=tmp_path / val, label=val),
        recipe=Recipe(),
    )
    evaluate_all([benchmark], [], seeds=1, out=tmp_path / "out", device="cpu", num_train=2)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == (told is not None)
    if told:
        assert re.search(f"^{task}-{val}: trained on views of {told}", warnings[0])


def test_a_cell_that_was_made_otherwise_is_refused(data, weights, tmp_path, capsys):
    arguments = ("--weights", weights / "one", "--task", "depth", "--data", data, "--out", tmp_path)
    assert evaluate(*arguments) == 0
    assert evaluate(*arguments, "--num-val", 2) == 2
    assert "num_val" in capsys.readouterr().err


def test_a_result_of_older_code_is_refused(data, weights, tmp_path, capsys):
    arguments = ("--weights", weights / "one", "--task", "depth", "--data", data, "--out", tmp_path)
    assert evaluate(*arguments) == 0
    path = tmp_path / "depth" / "one" / "seed_0" / "result.json"
    record = json.loads(path.read_text())
    assert record["request"].pop("version") == VERSION
    record["request"]["metrics"].pop()
    path.write_text(json.dumps(record))
    assert evaluate(*arguments) == 2
    complaint = capsys.readouterr().err
    for words in ("version: absent before", "metrics: ", "take another --out, or remove it"):
        assert words in complaint


def test_scenes_that_are_judged_are_not_trained_on(data, weights, tmp_path, capsys):
    """One scene is enough to be judged on, and all scenes of another folder are."""
    one_scene = write_dataset(tmp_path / "one", scenes=1)
    arguments = ("--weights", weights / "one", "--task", "depth", "--out", tmp_path / "out")
    assert evaluate(*arguments, "--data", data, "--val-data", one_scene) == 0
    path = tmp_path / "out" / "depth" / "one" / "seed_0" / "result.json"
    request = json.loads(path.read_text())["request"]
    assert (request["num_train"], request["num_val"]) == (36, 12)
    other = ("--out", tmp_path / "other")
    assert evaluate(*arguments, *other, "--data", data, "--val-data", data) == 2
    assert "nothing to train depth on, as all of its scenes are judged" in capsys.readouterr().err
    untrained = ("--task", "correspondence", "--data", data, "--val-data", data, "--num-val", 2)
    assert evaluate(*arguments, *other, *untrained) == 0


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """Gather the numbers of examples of all trainings."""
    found: list[int] = []
    real = module.fine_tuned

    def counted(task, model, splits, *arguments, **more):
        found.append(len(splits.train))
        return real(task, model, splits, *arguments, **more)

    monkeypatch.setattr(module, "fine_tuned", counted)
    return found


def test_what_is_trained_alike_is_trained_once(data, weights, tmp_path, trained):
    """Rooms of other scenes leave the training as it is; those of its own leave it less."""
    other = write_dataset(tmp_path / "other", first_scene=10)
    more = write_dataset(tmp_path / "more", first_scene=20)
    own = write_dataset(tmp_path / "own", scenes=1)
    judge = ("--weights", weights / "one", "--task", "depth", "--data", data, "--num-val", 3)
    texts = (other, f"more={more}", f"own={own}")
    several = [word for text in texts for word in ("--val-data", text)]
    assert evaluate(*judge, *several, "--out", tmp_path / "out") == 0
    assert trained == [48, 36]
    found = records(tmp_path / "out")
    names = ("depth", "depth-more", "depth-own")
    assert {name for name, *_ in found} == set(names)
    values = [found[name, "one", "rmse_m"] for name in names]
    assert len({value for (value,) in values}) == 3

    # One by one they are the same, and one that is added takes nothing from those that are there.
    assert evaluate(*judge, "--val-data", f"more={more}", "--out", tmp_path / "single") == 0
    alone = records(tmp_path / "single")
    assert alone == {key: value for key, value in found.items() if key[0] == "depth-more"}
    assert evaluate(*judge, *several, "--out", tmp_path / "single") == 0
    assert trained == [48, 36, 48, 48, 36]
    assert records(tmp_path / "single") == found


class Cut(Exception):
    pass


def test_random_weights_are_judged_alone_where_their_shape_is_named(weights):
    (alone,) = contenders([], seeds=2, scratch="tiny")
    assert alone.label == "scratch"
    tiny = ModelConfig(**PRESETS["tiny"]["model"])
    assert [each.config for each in alone.weights] == [tiny] * 2
    first, second = (each.sha256 for each in alone.weights)
    assert first == weights_digest(untrained(tiny, 0)) != second
    one, scratch = contenders([str(weights / "one")], seeds=1, scratch=f"{weights}/two-0")
    shape = load_model(weights / "two-0").config
    assert one.weights[0].config != scratch.weights[0].config == shape


@pytest.mark.parametrize(
    ("scratch", "words"),
    [
        ([], "nothing to judge: --weights PATH, or --scratch SHAPE"),
        (["--scratch"], "nothing to judge: --weights PATH, or --scratch SHAPE"),
        (["--scratch", "tinny"], "--scratch: tinny: .* it is no preset either, which are tiny, "),
    ],
)
def test_what_is_no_contender_is_refused(scratch, words, data, tmp_path, capsys):
    assert evaluate(*scratch, "--task", "depth", "--data", data, "--out", tmp_path / "out") == 2
    assert re.search(words, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "out").exists()


def test_a_training_is_kept_until_all_is_judged(weights, tmp_path, monkeypatch):
    """Cut in training, cut in judging, then judged on what is damaged, then mended."""
    nyuv2(tmp_path / "train")
    for name in ("first", "second"):
        nyuv2(tmp_path / name)
    vals = [Source(layout="nyuv2", root=tmp_path / n, label=n) for n in ("first", "second")]
    task, cut_at = Counting(), 3
    data = Source(layout="nyuv2", root=tmp_path / "train")
    recipe = Recipe(max_steps=5, batch_size=2, head_width=8, precision="float32")
    some = [Benchmark(task=task, data=data, val=val, recipe=recipe) for val in vals]
    models = contenders([str(weights / "one")], seeds=1, scratch=False)

    def go(out=tmp_path / "out"):
        task.num_steps = 0
        cells, failures = evaluate_all(some, models, seeds=1, out=out, device="cpu")
        found = {cell.benchmark: cell.metrics for cell in cells if cell.label == "one"}
        return found, failures

    expected, _ = go(tmp_path / "whole")
    assert task.num_steps == 5
    kept = tmp_path / "out" / "depth-first" / "one" / "seed_0" / "training.pt"

    monkeypatch.setattr(finetune, "_KEEP_EVERY_S", 0.0)
    task.cut_at = cut_at
    with pytest.raises(Cut):
        go()
    assert kept.exists()
    (kept.parent / f".{kept.name}.dead.partial").write_bytes(b"killed while it was written")
    task.cut_at = None
    with monkeypatch.context() as patch:
        real = module.judged
        patch.setattr(module, "judged", lambda *given, **more: real(*given, **more) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go()
    assert 0 < task.num_steps <= 5 - (cut_at - 1)

    depth = sorted((tmp_path / "second/test").rglob("sync_depth_*.png"))[-1]
    whole = depth.read_bytes()
    depth.write_bytes(whole[:40])
    found, failures = go()
    assert task.num_steps == 0
    assert found == {"depth-first": expected["depth-first"]}
    assert {failure.benchmark for failure in failures} == {"depth-second"}
    assert kept.exists()

    depth.write_bytes(whole)
    assert go() == (expected, [])
    assert task.num_steps == 0
    assert [path.name for path in kept.parent.iterdir() if "training" in path.name] == []
    kept.touch()  # as if killed before it was removed
    assert go() == (expected, [])
    assert not kept.exists()


class Counting(Depth):
    """Counts its steps, and may be cut at one of them."""

    num_steps = 0
    cut_at: int | None = None

    def loss(self, network, batch):
        self.num_steps += 1
        if self.num_steps == self.cut_at:
            raise Cut
        return super().loss(network, batch)


def test_one_training_is_judged_on_several_public_datasets(weights, tmp_path, trained):
    layouts = {"flying_chairs": flying_chairs, "kitti": kitti_flow, "sintel_clean": sintel}
    for name, write in layouts.items():
        write(tmp_path / name)
    chairs, *others = (f"{name}={tmp_path / name}" for name in layouts)
    vals = [word for layout in others for word in ("--val-dataset", layout)]
    judge = ("--weights", weights / "two-0", "--task", "flow", "--out", tmp_path / "out")
    assert evaluate(*judge, "--dataset", chairs, *vals) == 0
    assert trained == [2]
    names = {name for name, *_ in records(tmp_path / "out")}
    assert names == {"flow-kitti", "flow-sintel_clean"}


def test_shards_of_one_scene_go_with_a_public_dataset(weights, tmp_path):
    one_scene = write_dataset(tmp_path / "one", scenes=1)
    public = Source(layout="nyuv2", root=nyuv2(tmp_path / "nyu") or tmp_path / "nyu")
    ours = Source(layout="shards", root=one_scene)
    for first, second in ((ours, public), (public, ours)):
        one = Benchmark(task=TASKS["depth"], data=first, val=second, recipe=Recipe())
        splits = one.open(None, None)
        assert len(splits.train if first is ours else splits.val) == 12
        assert len(splits.val if first is ours else splits.train) in range(1, 12)


def test_what_is_judged_on_has_the_classes_that_are_trained_on(tmp_path):
    imagenet(tmp_path / "three")
    shutil.copytree(tmp_path / "three", tmp_path / "two")
    three, two = (Source(layout="imagenet", root=tmp_path / name) for name in ("three", "two"))
    benchmark = Benchmark(task=TASKS["classification"], data=three, val=two, recipe=Recipe())
    assert len(benchmark.open(None, None).val) == 3
    for split in ("train", "val"):
        shutil.rmtree(two.root / split / "n01")
    with pytest.raises(CrossviewError, match=r"two: 1 classes that are only .*three: n01; labels"):
        benchmark.open(None, None)


def test_a_dataset_is_the_same_by_another_spelling_of_its_path(
    data, weights, tmp_path, monkeypatch, capsys
):
    nyuv2(tmp_path / "nyu")
    for option, folder, layout in (("--data", data, ""), ("--dataset", tmp_path / "nyu", "nyuv2=")):
        monkeypatch.chdir(folder.parent)
        arguments = ("--weights", weights / "one", "--task", "depth", "--out", tmp_path / "out")
        assert evaluate(*arguments, option, f"{layout}{folder.name}") == 0
        assert evaluate(*arguments, option, f"{layout}{folder}") == 0


def test_a_map_of_another_size_than_its_image_is_named(weights, tmp_path, capsys):
    nyuv2(tmp_path)
    Image.new("I;16", (9, 7)).save(tmp_path / "test/a/sync_depth_3.png")
    given = ("--dataset", f"nyuv2={tmp_path}", "--out", tmp_path / "out")
    complaint = complaint_of(capsys, "--weights", weights / "one", "--task", "depth", *given)
    assert "sync_depth_3.png" in complaint


def test_a_file_that_is_missing_is_named(weights, tmp_path, capsys):
    kitti_flow(tmp_path)
    (tmp_path / "training/image_2/000001_11.png").unlink()
    given = ("--dataset", f"kitti={tmp_path}", "--out", tmp_path / "out")
    complaint = complaint_of(capsys, "--weights", weights / "two-0", "--task", "flow", *given)
    assert "000001" in complaint


def test_a_metric_of_which_nothing_is_known_is_missing_and_not_zero(weights, tmp_path, capsys):
    """The depth of all that is judged on is unknown: 0 in its files."""
    nyuv2(tmp_path)
    for path in (tmp_path / "test").rglob("sync_depth_*.png"):
        size = Image.open(path).size
        Image.new("I;16", size).save(path)
    given = ("--dataset", f"nyuv2={tmp_path}", "--out", tmp_path / "out")
    assert evaluate("--weights", weights / "one", "--task", "depth", *given) == 0
    for record in json.loads((tmp_path / "out/results.json").read_text()):
        assert (record["values"], record["mean"], record["deviation"]) == ([], None, None)
    assert re.search(r"\| one (\| - )+\|", (tmp_path / "out/results.md").read_text())
    assert (tmp_path / "out/depth-nyuv2/one/seed_0/picture_0.png").exists()


def test_a_path_of_weights_may_have_an_equals_sign(weights, tmp_path):
    shutil.copytree(weights / "one", tmp_path / "w=1" / "one")
    path = f"{tmp_path}/w=1/one"
    named, alone = contenders([f"A={path}", path], seeds=1, scratch=False)
    assert (named.label, named.path) == ("A", path)
    assert (alone.label, alone.path) == ("one", path)


def test_weights_that_change_meanwhile_are_refused(weights, tmp_path):
    shutil.copytree(weights / "two-0", tmp_path / "two")
    (contender,) = contenders([str(tmp_path / "two")], seeds=1, scratch=False)
    contender.model(0)
    shutil.copytree(weights / "two-1", tmp_path / "two", dirs_exist_ok=True)
    with pytest.raises(CrossviewError, match="other weights than when the evaluation began"):
        contender.model(0)


def damage(tar: Path, keep: int = 0) -> None:
    """Zero the first images of all pairs but the first ones; the file keeps its size."""
    contents = bytearray(tar.read_bytes())
    for members in list(Sidecar.read(sidecar_path(tar)).samples.values())[keep:]:
        offset, size = members["view1.jpg"]
        contents[offset : offset + size] = bytes(size)
    tar.write_bytes(contents)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_fails_does_not_cost_the_rest(data, weights, tmp_path, capsys, num_workers):
    """Depth trains on damaged images; correspondence is judged on scenes that are whole."""
    folder, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, folder)
    for entry in open_split(DataConfig(path=folder)).train.shards:
        damage(folder / entry.name)
    arguments = (
        *("--weights", weights / "two-0", "--task", "depth,correspondence", "--data", folder),
        *("--num-val", 2, "--num-workers", num_workers, "--out", out),
    )
    assert evaluate(*arguments) == 2
    shown = capsys.readouterr()
    assert "crossview: 2 of the results failed:\n  depth, two-0, seed 0: " in shown.err
    assert "Traceback" not in shown.err
    text = (out / "results.md").read_text()
    assert text.strip() in shown.out
    assert re.search(
        r"\| two-0 (\| - )+\| 0 \| - \|\n\nMissing:\n\n- two-0, seed 0: .*damaged.*\n- constant",
        text,
    )
    found = json.loads((out / "results.json").read_text())
    for record in found:
        depth = record["benchmark"] == "depth"
        assert len(record["values"]) == (0 if depth else 1)
        assert [failed["seed"] for failed in record["failed"]] == ([0] if depth else [])

    shutil.copytree(data, folder, dirs_exist_ok=True)
    assert evaluate(*arguments) == 0
    assert "Missing" not in (out / "results.md").read_text()


def test_what_cannot_be_judged_on_one_dataset_is_judged_on_the_others(data, weights, tmp_path):
    whole = write_dataset(tmp_path / "whole", scenes=1, first_scene=10)
    damaged = write_dataset(tmp_path / "damaged", scenes=1, first_scene=11)
    damage(next(damaged.glob("*.tar")), keep=1)
    vals = ("--val-data", f"damaged={damaged}", "--val-data", f"whole={whole}")
    arguments = ("--weights", weights / "one", "--task", "depth", "--data", data, *vals)
    assert evaluate(*arguments, "--out", tmp_path / "out") == 2
    found = records(tmp_path / "out")
    assert found["depth-damaged", "one", "rmse_m"] == []
    assert len(found["depth-whole", "one", "rmse_m"]) == 1


def test_workers_that_read_change_no_result(data, weights, tmp_path):
    arguments = ("--weights", weights / "one", "--task", "depth", "--data", data, "--num-val", 3)
    assert evaluate(*arguments, "--out", tmp_path / "0") == 0
    assert evaluate(*arguments, "--out", tmp_path / "1", "--num-workers", 1) == 0
    assert records(tmp_path / "0") == records(tmp_path / "1")


class Hungry(Depth):
    """Runs out of the device's memory in training."""

    def loss(self, network, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")


class HungryLater(Depth):
    """Runs out of the device's memory when it is judged."""

    def predict(self, network, example, recipe):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("task", "named"), [(Hungry(), "batch_size = 2"), (HungryLater(), "crop = (32, 32), judged")]
)
def test_too_little_memory_is_one_sentence(data, weights, tmp_path, task, named):
    ours = Source(layout="shards", root=data)
    recipe = Recipe(max_steps=1, batch_size=2, head_width=8)
    models = contenders([str(weights / "one")], seeds=1, scratch=False)
    benchmark = Benchmark(task=task, data=ours, recipe=recipe)
    cells, failures = evaluate_all([benchmark], models, seeds=1, out=tmp_path, device="cpu")
    assert [cell.label for cell in cells] == ["constant"]
    assert str(failures[0]).startswith(f"depth, one, seed 0: {named}: does not fit into")


def test_nothing_is_trained_before_all_can_be(data, weights, tmp_path, capsys):
    """Neither a missing dataset of the second task nor the missing weights of the second seed."""
    both = ("--task", "depth,pose", "--data", data, "--out", tmp_path)
    assert evaluate("--weights", weights / "one", *both, "--dataset", "seven_scenes=nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert evaluate("--weights", f"one={weights}/two-{{seed}}", *both, "--seeds", 3) == 2
    assert "two-2" in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))


def test_an_architecture_is_part_of_a_result(data, weights, tmp_path, capsys):
    """Weights of the same shapes with another number of heads compute something else."""
    other = ModelConfig(**{**MICRO["model"], "decoder": "self", "enc_heads": 4})
    model = untrained(other, 0)
    write_model_folder(model, tmp_path / "one")
    arguments = ("--task", "depth", "--data", data, "--out", tmp_path / "out")
    assert evaluate("--weights", weights / "one", *arguments) == 0
    assert evaluate("--weights", tmp_path / "one", *arguments) == 2
    assert "enc_heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "sleep", "--data", "{data}"], ["'sleep'", "depth:"]),
        (["--task", "depth", "--data", "{data}", "--weights", "nothing"], ["nothing"]),
        (["--task", "depth", "--data", "nothing"], ["nothing"]),
        (["--task", "depth"], ["no dataset", "--data DIR", "--dataset nyuv2=DIR"]),
        (["--task", "depth", "--dataset", "kitty=x"], ["kitty", "nyuv2"]),
        (["--task", "depth", "--dataset", "nyuv2"], ["LAYOUT=DIR"]),
        (["--task", "depth", "--dataset", "nyuv2={data}"], ["NYU", "http"]),
        (["--task", "depth", "--data", "{data}", "--seeds", "0"], ["--seeds = 0"]),
        (["--task", "depth", "--data", "{data}", "--num-workers", "-1"], ["--num-workers = -1"]),
        (["--task", "depth", "--data", "{data}", "--set", "betas=[2, 3]"], ["betas"]),
        (["--task", "depth", "--data", "{data}", "--set", "resize=[0, 9]"], ["resize"]),
        (["--task", "depth", "--data", "{data}", "--val-dataset", "kitti=x"], ["kitti", "none"]),
        (["--task", "depth", "--data", "{data}", "--val-data", "nowhere"], ["nowhere"]),
        (
            ["--task", "depth", "--data", "{data}", "--val-data", "a", "--val-data", "b"],
            ["--val-data b", "there is a already", "--val-data other=b"],
        ),
        (["--task", "depth", "--data", "{data}", "--val-data", ".x=a"], ["--val-data: '.x'"]),
        (["--task", "depth", "--data", "{data}", "--val-data", "x="], ["--val-data x=: expected"]),
        (
            [
                *("--task", "depth", "--data", "{data}"),
                *("--val-data", "nyuv2=a", "--val-dataset", "nyuv2=b"),
            ],
            ["depth-nyuv2", "label those of --val-data otherwise"],
        ),
        (
            ["--task", "depth", "--dataset", "nyuv2=a", "--dataset", "nyuv2=b"],
            ["nyuv2=b", "already"],
        ),
        (["--task", "depth", "--data", "{data}", "--recipe", "long"], ["long", "published"]),
        (["--task", "depth", "--data", "{data}", "--set", "stepz=1"], ["stepz", "max_steps"]),
        (["--task", "depth", "--data", "{data}", "--set", "crop=[20, 20]"], ["crop", "patch_size"]),
        (["--task", "pose", "--data", "{data}", "--set", "head=linear"], ["pose: head", "dpt"]),
        (
            ["--task", "flow", "--data", "{data}", "--set", "frozen=true"],
            ["frozen = True", "cross-attention is new"],
        ),
        (
            ["--task", "depth,correspondence", "--data", "{data}", "--set", "epochs=1"],
            ["correspondence: epochs = 1", "not trained"],
        ),
        (["--task", "depth", "--data", "{data}", "--weights", "{one}"], ["called 'one'"]),
        (["--task", "depth", "--data", "{data}", "--weights", "constant={one}"], ["'constant'"]),
    ],
)
def test_bad_input_is_named(data, weights, tmp_path, capsys, arguments, words):
    given = [text.format(data=data, one=weights / "one") for text in arguments]
    out = ("--out", tmp_path / "out")
    complaint = complaint_of(capsys, "--weights", weights / "one", *given, *out)
    for word in words:
        assert word in complaint


def test_a_table_says_mean_and_deviation_and_what_is_missing():
    assert Summary(values=(1.0, 2.0, 3.0)).text(2) == "2.00 ± 1.00"
    assert Summary(values=(1.5,)).text(1) == "1.5"
    assert Summary(values=(1.0, 3.0)).text(1, of=3) == "2.0 ± 1.4 (2 of 3)"
    assert Summary(values=()).text(3) == "-"


def test_ranks_are_means_over_the_benchmarks_that_all_have(tmp_path):
    """First of delta1, where more is better, and second of epe, where less is."""
    scores = {"depth": {"a": 0.9, "b": 0.8}, "flow": {"a": 3.0, "b": 2.0}, "pose": {"a": 5.0}}
    chosen = [benchmark_of(name, tmp_path) for name in scores]
    cells = [
        cell_of(each, label, 0, scores[each.name].get(label))
        for each in chosen
        for label in ("a", "b")
    ]
    text = write_report(tmp_path, "Evaluation", chosen, contenders_of("a", "b"), cells)
    assert "rel ↓ | rmse_m ↓ | seeds" in text  # its name has the unit
    assert "mean rank in 2 benchmarks that all have" in text
    assert "| a | 1.50 |\n| b | 1.50 |" in text
    first = json.loads((tmp_path / "results.json").read_text())[0]
    assert (first["mean"], first["deviation"], first["minutes_a_seed"]) == (0.9, None, 0.2)


def test_taskonomy_ranks_models_over_its_eight_tasks(tmp_path):
    """Of errors, where less is better: a is ahead in three tasks, b in five."""
    names = [name for name in TASKS if name.startswith("taskonomy_")]
    names.remove("taskonomy_depth_euclidean")  # MultiMAE's eight have the other depth
    chosen = [benchmark_of(name, tmp_path) for name in names]
    of_a = dict(zip(names, (0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0), strict=True))
    cells = [cell_of(each, "a", 0, of_a[each.name]) for each in chosen]
    cells += [cell_of(each, "b", 0, 1.0) for each in chosen]
    text = write_report(tmp_path, "Evaluation", chosen, contenders_of("a", "b"), cells)
    assert "mean rank in 8 benchmarks that all have" in text
    assert "| a | 1.62 |\n| b | 1.38 |" in text


def test_a_row_says_mean_deviation_seeds_and_cost(tmp_path):
    """Of 0.8 and 0.9, the second in three times the time."""
    depth = benchmark_of("depth", tmp_path)
    cells = [cell_of(depth, "a", 0, 0.8), cell_of(depth, "a", 1, 0.9, train_s=30.0)]
    text = write_report(tmp_path, "Evaluation", [depth], contenders_of("a"), cells)
    assert re.search(r"\| a \| 0\.850 ± 0\.071 (\| - ){4}\| 2 \| 0\.4 \|", text)
    first = json.loads((tmp_path / "results.json").read_text())[0]
    assert first["values"] == [0.8, 0.9]
    assert first["mean"] == pytest.approx(0.85)
    assert first["deviation"] == pytest.approx(0.1 / 2**0.5)
    assert first["minutes_a_seed"] == pytest.approx(0.4)


def benchmark_of(name, root):
    return Benchmark(task=TASKS[name], data=Source(layout="shards", root=root), recipe=Recipe())


def cell_of(benchmark, label, seed, score, train_s=6.0):
    """A cell that has the first metric alone, if any."""
    return Cell(
        benchmark=benchmark.name,
        label=label,
        seed=seed,
        metrics={} if score is None else {benchmark.task.metrics[0].name: score},
        num_steps=1,
        train_s=train_s,
        test_s=6.0,
        num_parameters=1,
    )


def contenders_of(*labels):
    weights = (Weights(config=ModelConfig(), sha256=""),)
    return [Contender(label=label, path=None, weights=weights) for label in labels]


def test_one_of_several_processes_is_told_to_be_alone(tmp_path, monkeypatch):
    @contextmanager
    def joined(device):
        yield Process(rank=1, world_size=2, device=torch.device("cpu"))

    monkeypatch.setattr(module, "join", joined)
    with pytest.raises(CrossviewError, match=r"not 2; .* CUDA_VISIBLE_DEVICES=3"):
        evaluate_all([], [], seeds=1, out=tmp_path)


def test_what_a_constant_has_no_value_of_is_missing_in_its_column():
    def record(weights, metric, values):
        return {
            "benchmark": "pose-turning", "weights": weights, "metric": metric, "unit": "",
            "higher_is_better": True, "values": values, "mean": sum(values),
            "minutes_a_seed": 1.0, "failed": [], "num_steps": 1, "batch_size": 1,
        }  # fmt: skip

    records = [
        record("A", "median_direction_deg", []),
        record("A", "auc5", [0.25]),
        record(CONSTANT, "auc5", [0.125]),
    ]
    (table,) = parts_of(records)
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[1:] for row in rows] == [["-", "0.250", "1", "1.0"], ["-", "0.125", "-", "-"]]
