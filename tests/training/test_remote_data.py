"""Training data behind a URL, from a real S3 server that fails one request in ten."""

import multiprocessing

import pytest
import torch
from failing_store import failing_store
from synthetic import write_dataset

from generation.errors import CrossviewError
from generation.locations import filesystem, location
from generation.shards import cache as cache_module
from generation.shards.cache import ShardCache
from generation.shards.reader import ShardIndex, _open_shard
from generation.shards.schema import ShardError
from training.data import DataConfig, Requests, batches, open_split
from training.order import Schedule


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
    monkeypatch.setattr(cache_module, "FIRST_WAIT_S", 0.01)


def config_of(path, tmp_path, **changes) -> DataConfig:
    values = {"window": 16, "val_scenes": 1, "cache_dir": tmp_path / "cache"} | changes
    return DataConfig(path=location(str(path)), **values)


def run_of(config, num_steps=30):
    split = open_split(config)
    schedule = Schedule(shares=split.shares, batch_size=8, seed=0, window=config.window)
    requests = Requests(schedule, 0, num_steps, 0, 1)
    return list(batches(split.train, 32, requests, config, pin_memory=False))


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


def test_other_bytes_than_the_index_lists_are_refused(store, local, tmp_path):
    path, entry = entries_of(local)[0]
    other = type(entry)(**{**vars(entry), "sha256": "0" * 64})
    with pytest.raises(ShardError, match=r"scene0-0000.tar: .* not those that the index lists"):
        ShardCache(folder=tmp_path, max_bytes=10**9).fetch(path, other)
    assert not list(tmp_path.glob("*.tar"))


def test_a_missing_shard_is_not_asked_for_again(store, local, tmp_path):
    path, entry = entries_of(local)[0]
    store.paths.clear()
    with pytest.raises(ShardError, match=r"gone.tar: FileNotFoundError"):
        ShardCache(folder=tmp_path, max_bytes=10**9).fetch(path.with_name("gone.tar"), entry)
    assert len(store.paths) <= 3


def test_a_cache_below_two_windows_is_refused(store, tmp_path):
    with pytest.raises(CrossviewError, match=r"data.cache_gb = 1e-06: expected at least"):
        open_split(config_of("s3://training/pairs", tmp_path, cache_gb=1e-6))


def test_a_cache_that_cannot_be_written_is_refused(store, local, tmp_path):
    _open_shard.cache_clear()
    (tmp_path / "file").write_text("")
    config = config_of("s3://training/pairs", tmp_path, cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(CrossviewError, match=r"data.cache_dir = .*: cannot hold s3://"):
        run_of(config)
