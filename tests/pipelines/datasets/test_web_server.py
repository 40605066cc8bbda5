"""A dataset on a web server that shows no folders: looked at from elsewhere."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
from one_worker import SERIAL

from generation import retries
from generation.errors import MachineError
from generation.locations import location
from generation.shards.schema import Sidecar
from generation.shards.sidecar_flaws import sidecar_flaws
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'crossview[http]'")


class Files(SimpleHTTPRequestHandler):
    """Gives files to those who know their names; at bad times, every other request fails."""

    protocol_version = "HTTP/1.1"
    bad_times = False
    refused = "nothing"
    requests = count(1)

    def send_head(self):
        """Fail, at bad times."""
        busy = self.bad_times and next(self.requests) % 2
        if busy or self.path.endswith(self.refused):
            self.send_error(503)
            return None
        return super().send_head()

    def list_directory(self, path):
        """Refuse to."""
        self.send_error(403)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A dataset's folder, and its address."""
    values = {"scenes": ["procedural:0"], "num_pairs": 3, "pairs": {"image_size": [64, 64]}}
    config = build(RenderPairsConfig, {**values, "renderer": "embree"}, source="test")
    render_pairs(config, tmp_path / "pairs", SERIAL)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "pairs", f"http://127.0.0.1:{server.server_port}/pairs"
    server.shutdown()
    server.server_close()


def test_a_dataset_on_a_web_server_is_verified(served, capsys):
    folder, url = served
    assert main(["verify", url]) == 0
    (tar,) = folder.glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 0xFF
    tar.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", url]) == 2
    assert tar.name in capsys.readouterr().out
    (folder / "index.json").unlink()
    assert main(["verify", url]) == 2
    assert "index.json: expected a dataset's index" in capsys.readouterr().err


def test_a_shard_that_a_store_does_not_give_is_no_damaged_one(served, capsys, monkeypatch):
    folder, url = served
    (tar,) = folder.glob("*.tar")
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(Files, "refused", tar.name)
    assert main(["verify", url]) == 2
    assert f"{tar.name}" in (out := capsys.readouterr().out)
    assert "cannot be read" in out
    sidecar = Sidecar.read(location(f"{url}/{tar.stem}.json"))
    with pytest.raises(MachineError, match="not to be had"):
        sidecar_flaws(location(f"{url}/{tar.name}"), sidecar)
    monkeypatch.setattr(Files, "refused", f"{tar.stem}.json")
    with pytest.raises(MachineError, match="not to be had"):
        Sidecar.read(location(f"{url}/{tar.stem}.json"))


def test_bad_times_of_a_web_server_pass(served, tmp_path, capsys, monkeypatch):
    folder, url = served
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(Files, "bad_times", True)
    assert main(["verify", url]) == 0
    again = tmp_path / "again"
    assert main(["regenerate", "--metadata", url, "--out", str(again), "--executor", "serial"]) == 0
    assert next(Files.requests) > 5
    (one,), (other,) = folder.glob("*.tar"), again.glob("*.tar")
    assert one.read_bytes() == other.read_bytes()


def test_a_dataset_on_a_web_server_is_inspected_onto_a_page_elsewhere(served, tmp_path, capsys):
    folder, url = served
    assert main(["inspect", url]) == 2
    assert "nothing can be written there; say where with --out" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["inspect", url, "--out", str(page)]) == 0
    assert main(["inspect", str(folder)]) == 0
    count = json.loads((folder / "index.json").read_text())["num_pairs"]
    for text in (page.read_text(), (folder / "inspect.html").read_text()):
        assert "<title>Pairs in pairs</title>" in text
        assert f"{count} pairs" in text
