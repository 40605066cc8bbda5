"""Training data behind http://, from servers on loopback that know ranges and that do not."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from synthetic import write_dataset

from generation import retries
from generation.errors import CrossviewError
from generation.locations import location
from generation.shards.reader import ShardIndex, ShardReader
from training.data import DataConfig, open_split
from training.loader import Requests, batches
from training.model.croco import ModelConfig
from training.order import Schedule
from training.validation import load_validation_pairs

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'crossview[http]'")


class Whole(SimpleHTTPRequestHandler):
    """Knows no ranges, as Python's own server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""


class Ranges(Whole):
    """Answers with the part of a file that was asked for."""

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            super().do_GET()
            return
        first, last = map(int, asked.groups())
        with open(self.translate_path(self.path), "rb") as file:
            whole = file.read()
        part = whole[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(whole)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return write_dataset(folder, scenes=3, pairs=6, shards=4)


@pytest.fixture(scope="module", params=[Ranges, Whole])
def url(request, local):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, directory=str(local)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run_of(path, cache_dir, num_workers=0):
    """Ten batches, and the held-out pairs."""
    config = DataConfig(
        path=location(str(path)),
        window=16,
        val_scenes=1,
        cache_dir=cache_dir,
        num_workers=num_workers,
    )
    split = open_split(config)
    held_out = load_validation_pairs(
        split.val, ModelConfig(image_size=32, patch_size=8), 6, 14, config
    )
    schedule = Schedule(shares=split.shares, batch_size=8, seed=0, window=config.window)
    requests = Requests(schedule, 0, 10, 0, 1)
    return [*batches(split.train, 32, requests, config, on_gpu=False), held_out.images]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_of_a_web_server_are_those_of_a_folder(url, local, tmp_path, num_workers):
    here = run_of(local, tmp_path)
    there = run_of(url, tmp_path, num_workers)
    assert len(there) == 11
    assert all(torch.equal(one, other) for one, other in zip(here, there))


def test_members_are_read_without_a_cache(url, local):
    there, here = (ShardReader(ShardIndex.open(location(str(path)))) for path in (url, local))
    for shard in (0, 5):
        endings = ("view1.jpg", "view2.jpg", "meta.json")
        assert there.read(shard, 3, endings) == here.read(shard, 3, endings)


def test_a_web_server_without_a_dataset_is_refused_at_once(url, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 60.0)
    with pytest.raises(CrossviewError, match=r"http.*/gone/index.json: expected a dataset's index"):
        ShardIndex.open(f"{url}/gone")


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("gs://bucket/pairs", "gcsfs", "gs"),
        ("s3://bucket/pairs", "s3fs", "s3"),
        ("http://host/pairs", "aiohttp", "http"),
        ("https://host/pairs", "aiohttp", "http"),
    ],
)
def test_what_opens_a_url_and_is_not_installed_is_named(url, module, extra):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from generation.errors import CrossviewError\n"
        "from generation.locations import location\n"
        f"try: location({url!r})\n"
        "except CrossviewError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"pip install 'crossview[{extra}]'")
    assert url in done.stdout
