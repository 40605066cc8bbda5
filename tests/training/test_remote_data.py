"""Training data behind a URL, from a real S3 server that fails one request in ten."""

import fcntl
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from failing_store import failing_store
from synthetic import write_dataset

from generation import retries
from generation.errors import CrossviewError
from generation.locations import filesystem, location
from generation.shards.cache import ShardCache
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import ShardError, sidecar_path
from training.data import DataConfig, open_split, require_cache
from training.downstream.datasets import shards
from training.downstream.datasets.shards import open_shards
from training.downstream.finetune import read_all
from training.loader import Requests, batches
from training.model.croco import ModelConfig
from training.order import Schedule
from training.prefetch import THREADS
from training.validation import load_validation_pairs


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Four scenes of eight shards of six pairs."""
    folder = tmp_path_factory.mktemp("local")
    return write_dataset(folder, scenes=4, pairs=6, shards=8, with_depth=False)


@pytest.fixture(scope="module")
def store(local):
    with failing_store() as proxy:
        bucket = location("s3://training")
        bucket.mkdir()
        fs, _ = filesystem(bucket)
        for path in local.iterdir():
            fs.put_file(str(path), f"training/pairs/{path.name}")
        yield proxy


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)


def config_of(path, tmp_path, **changes) -> DataConfig:
    values = {"window": 16, "val_scenes": 1, "cache_dir": tmp_path / "cache"} | changes
    return DataConfig(path=location(str(path)), **values)


def run_of(config, num_steps=30):
    split = open_split(config)
    schedule = Schedule(shares=split.shares, batch_size=8, seed=0, window=config.window)
    requests = Requests(schedule, 0, num_steps, 0, 1)
    return list(batches(split.train, 32, requests, config, on_gpu=False))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_of_a_failing_store_are_those_of_a_folder(store, local, tmp_path, num_workers):
    here = run_of(config_of(local, tmp_path))
    store.failing, before = True, store.failures
    try:
        there = run_of(config_of("s3://training/pairs", tmp_path, num_workers=num_workers))
    finally:
        store.failing = False
    assert store.failures - before >= 5
    assert len(there) == 30
    assert all(torch.equal(one, other) for one, other in zip(here, there))


def test_a_shard_comes_once_however_many_read_it(store, tmp_path):
    store.paths.clear()
    run_of(config_of("s3://training/pairs", tmp_path, num_workers=2))
    tars = [path.partition("?")[0] for path in store.paths if ".tar" in path]
    gets = {path: tars.count(path) for path in tars}
    assert len(gets) == 24
    assert max(gets.values()) <= 2  # s3fs may ask for the size first


def entries_of(local):
    index = ShardIndex.open(local)
    remote = location("s3://training/pairs")
    return [(remote / entry.name, entry) for entry in index.shards]


def test_the_cache_keeps_to_its_limit_and_spares_what_is_open(store, local, tmp_path):
    shards = entries_of(local)[:10]
    limit = sum(entry.size_bytes for _, entry in shards[:4])
    cache = ShardCache(folder=tmp_path, max_bytes=limit)
    held, _ = cache.open(*shards[0])
    for path, entry in shards[1:]:
        cache.fetch(path, entry)
        kept = sum(tar.stat().st_size for tar in tmp_path.glob("*.tar"))
        assert kept <= limit + entry.size_bytes
    store.paths.clear()
    cache.fetch(*shards[0])
    cache.fetch(*shards[9])
    assert not store.paths
    held.close()
    cache.fetch(*shards[1])
    assert store.paths
    assert len(list(tmp_path.glob("*.tar"))) == len(list(tmp_path.glob("*.json")))


def fetch_all(folder, shards, limit):
    cache = ShardCache(folder=folder, max_bytes=limit)
    for path, entry in shards:
        tar, sidecar = cache.open(location(path), entry)
        assert len(tar.read()) == entry.size_bytes
        assert sidecar.entry == entry
        tar.close()


@pytest.mark.slow
def test_processes_share_a_cache_too_small_for_them(store, local, tmp_path):
    shards = [(str(path), entry) for path, entry in entries_of(local)]
    limit = 3 * shards[0][1].size_bytes
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=fetch_all, args=(tmp_path, shards[::step], limit))
        for step in (1, -1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.fixture
def in_memory(local):
    """The dataset behind a URL that answers at once."""
    folder = location("memory://training/pairs")
    store, key = filesystem(folder)
    for path in local.iterdir():
        store.pipe_file(f"{key}/{path.name}", path.read_bytes())
    yield folder
    store.rm(key, recursive=True)


def test_threads_share_a_cache_that_holds_one_shard(in_memory, tmp_path):
    index = ShardIndex.open(in_memory)
    cache = ShardCache(folder=tmp_path, max_bytes=index.shards[0].size_bytes)

    def read_all(first):
        for number in range(len(index.shards)):
            shard = (first + number) % len(index.shards)
            tar, sidecar = cache.open(index.path(shard), index.shards[shard])
            assert len(tar.read()) == index.shards[shard].size_bytes
            assert sidecar.entry == index.shards[shard]
            tar.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_all, range(16)))


def test_a_shard_that_is_there_is_opened_without_listing_the_folder(
    in_memory, tmp_path, monkeypatch
):
    index = ShardIndex.open(in_memory)
    cache = ShardCache(folder=tmp_path, max_bytes=10**9)
    listed = []
    listing = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or listing(path))
    for anew in (True, False):
        cache.fetch(index.path(0), index.shards[0])
        assert bool(listed) == anew
        listed.clear()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_long_run_keeps_its_cache_to_the_limit_and_what_was_read_ahead(
    store, local, tmp_path, num_workers
):
    size_bytes = max(entry.size_bytes for _, entry in entries_of(local))
    config = config_of(
        "s3://training/pairs", tmp_path, window=8, num_workers=num_workers,
        cache_gb=6 * size_bytes / 1e9,
    )  # fmt: skip
    split = open_split(config)
    schedule = Schedule(shares=split.shares, batch_size=8, seed=0, window=config.window)
    store.paths.clear()
    most = 0
    for _ in batches(split.train, 32, Requests(schedule, 0, 54, 0, 1), config, on_gpu=False):
        most = max(most, len(list((tmp_path / "cache").glob("[!.]*.tar"))))
    assert most <= 6 + THREADS + num_workers  # those are on the way in, or go as soon as they are
    tars = [path for path in store.paths if ".tar" in path]
    # Three epochs of 24 shards. On a machine with other work some are gone before they are read,
    # and come again; if all were, it would be twice as many.
    assert 24 <= len(tars) < 2 * 3 * 24


def test_a_reader_holds_no_more_open_than_half_of_the_cache(in_memory, tmp_path):
    index = ShardIndex.open(in_memory)
    cache = ShardCache(folder=tmp_path, max_bytes=8 * index.shards[0].size_bytes)
    reader = ShardReader(index, cache)
    for shard in range(len(index.shards)):
        reader.read(shard, 0, ("view1.jpg",))
    assert 1 <= num_locked(tmp_path) <= 4
    again = pickle.loads(pickle.dumps(reader))
    assert again.read(3, 1, ("view1.jpg",)) == reader.read(3, 1, ("view1.jpg",))
    del reader, again
    assert num_locked(tmp_path) == 0


def num_locked(folder):
    count = 0
    for path in folder.glob("*.tar"):
        with path.open("rb") as tar:
            try:
                fcntl.flock(tar, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
    return count


def test_a_sidecar_that_was_stale_is_fetched_again_once_it_is_mended(in_memory, tmp_path):
    index = ShardIndex.open(in_memory)
    store, key = filesystem(sidecar_path(index.path(0)))
    _, other = filesystem(sidecar_path(index.path(1)))
    good = store.cat_file(key)
    store.pipe_file(key, store.cat_file(other))
    reader = ShardReader(index, ShardCache(folder=tmp_path, max_bytes=10**9))
    with pytest.raises(ShardError, match=r"scene0-0000.json: not the sidecar that the index lists"):
        reader.read(0, 0, ("view1.jpg",))
    store.pipe_file(key, good)
    assert reader.read(0, 0, ("view1.jpg",))[0] == "scene0_0_0000"


@pytest.mark.parametrize("damage", ["missing", "cut", "another's"])
def test_a_cached_sidecar_that_is_no_good_is_fetched_again(in_memory, tmp_path, damage):
    index = ShardIndex.open(in_memory)
    cache = ShardCache(folder=tmp_path, max_bytes=10**9)
    for shard in (0, 1):
        cache.fetch(index.path(shard), index.shards[shard])
    first, second = tmp_path.glob("*.json")
    if damage == "missing":
        first.unlink()
    elif damage == "cut":
        first.write_text(first.read_text()[:100])
    else:
        shutil.copy(second, first)
    reader = ShardReader(index, cache)
    for shard in (0, 1):
        assert reader.read(shard, 2, ("view1.jpg",))[0] == f"scene0_{shard}_0002"


def test_held_out_pairs_come_through_the_cache_and_once(store, local, tmp_path):
    model = ModelConfig(image_size=32, patch_size=8)
    loaded = []
    for path in (local, "s3://training/pairs", "s3://training/pairs"):
        store.paths.clear()
        config = config_of(path, tmp_path)
        loaded.append(load_validation_pairs(open_split(config).val, model, 20, 14, config))
        tars = {path.partition("?")[0] for path in store.paths if ".tar" in path}
        assert len(tars) == {0: 0, 1: 8, 2: 0}[len(loaded) - 1]
    assert torch.equal(loaded[0].images, loaded[1].images)
    assert torch.equal(loaded[0].images, loaded[2].images)


def test_other_bytes_than_the_index_lists_are_refused(in_memory, tmp_path):
    index = ShardIndex.open(in_memory)
    store, key = filesystem(index.path(0))
    tar = bytearray(store.cat_file(key))
    tar[1000] ^= 1
    store.pipe_file(key, bytes(tar))
    with pytest.raises(ShardError, match=r"scene0-0000.tar: .* not those that the index lists"):
        ShardCache(folder=tmp_path, max_bytes=10**9).fetch(index.path(0), index.shards[0])
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob("*.json"))


def test_what_a_killed_process_left_of_a_shard_is_removed(store, local, tmp_path):
    path, entry = entries_of(local)[0]
    cache = ShardCache(folder=tmp_path, max_bytes=10**9)
    cache.fetch(path, entry)
    (own,) = tmp_path.glob("*.tar")
    own.unlink()
    partial = own.with_name(f".{own.name}.0123abcd.partial")
    partial.write_bytes(bytes(1000))
    cache.fetch(path, entry)
    assert own.exists()
    assert not partial.exists()


def test_a_missing_shard_is_not_asked_for_again(store, local, tmp_path):
    path, entry = entries_of(local)[0]
    store.paths.clear()
    with pytest.raises(ShardError, match=r"gone.tar: FileNotFoundError"):
        ShardCache(folder=tmp_path, max_bytes=10**9).fetch(path.with_name("gone.tar"), entry)
    assert len(store.paths) <= 3


def test_a_cache_below_two_windows_is_refused(store, tmp_path):
    config = config_of("s3://training/pairs", tmp_path, cache_gb=1e-6)
    with pytest.raises(CrossviewError, match=r"data.cache_gb = 1e-06: expected at least"):
        require_cache(config, open_split(config).train)


@pytest.mark.parametrize(("cache_gb", "requests"), [(1.0, 0), (1e-6, 2 * 5)])
def test_a_downstream_task_keeps_shards_or_asks_for_parts(
    store, tmp_path, monkeypatch, cache_gb, requests
):
    folder, there = write_dataset(tmp_path / "a", scenes=2, pairs=4), location("s3://training/deep")
    for path in folder.iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    config = partial(DataConfig, cache_dir=tmp_path / "cache", cache_gb=cache_gb)
    monkeypatch.setattr(shards, "DataConfig", config)
    expected, examples = open_shards(folder).train, open_shards(there).train
    store.paths.clear()  # the first pair has been asked for depth
    for number in (2, 1):
        example = examples[number]
        np.testing.assert_array_equal(example.images, expected[number].images)
        assert example.name == expected[number].name
    assert len(store.paths) == requests  # two images, two depth maps, a record
    # Processes that are forked now read the shard that is open here already.
    names = [example.name for example in read_all(examples.__getitem__, [0, 1], num_workers=2)]
    assert names == [expected[0].name, expected[1].name]


def test_a_cache_that_cannot_be_written_is_refused(store, local, tmp_path):
    (tmp_path / "file").write_text("")
    config = config_of("s3://training/pairs", tmp_path, cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(CrossviewError, match=r"data.cache_dir = .*: cannot hold s3://"):
        run_of(config)
