"""Several datasets at once: their parts, their epochs, and tars of two images from elsewhere."""

import gzip
import io
import json
import logging
import re
import tarfile
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import micro_config
from one_worker import SERIAL
from synthetic import pair_members, write_dataset

from generation.errors import CrossviewError
from generation.shards.plain_tars import index_plain_tars
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import INDEX_AGAIN, MEND, ShardError, Sidecar
from generation.shards.verify import verify_dataset
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from training.data import DataConfig, Source, open_split
from training.loader import Requests, batches
from training.order import Batches, SamplesTaken, Schedule, Share
from training.pair_reader import PairReader
from training.trainer import pretrain
from training.validation import load_validation_pairs


def mixture(*shares, batch_size=16):
    return Schedule(
        shares=tuple(
            Share(shard_sizes=sizes, weight=weight, weight_end=end) for sizes, weight, end in shares
        ),
        batch_size=batch_size,
        seed=0,
        window=20,
    )


TWO = mixture(((10, 15), 3.0, None), ((7,) * 5, 1.0, None))
RAMP = mixture(((10, 15), 1.0, 0.0), ((7,) * 5, 0.0, 1.0))
THREE = mixture(((40,), 1.0, 0.1), ((40,), 3.0, 0.2), ((40,), 0.001, 1.0), batch_size=5)


@pytest.mark.parametrize("schedule", [TWO, RAMP, THREE])
def test_sums_of_samples_follow_the_weights(schedule):
    num_steps = 20000
    sums = SamplesTaken(schedule, num_steps)
    taken = np.array([sums.before(step) for step in range(num_steps + 1)])
    assert (np.diff(taken, axis=0) >= 0).all()
    assert (taken.sum(1) == schedule.batch_size * np.arange(num_steps + 1)).all()
    start = np.array([share.weight for share in schedule.shares])
    end = [s.weight if s.weight_end is None else s.weight_end for s in schedule.shares]
    done = np.arange(num_steps + 1)[:, None] / num_steps
    start, end = start / start.sum(), np.array(end) / np.sum(end)
    exact = schedule.batch_size * num_steps * (start * done + (end - start) * done**2 / 2)
    assert np.abs(taken - exact).max() < 10


def test_sums_do_not_depend_on_the_way_to_a_step():
    steps = (0, 4095, 4096, 4097, 12288, 20000)
    forward = SamplesTaken(RAMP, 20000)
    expected = [forward.before(step).tolist() for step in steps]
    for step, sums in zip(steps, expected):
        assert SamplesTaken(RAMP, 20000).before(step).tolist() == sums
    assert [forward.before(step).tolist() for step in reversed(steps)] == expected[::-1]


@pytest.mark.parametrize("schedule", [TWO, RAMP, mixture(((10, 15), 1.0, None))])
def test_the_memory_for_a_run_does_not_grow_with_its_steps(schedule):
    peaks = []
    for num_steps in (10000, 1000000):
        tracemalloc.start()
        Batches(schedule, num_steps).samples(num_steps - 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_each_dataset_shows_every_sample_before_any_again():
    batches_of_run = Batches(TWO, 40)
    seen = np.concatenate([batches_of_run.samples(step) for step in range(40)])
    first = seen[seen < 25]
    assert len(first) == 480
    # a batch is shuffled, so an epoch's border is known to within a batch
    for counts in (np.bincount(first, minlength=25), np.bincount(seen[seen >= 25] - 25)):
        assert counts.max() - counts.min() <= 1
    assert len(np.unique(seen)) == 60


def test_any_step_can_be_had_alone_and_every_rank_gets_its_part():
    whole = [Batches(RAMP, 30).samples(step) for step in range(30)]
    for step in (29, 3, 17):
        assert np.array_equal(Batches(RAMP, 30).samples(step), whole[step])
    for ranks in (2, 4):
        parts = [[r.samples for r in Requests(RAMP, 5, 30, n, ranks)] for n in range(ranks)]
        for step in range(25):
            joined = np.concatenate([part[step] for part in parts])
            assert np.array_equal(joined, whole[step + 5])


def test_equal_datasets_are_visited_in_orders_of_their_own():
    schedule = mixture(((30,), 1.0, None), ((30,), 1.0, None), batch_size=60)
    samples = Batches(schedule, 1).samples(0)
    assert not np.array_equal(samples[samples < 30], samples[samples >= 30] - 30)


def write_plain_tar(path, keys, names=("1.jpg", "2.jpg")):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(path.stem))
    with tarfile.open(path, "w") as tar:
        for key in keys:
            members = pair_members(generator, 36, 4, with_depth=False)
            for name, view in zip(names, ("view1.jpg", "view2.jpg")):
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(members[view])
                tar.addfile(info, io.BytesIO(members[view]))


@pytest.fixture
def videos(tmp_path, capsys):
    for name, keys in (("walk", ("a/0", "a/1", "b/0")), ("drive", ("0", "1", "2", "3"))):
        write_plain_tar(tmp_path / "videos" / f"{name}.tar", keys)
    assert main(["index", str(tmp_path / "videos")]) == 0
    assert "7 pairs of 2 scenes in 2 tars" in capsys.readouterr().out
    return tmp_path / "videos"


def test_tars_that_are_compressed_or_whose_sidecars_would_replace_files_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    write_plain_tar(path, ["k"])
    own = tmp_path / "a.json"
    own.write_text('{"my": "annotations"}')
    with pytest.raises(CrossviewError, match=r"a\.json: the sidecar would replace this file"):
        index_plain_tars(tmp_path)
    own.unlink()
    index_plain_tars(tmp_path)
    (tmp_path / "index.json").unlink()
    index_plain_tars(tmp_path)  # over its own sidecar
    sidecar = json.loads(own.read_text())
    own.write_text(json.dumps({**sidecar, "task": {"seed": 0}}))  # as rendered pairs have it
    (tmp_path / "index.json").unlink()
    with pytest.raises(CrossviewError, match=r"a\.json: the sidecar would replace this file"):
        index_plain_tars(tmp_path)
    own.write_text(json.dumps(sidecar))
    index_plain_tars(tmp_path)
    (tmp_path / "index.json").unlink()
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(CrossviewError, match=r"a\.tar: not a whole tar without compression"):
        index_plain_tars(tmp_path)


def test_tars_of_two_images_are_read(videos):
    index = ShardIndex.open(videos)
    assert index.scenes == ("drive", "walk")
    reader = PairReader(index, 32)
    assert reader.where(6).endswith("walk.tar: sample 'b/0'")
    views = reader.views(6)
    assert views[0].shape == views[1].shape == (36, 36, 3)
    assert not np.array_equal(*views)


class TestTheirVerification:
    def index_again(self, videos):
        (videos / "index.json").unlink()
        index_plain_tars(videos)

    def test_finds_nothing_wrong_with_them(self, videos, capsys):
        write_plain_tar(videos / "again.tar", ("0", "1"))  # keys that drive.tar has too
        self.index_again(videos)
        assert main(["verify", str(videos), "--workers", "1"]) == 0
        assert re.search(r"all +3 +9 .* ok", capsys.readouterr().out)

    def test_finds_an_image_that_was_damaged_before_they_were_indexed(self, videos, capsys):
        places = Sidecar.read(videos / "walk.json").samples["a/1"]["view2.jpg"]
        data = bytearray((videos / "walk.tar").read_bytes())
        data[places[0] : places[0] + 200] = bytes(200)
        (videos / "walk.tar").write_bytes(data)
        self.index_again(videos)
        assert main(["verify", str(videos), "--workers", "1"]) == 2
        printed = capsys.readouterr().out
        assert re.search(r"walk.tar +1 +a/1: view2.jpg cannot be decoded", printed)
        assert printed.endswith(f"what to do:\n- {INDEX_AGAIN}\n")

    @pytest.mark.parametrize(
        ("file", "damage", "what"),
        [
            ("walk.tar", lambda path: path.unlink(), "missing"),
            ("walk.tar", lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the index"),
            ("walk.json", lambda path: path.unlink(), "found no such file"),
            (
                "walk.json",
                lambda path: path.write_text(path.read_text().replace("512,", "513,", 1)),
                "its member offsets are not those of walk.tar",
            ),
            ("index.json", lambda path: path.unlink(), "found no such file"),
        ],
    )
    def test_finds_what_is_not_as_it_was_indexed(self, videos, file, damage, what):
        damage(videos / file)
        (problem,) = verify_dataset(videos).problems
        assert (problem.file, problem.mend) == (file, INDEX_AGAIN)
        assert what in problem.what


class TestTheirRemedies:
    """Of tars from elsewhere, nothing can be rendered again."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.unlink(),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(bytes(path.stat().st_size)),
        ],
    )
    def test_a_reader_says_to_fetch_and_index_them_again(self, tmp_path, videos, damage):
        own = ShardIndex.open(write_dataset(tmp_path / "own", scenes=2, pairs=1))
        damage(videos / "walk.tar")
        reader = ShardReader(ShardIndex.joined([own, ShardIndex.open(videos)]))
        with pytest.raises(ShardError, match=re.escape(INDEX_AGAIN)):
            reader.images(own.num_pairs + 4)

    def test_those_beside_them_keep_their_own(self, tmp_path, videos):
        own = ShardIndex.open(write_dataset(tmp_path / "own", scenes=2, pairs=1))
        own.path(1).unlink()
        reader = ShardReader(ShardIndex.joined([ShardIndex.open(videos), own]))
        with pytest.raises(ShardError, match=f"no such file; {MEND}"):
            reader.images(reader.index.num_pairs - 1)

    def test_their_depth_is_not_asked_to_be_rendered(self, videos):
        with pytest.raises(ShardError, match=r"no depth1\.png; of tars from elsewhere two"):
            ShardReader(ShardIndex.open(videos)).depths(0)

    def test_they_cannot_be_rendered_again(self, videos, tmp_path, capsys):
        arguments = ["--metadata", str(videos), "--out", str(tmp_path / "out")]
        assert main(["regenerate", *arguments]) == 2
        assert "nothing is known of what made them, so their" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Two rooms of two shards each, with depth; and another room of one shard, without."""
    out = tmp_path_factory.mktemp("rendered")
    for name, scenes, depth in (("a", "0-1", True), ("b", "2", False)):
        values = {
            "scenes": [f"procedural:{scenes}"],
            "num_pairs": 4 if depth else 2,
            "renderer": "embree",
            "pairs": {"image_size": [40, 40]},
            "shards": {"pairs_per_shard": 1 if depth else 2, "depth": depth},
        }
        render_pairs(build(RenderPairsConfig, values, source="test"), out / name, SERIAL)
    return out


class TestRenderedTars:
    """Tars of rendered pairs, from two datasets, in one folder."""

    @pytest.fixture
    def merged(self, rendered, tmp_path):
        for path in rendered.glob("*/*.tar"):
            (tmp_path / path.name).symlink_to(path)
        index_plain_tars(tmp_path)
        return tmp_path

    def test_keep_their_scenes(self, merged):
        index = ShardIndex.open(merged)
        assert [entry.scene[-1] for entry in index.shards] == ["0", "0", "1", "1", "2"]
        split = open_split(DataConfig(path=merged))
        assert not {*split.train.scenes} & {*split.val.scenes}

    def test_keep_their_depth_and_cameras(self, merged, rendered, caplog):
        ours, theirs = (ShardReader(ShardIndex.open(path)) for path in (merged, rendered / "a"))
        assert np.array_equal(ours.depths(3), theirs.depths(3))
        assert ours.record(3) == theirs.record(3)
        with pytest.raises(ShardError, match=r"no depth1\.png; render the pairs again with --de"):
            ours.depths(4)
        data = DataConfig(path=merged, val_path=merged)
        pairs = load_validation_pairs(ours.index, micro_config(merged).model, 6, 1, data)
        assert len(pairs) == 6
        known = torch.isfinite(pairs.truth).flatten(1).any(1)
        assert known.tolist() == [True] * 4 + [False] * 2
        assert not caplog.records

    def test_are_verified_as_what_they_are(self, merged):
        assert verify_dataset(merged).problems == ()
        path = merged / "procedural-000000-000000.json"
        sidecar = Sidecar.read(path)
        other = replace(sidecar.entry, scene=path.stem)  # as it was named before
        path.write_text(replace(sidecar, entry=other).to_json())
        (problem,) = verify_dataset(merged).problems
        assert "it names scene 'procedural-000000-000000', its keys another" in problem.what

    def test_of_several_scenes_are_refused(self, rendered, tmp_path):
        with tarfile.open(tmp_path / "all.tar", "w") as both:
            for path in sorted(rendered.glob("*/*-000000.tar")):
                with tarfile.open(path) as tar:
                    for member in tar:
                        both.addfile(member, tar.extractfile(member))
        with pytest.raises(CrossviewError, match=r"all\.tar: pairs of 3 scenes \(procedural-0"):
            index_plain_tars(tmp_path)

    def test_have_an_index_where_they_were_rendered(self, rendered, capsys):
        before = (rendered / "a" / "index.json").read_bytes()
        assert main(["index", str(rendered / "a")]) == 2
        said = capsys.readouterr().err
        assert "a: a dataset of rendered pairs, which has its index.json: there is nothing" in said
        assert "remove" not in said
        assert (rendered / "a" / "index.json").read_bytes() == before


def test_tars_without_cameras_have_no_page(videos, capsys):
    assert main(["inspect", str(videos)]) == 2
    assert "nothing is known of what made them" in capsys.readouterr().err
    assert not (videos / "inspect").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [(("1.jpg",), "sample 'x' has 1 JPEG images"), (("1.png", "2.png"), "found none")],
)
def test_tars_of_anything_else_are_refused(tmp_path, capsys, names, message):
    write_plain_tar(tmp_path / "odd.tar", ("x",), names)
    assert main(["index", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["odd.tar"]


def test_a_mixture_trains_and_holds_a_scene_out_of_all_datasets(dataset, videos, tmp_path):
    again = write_dataset(tmp_path / "again", scenes=4, pairs=5, with_depth=False)
    data = {
        "val_scenes": 2,
        "weight": 1,
        "weight_end": 0,
        "mixture": [{"path": str(videos), "weight": 0.5}, {"path": str(again), "weight": 0.5}],
    }
    config = micro_config(dataset, data=data)
    split = open_split(config.data)
    assert not set(split.train.scenes) & set(split.val.scenes)
    assert set(split.digests) == {"data", "data 2", "data 3"}
    assert len(split.shares) == 3
    result = pretrain(config, tmp_path / "run")
    assert result.metrics["step"] == 8
    data["mixture"][1]["path"] = str(again.rename(tmp_path / "moved"))
    moved = micro_config(dataset, data=data)
    assert pretrain(moved, tmp_path / "run").metrics == result.metrics
    data["mixture"][1]["weight"] = 0.25
    with pytest.raises(CrossviewError, match=r"data\.mixture: .* before, .* now"):
        pretrain(micro_config(dataset, data=data), tmp_path / "run")


def test_a_mixture_is_told_by_its_datasets(dataset, videos, tmp_path, caplog):
    data = {"val_path": str(dataset), "mixture": [{"path": str(videos), "weight": 3.0}]}
    with caplog.at_level(logging.INFO):
        pretrain(micro_config(dataset, data=data), tmp_path / "run")
    told = [record.getMessage() for record in caplog.records]
    assert f"of {dataset} 48 pairs of 4 scenes train: 25 % of the run, each 0.167 times" in told
    assert f"of {videos} 7 pairs of 2 scenes train: 75 % of the run, each 3.43 times" in told


def test_a_mixture_gives_each_samples_own_bytes(dataset, videos):
    config = DataConfig(path=dataset, val_path=dataset, mixture=(Source(path=videos, weight=2.0),))
    split = open_split(config)
    schedule = Schedule(shares=split.shares, batch_size=6, seed=0, window=100)
    samples = Batches(schedule, 1).samples(0)
    readers = [PairReader(ShardIndex.open(path), 36) for path in (dataset, videos)]
    (batch,) = batches(split.train, 36, Requests(schedule, 0, 1, 0, 1), config, on_gpu=False)
    assert (samples >= 48).sum() == 4
    for row, sample in enumerate(samples):
        views = readers[int(sample >= 48)].views(int(sample) % 48)
        assert np.array_equal(batch[:, row].numpy(), np.stack(views))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"weight": -1.0}, "data.weight = -1.0: expected a number of at least 0"),
        ({"mixture": [{"path": "x", "weight": -2.0}]}, "data.mixture: weight = -2.0"),
        ({"weight": 0.0}, r"every weight = \[0.0\]: expected one above 0"),
        ({"weight_end": 0.0}, r"every weight_end = \[0.0\]: expected one above 0"),
    ],
)
def test_weights_out_of_range_are_named(data, message):
    with pytest.raises(CrossviewError, match=message):
        build(DataConfig, {"path": "x", **data}, source="test")
