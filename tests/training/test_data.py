"""The split into scenes, the loader, and data that cannot be trained on."""

import json
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import write_dataset

from generation.errors import CrossviewError
from generation.shards.reader import SampleError, ShardIndex
from generation.shards.schema import ShardEntry, ShardError, Sidecar, sidecar_path
from training.data import (
    DataConfig,
    Source,
    held_out_scenes,
    open_split,
    require_large_enough,
    room_of,
    without_rooms_of,
)
from training.distributed import processes_that_read
from training.loader import BatchRequest, Pairs, Requests, batches
from training.model.croco import ModelConfig
from training.order import Batches, Schedule, Share
from training.pair_reader import PairReader, centre_crop
from training.validation import (
    choose_pairs,
    load_validation_pairs,
    other_rows,
    samples_of_scenes,
)


def schedule_of(sizes):
    return Schedule(shares=(Share(shard_sizes=sizes),), batch_size=8, seed=0, window=100)


def all_batches(dataset, num_workers, world_size=1, max_damaged=0):
    index = ShardIndex.open(dataset)
    sizes = tuple(entry.count for entry in index.shards)
    schedule = schedule_of(sizes)
    config = DataConfig(path=dataset, num_workers=num_workers, max_damaged=max_damaged)
    parts = [
        list(batches(index, 32, Requests(schedule, 0, 4, r, world_size), config, on_gpu=False))
        for r in range(world_size)
    ]
    return [torch.cat([part[step] for part in parts], 1) for step in range(4)]


def test_batches_do_not_depend_on_workers_or_processes(dataset):
    alone = all_batches(dataset, 0)
    for other in (all_batches(dataset, 2), all_batches(dataset, 0, world_size=2)):
        assert all(torch.equal(one, two) for one, two in zip(alone, other))


def test_workers_without_a_shard_of_their_own_get_their_share(tmp_path):
    one = write_dataset(tmp_path, scenes=1, pairs=13, with_depth=False)
    alone, helped = all_batches(one, 0), all_batches(one, 3)
    assert all(torch.equal(first, second) for first, second in zip(alone, helped))


def test_a_batch_holds_crops_of_the_samples_asked_for(dataset):
    index = ShardIndex.open(dataset)
    reader = PairReader(index, 32)
    schedule = schedule_of((12,) * 4)
    request = next(iter(Requests(schedule, 0, 1, 0, 1)))
    requests = Requests(schedule, 0, 1, 0, 1)
    config = DataConfig(path=dataset)
    batch = next(batches(index, 32, requests, config, on_gpu=False)).numpy()
    for row, sample in enumerate(request.samples):
        for view, image in enumerate(reader.views(int(sample))):
            i, j = (request.crops[row, view] * 5).astype(int)
            assert np.array_equal(batch[view, row], image[i : i + 32, j : j + 32])


def test_a_tenth_of_the_scenes_is_held_out_by_digest():
    scenes = tuple(f"scene{i}" for i in range(40))
    held_out = held_out_scenes(scenes, None, "data")
    assert len(held_out) == 4
    assert held_out == held_out_scenes(scenes[::-1], None, "data")
    assert len(held_out_scenes(scenes[:2], None, "data")) == 1
    assert len(held_out_scenes(tuple(map(str, range(2400))), None, "data")) == 32
    # a scene keeps its place in the order when others are added
    assert held_out_scenes(scenes[:20], 4, "data") >= held_out & set(scenes[:20])


def test_all_scans_of_a_room_are_held_out_together():
    rescans = tuple(f"scene{room:04d}_{scan:02d}" for room in range(20) for scan in range(3))
    held_out = held_out_scenes((*rescans, "scene_1", "scene_2"), None, "data")
    assert 4 <= len(held_out) <= 6
    rooms = {scene[:9] for scene in held_out}
    assert held_out >= {scene for scene in rescans if scene[:9] in rooms}
    with pytest.raises(CrossviewError, match=r"only one room .*: ScanNet's scans of scene0001"):
        held_out_scenes(("scene0001_00", "scene0001_01"), None, "data")
    scenes = ["scene0001_00_vh_clean_2", "scene0002_00"]
    left = without_rooms_of(["scene0001_02"], index_of([1, 1], scenes))
    assert left.scenes == ("scene0002_00",)


def test_no_more_shards_stay_open_than_two_windows_take(tmp_path):
    index = ShardIndex.open(write_dataset(tmp_path, scenes=12, pairs=4))
    config = DataConfig(path=tmp_path, window=8)
    reader = config.reader(index, 32)
    for pair in range(index.num_pairs):
        reader.views(pair)
    assert num_open(tmp_path) == config.shards_of_two_windows(index) == 6
    again = pickle.loads(pickle.dumps(reader))
    del reader
    for pair in range(index.num_pairs):
        again.views(pair)
    assert num_open(tmp_path) == 6


def test_each_dataset_of_a_mixture_has_the_shards_of_its_own_windows_open():
    config = DataConfig(path="large", mixture=(Source(path="small"),))
    large, small = index_of([10_000] * 100), index_of([200] * 300)
    assert config.shards_of_two_windows(large) == 6
    assert config.shards_of_two_windows(small) == 166
    assert config.shards_of_two_windows(ShardIndex.joined([large, small])) == 6 + 166
    few = index_of([200] * 30)
    assert config.shards_of_two_windows(ShardIndex.joined([large, few, small])) == 6 + 30 + 166


def num_open(folder):
    opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    return sum(path.startswith(str(folder)) for path in opened)


def test_replica_cads_scenes_are_one_apartment():
    scenes = (
        "Baked_sc0_staging_00", "remake_v0_v3_sc1_staging_19", "v3_sc3_staging_20",
        "frl_apartment_2",
    )  # fmt: skip
    assert {room_of(scene) for scene in scenes} == {"frl_apartment"}
    for other in ("apartment_1", "apt_1", "empty_stage", "office_0", "v3_sc0_staging"):
        assert room_of(other) == other
    with pytest.raises(CrossviewError, match=r"one room .*: ReplicaCAD's stagings and Replica"):
        held_out_scenes(scenes, None, "data")
    assert not without_rooms_of(scenes[:1], index_of([1] * len(scenes), scenes)).scenes


def test_a_room_of_many_scenes_is_not_held_out_for_a_few():
    baked = tuple(f"Baked_sc{i % 4}_staging_{i // 4:02d}" for i in range(84))
    others = ("apartment_1", "skokloster-castle", "van-gogh-room")
    assert held_out_scenes((*baked, *others), None, "data") == {*others}
    assert len(held_out_scenes((*baked, *map(str, range(30))), None, "data")) == 11
    scans = tuple(f"scene{room:04d}_{scan:02d}" for room in range(5) for scan in range(2 + room))
    assert held_out_scenes(scans, 1, "data") == {"scene0000_00", "scene0000_01"}
    two = tuple(f"scene{room:04d}_{scan:02d}" for room in range(2) for scan in range(2))
    assert len(held_out_scenes(two, 1, "data")) == 2


def test_large_views_are_scaled_before_they_are_cropped(dataset):
    config = DataConfig(path=dataset, resize=1.25)
    index = ShardIndex.open(dataset)
    reader, whole = config.reader(index, 16), PairReader(index, 16)
    assert [view.shape for view in reader.views(1)] == [(20, 20, 3)] * 2
    assert [depth.shape for depth in reader.depths(1)] == [(20, 20)] * 2
    for camera, before in zip(reader.cameras(1), whole.cameras(1)):
        assert camera.image_size == (20, 20)
        corners = camera.project(before.unproject(np.ones((36, 36))))[0]
        assert corners.min() == pytest.approx(10 / 36)  # half a pixel of 36, in pixels of 20
    (small, _), (large, _) = reader.depths(1), whole.depths(1)
    assert np.array_equal(small, large[9 * np.arange(20) // 5][:, 9 * np.arange(20) // 5])
    assert [view.shape for view in config.reader(index, 32).views(1)] == [(36, 36, 3)] * 2
    requests = Requests(schedule_of((12,) * 4), 0, 1, 0, 1)
    batch = next(batches(index, 16, requests, config, on_gpu=False, whole=True))
    assert batch.shape[2:] == (20, 20, 3)


def test_no_scene_is_on_both_sides(dataset):
    split = open_split(DataConfig(path=dataset, val_scenes=2))
    assert len(split.val.scenes) == 2
    assert set(split.train.scenes) | set(split.val.scenes) == set(ShardIndex.open(dataset).scenes)
    assert not set(split.train.scenes) & set(split.val.scenes)


def test_a_single_scene_needs_a_validation_folder(tmp_path):
    one = write_dataset(tmp_path / "one", scenes=1, pairs=3)
    with pytest.raises(CrossviewError, match=r"only one scene .* data.val_path"):
        open_split(DataConfig(path=one))
    split = open_split(DataConfig(path=one, val_path=one))
    assert split.train.scenes == split.val.scenes
    assert set(split.digests) == {"data", "val_data"}


def test_scenes_to_hold_out_and_a_folder_to_validate_on_are_two_answers(dataset):
    with pytest.raises(CrossviewError, match=r"data.val_scenes = 1: expected none where"):
        DataConfig(path=dataset, val_path=dataset, val_scenes=1)


def test_all_scenes_cannot_be_held_out(dataset):
    with pytest.raises(CrossviewError, match=r"data.val_scenes = 4: expected below the 4"):
        open_split(DataConfig(path=dataset, val_scenes=4))


def test_validation_pairs_are_spread_over_scenes_and_shuffled_across_them(dataset):
    index = ShardIndex.open(dataset)
    samples = np.array(list(choose_pairs(samples_of_scenes(index), 20)))
    shift = other_rows([f"scene{sample // 12}" for sample in samples])
    scene = samples // 12
    assert np.bincount(scene).tolist() == [5] * 4
    assert (np.roll(scene, -shift) != scene).all()
    assert samples[:5].tolist() == [0, 2, 4, 7, 9]


def test_a_shuffled_reference_is_never_the_pairs_own():
    for count, scenes in ((2, 1), (5, 1), (7, 2), (9, 3)):
        index = index_of([count - (scenes - 1)] + [1] * (scenes - 1))
        chosen = choose_pairs(samples_of_scenes(index), 100)
        assert len(chosen) == count
        others = other_rows(list(chosen.values()))
        assert (others != np.arange(count)).all()
        scene_of_row = np.array(list(chosen.values()))
        if scenes > 1:
            assert (scene_of_row[others] != scene_of_row).all()


def index_of(sizes, scenes=None):
    """An index whose every shard is a scene."""
    names = scenes or [f"s{i}" for i in range(len(sizes))]
    entries = tuple(
        ShardEntry(name=f"{i}.tar", scene=name, count=count, size_bytes=0, sha256="")
        for i, (name, count) in enumerate(zip(names, sizes))
    )
    return ShardIndex(folder=Path("nowhere"), config={}, shards=entries)


def test_pairs_to_validate_on_are_chosen_of_millions_at_once():
    index = index_of([256] * 7032)
    start = time.process_time()
    chosen = choose_pairs(samples_of_scenes(index), 512)
    assert time.process_time() - start < 0.5
    assert len(chosen) == 512


MODEL = ModelConfig(image_size=32, patch_size=8)


def validation_pairs(folder, num_pairs, max_damaged=0):
    data = DataConfig(path=folder, max_damaged=max_damaged)
    return load_validation_pairs(ShardIndex.open(folder), MODEL, num_pairs, 14, data)


def test_validation_pairs_carry_masks_crops_and_truth(dataset):
    pairs = validation_pairs(dataset, 8)
    assert pairs.images.shape == (2, 8, 32, 32, 3)
    assert (pairs.masks.sum(1) == 14).all()
    views = PairReader(ShardIndex.open(dataset), 32).views(int(pairs.samples[3]))
    assert np.array_equal(pairs.images[1, 3].numpy(), views[1][2:34, 2:34])
    assert pairs.truth is not None
    assert pairs.truth.shape == (8, 16, 2)


def damaged(dataset, tmp_path, damage):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    damage(copy, sorted(copy.glob("*.tar")))
    return copy


def test_a_missing_or_cut_shard_is_found_before_any_work(dataset, tmp_path):
    missing = damaged(dataset, tmp_path / "a", lambda _, tars: tars[1].unlink())
    with pytest.raises(CrossviewError, match=r"scene1-0000.tar: the index lists this shard"):
        open_split(DataConfig(path=missing))
    cut = damaged(dataset, tmp_path / "b", lambda _, tars: tars[1].write_bytes(b"short"))
    with pytest.raises(CrossviewError, match=r"scene1-0000.tar: 5 bytes, but the index says"):
        open_split(DataConfig(path=cut))


@pytest.mark.parametrize("place", [None, (10**30, 10), (512, 10**15), (-5, 10), "another's"])
def test_a_sidecar_that_lists_other_samples_than_its_tar_holds_is_named(dataset, tmp_path, place):
    def damage(folder, tars):
        sidecar = Sidecar.read(sidecar_path(tars[0]))
        key = next(iter(sidecar.samples))
        if place is None:
            del sidecar.samples[key]
        elif place == "another's":
            sidecar.samples[key]["view1.jpg"] = sidecar.samples[key]["view2.jpg"]
        else:
            sidecar.samples[key]["view1.jpg"] = place
        sidecar.write(tars[0])

    reader = PairReader(ShardIndex.open(damaged(dataset, tmp_path, damage)), 32)
    with pytest.raises(ShardError, match=r"0000.json: it lists other samples .*--verify"):
        reader.views(0)


@pytest.mark.parametrize(("ending", "read"), [("depth1.png", "depths"), ("meta.json", "cameras")])
def test_damaged_depth_and_metadata_are_named(dataset, tmp_path, ending, read):
    def damage(folder, tars):
        samples = Sidecar.read(sidecar_path(tars[0])).samples
        offset, size = next(iter(samples.values()))[ending]
        data = bytearray(tars[0].read_bytes())
        data[offset : offset + size] = b"?" * size
        tars[0].write_bytes(data)

    folder = damaged(dataset, tmp_path, damage)
    reader = PairReader(ShardIndex.open(folder), 32)
    named = f"scene0-0000.tar: sample 'scene0_0_0000', {ending}: damaged.*--verify"
    with pytest.raises(ShardError, match=named):
        getattr(reader, read)(0)
    with pytest.raises(CrossviewError, match=named):  # not taken for pairs rendered without depth
        validation_pairs(folder, 8)
    pairs = validation_pairs(folder, 8, max_damaged=1)
    assert pairs.samples.tolist() == [1, 6, 12, 18, 24, 30, 36, 42]
    assert pairs.truth is not None


@pytest.mark.parametrize(
    ("record", "what"),
    [(b"5", "expected a JSON object, got 5"), (b"{}", r"KeyError\('world_from_camera1'\)")],
)
def test_metadata_without_cameras_is_damaged(dataset, tmp_path, record, what):
    def damage(folder, tars):
        offset, size = next(iter(Sidecar.read(sidecar_path(tars[0])).samples.values()))["meta.json"]
        data = bytearray(tars[0].read_bytes())
        data[offset : offset + size] = record.ljust(size)
        tars[0].write_bytes(data)

    folder = damaged(dataset, tmp_path, damage)
    with pytest.raises(SampleError, match=rf"'scene0_0_0000', meta.json: damaged \({what}\)"):
        PairReader(ShardIndex.open(folder), 32).cameras(0)
    pairs = validation_pairs(folder, 8, max_damaged=1)
    assert pairs.samples.tolist() == [1, 6, 12, 18, 24, 30, 36, 42]


def spoil(folder, samples_spoilt):
    """Cut the second image of these samples of the first shard in half; zeros fill its place."""
    tar = min(folder.glob("*.tar"))
    members = list(json.loads(tar.with_suffix(".json").read_text())["samples"].values())
    with open(tar, "r+b") as stream:
        for sample in samples_spoilt:
            offset, size = members[sample]["view2.jpg"]
            stream.seek(offset + size // 2)
            stream.write(bytes(size - size // 2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_named(dataset, tmp_path, num_workers):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, range(12)))
    with pytest.raises(
        CrossviewError,
        match=r"scene0-0000.tar: sample 'scene0_0_\d+', view2.jpg: damaged.*--verify",
    ):
        all_batches(folder, num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_good_pair_stands_in_for_a_damaged_one(dataset, tmp_path, caplog, num_workers):
    spoilt = (3, 4, 11)
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, spoilt))
    whole = all_batches(dataset, num_workers)
    got = all_batches(folder, num_workers, max_damaged=3)
    batches_of_run = Batches(schedule_of((12,) * 4), 4)
    reader = PairReader(ShardIndex.open(dataset), 32)
    for step, (before, now) in enumerate(zip(whole, got)):
        for row, sample in enumerate(batches_of_run.samples(step)):
            same = torch.equal(before[:, row], now[:, row])
            assert same == (sample not in spoilt)
            if sample in spoilt:
                stand_in = reader.views({3: 5, 4: 5, 11: 12}[int(sample)])[0]
                crops = [stand_in[i : i + 32, j : j + 32] for i in range(5) for j in range(5)]
                assert any(np.array_equal(now[0, row].numpy(), crop) for crop in crops)
    seen = set(np.concatenate([batches_of_run.samples(step) for step in range(4)]))
    warned = [r.getMessage() for r in caplog.records if "stands in" in r.getMessage()]
    assert len(warned) == len(seen & set(spoilt)) > 0
    assert all("scene0-0000.tar: sample 'scene0_0_00" in text for text in warned)


def test_more_damaged_pairs_than_allowed_stop_the_run(dataset, tmp_path):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, range(0, 12, 3)))
    with pytest.raises(CrossviewError, match=r"of which data.max_damaged = 1 may be replaced"):
        all_batches(folder, 0, max_damaged=1)


def test_more_damaged_pairs_than_allowed_in_one_batch_are_counted_too(dataset, tmp_path):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, range(12)))
    with pytest.raises(
        CrossviewError,
        match=r"(?s)view2.jpg: damaged.*\n3 damaged pairs, of which data.max_damaged = 2 may be",
    ):
        all_batches(folder, 0, max_damaged=2)


def test_the_next_good_pair_stands_in_for_a_damaged_one_held_out(dataset, tmp_path, caplog):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, (0, 1, 6)))
    pairs = validation_pairs(folder, 8, max_damaged=3)
    assert pairs.samples.tolist() == [2, 7, 12, 18, 24, 30, 36, 42]
    views = PairReader(ShardIndex.open(dataset), 32).views(2)
    assert np.array_equal(pairs.images[1, 0].numpy(), views[1][2:34, 2:34])
    warned = [r.getMessage() for r in caplog.records if "damaged held-out pair" in r.getMessage()]
    assert len(warned) == 3
    assert all("scene0-0000.tar: sample 'scene0_0_00" in text for text in warned)
    with pytest.raises(CrossviewError, match=r"3 damaged pairs, of which data.max_damaged = 2"):
        validation_pairs(folder, 8, max_damaged=2)


def test_where_no_pair_can_stand_in_there_is_one_fewer(dataset, tmp_path):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, (3, 5)))
    pairs = validation_pairs(folder, 48, max_damaged=2)
    assert pairs.samples.tolist() == [sample for sample in range(48) if sample not in (3, 5)]
    assert (pairs.samples[pairs.shuffled] // 12 != pairs.samples // 12).all()
    folder = damaged(dataset, tmp_path / "b", lambda copy, _: spoil(copy, range(11)))
    alone = ShardIndex.open(folder).of_scenes({"scene0"})
    with pytest.raises(CrossviewError, match=r"1 good pair of held-out scenes scene0; .* at least"):
        load_validation_pairs(alone, MODEL, 12, 14, DataConfig(path=folder, max_damaged=11))


def test_the_first_good_pair_of_each_dataset_is_large_enough(dataset, tmp_path):
    small = write_dataset(tmp_path / "small", scenes=2, pairs=3, size=24, with_depth=False)
    alone = DataConfig(path=dataset, val_path=dataset)
    mixed = DataConfig(path=dataset, val_path=dataset, mixture=(Source(path=small),))
    require_large_enough(open_split(alone), 32, alone)
    with pytest.raises(CrossviewError, match=r"small.scene0-0000.tar: .* 24 x 24 pixels"):
        require_large_enough(open_split(mixed), 32, mixed)


def test_a_dataset_that_begins_with_damaged_pairs_alone_is_refused(dataset, tmp_path):
    folder = damaged(dataset, tmp_path, lambda copy, _: spoil(copy, range(5)))
    for most, works in ((5, True), (4, False)):
        config = DataConfig(path=folder, val_path=dataset, max_damaged=most)
        if works:
            require_large_enough(open_split(config), 32, config)
        else:
            with pytest.raises(CrossviewError, match=r"5 damaged pairs, .*max_damaged = 4"):
                require_large_enough(open_split(config), 32, config)


def test_images_below_the_crop_are_refused(dataset):
    reader = PairReader(ShardIndex.open(dataset), 40)
    with pytest.raises(CrossviewError, match=r"36 x 36 pixels, but the model takes crops of 40"):
        reader.views(0)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(CrossviewError, match=r"index.json: expected a dataset's index"):
        open_split(DataConfig(path=tmp_path))


@pytest.mark.parametrize("size", [32, 31])
def test_without_random_crops_every_view_is_the_middle_that_is_validated_on(dataset, size):
    split = open_split(DataConfig(path=dataset))
    reader = PairReader(split.train, size)
    pairs = Pairs(reader=reader, whole=False, max_damaged=0, random_crop=False)
    batch = pairs.batch(BatchRequest(np.array([0, 5]), np.zeros((2, 2, 2))))
    for row, sample in enumerate((0, 5)):
        for view, image in enumerate(reader.views(sample)):
            middle = image[2 : 2 + size, 2 : 2 + size]
            np.testing.assert_array_equal(batch.images[view, row], middle)
            np.testing.assert_array_equal(centre_crop(image, size), middle)


@pytest.mark.parametrize(
    ("given", "on_gpu", "cores", "training", "expected"),
    [(None, True, 16, 1, 8), (None, True, 16, 8, 2), (None, True, 4, 8, 1), (None, False, 16, 1, 0),
     (3, True, 16, 8, 3), (0, True, 16, 1, 0)],
)  # fmt: skip
def test_processes_read_beside_a_gpu_as_far_as_there_are_cores(
    monkeypatch, given, on_gpu, cores, training, expected
):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(training))
    assert processes_that_read(given, on_gpu=on_gpu) == expected


def test_no_more_processes_read_than_this_one_has_cores_for(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    for given, expected in (("2", 2), ("default", 8)):
        monkeypatch.setenv("PYTHON_CPU_COUNT", given)
        assert processes_that_read(None, on_gpu=True) == expected


def test_processes_read_no_further_ahead_than_shared_memory_has_room(dataset, monkeypatch):
    """Two processes, of batches of 8 pairs of 32 x 32 pixels, 49,152 bytes each."""
    alone = all_batches(dataset, 0)
    room = SimpleNamespace(free=2 * 49_152)
    monkeypatch.setattr("training.loader.shutil.disk_usage", lambda path: room)
    assert all(torch.equal(one, two) for one, two in zip(alone, all_batches(dataset, 2)))
    room.free -= 1
    with pytest.raises(CrossviewError, match=r"num_workers = 2: 2 batches of 0 MB do not fit into"):
        all_batches(dataset, 2)
    all_batches(dataset, 0)
