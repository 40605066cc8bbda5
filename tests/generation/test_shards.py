import errno
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset

from generation import retries
from generation.files import whole_file, write_text_whole
from generation.locations import filesystem, location
from generation.shards import reader as module
from generation.shards.images import (
    decode_depth_png,
    decode_jpeg,
    encode_depth_png,
    encode_jpeg,
)
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import ShardError, Sidecar, sidecar_path
from generation.shards.writer import open_shard


def sample(number: int) -> tuple[str, dict[str, bytes]]:
    image = np.full((16, 16, 3), number, np.uint8)
    members = {
        "view1.jpg": encode_jpeg(image, 95),
        "view2.jpg": encode_jpeg(255 - image, 95),
        "meta.json": json.dumps({"number": number}).encode(),
    }
    return f"room-{number:06d}", members


def write_dataset(folder: Path, counts: tuple[int, ...] = (3, 2)) -> ShardIndex:
    folder.mkdir(exist_ok=True)
    entries = []
    for shard, count in enumerate(counts):
        path = folder / f"room-{shard:06d}.tar"
        with open_shard(path, "room") as writer:
            for i in range(count):
                writer.add(*sample(10 * shard + i))
        assert writer.entry
        sidecar = Sidecar(
            entry=writer.entry, task={}, samples=writer.samples, attempts=count, rejections={}
        )
        sidecar.write(path)
        entries.append(writer.entry)
    index = ShardIndex(folder=folder, config={"seed": 0}, shards=tuple(entries))
    index.write()
    return index


def test_plain_webdataset_reads_every_sample(tmp_path: Path):
    index = write_dataset(tmp_path)
    urls = [str(tmp_path / entry.name) for entry in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [s["meta.json"]["number"] for s in samples] == [0, 1, 2, 10, 11]
    assert samples[3]["view1.jpg"].shape == (16, 16, 3)
    assert abs(int(samples[3]["view1.jpg"].mean()) - 10) <= 1


def test_the_reader_finds_every_member_by_offset(tmp_path: Path):
    write_dataset(tmp_path)
    reader = ShardReader(ShardIndex.open(tmp_path))
    for shard, position, number in ((0, 0, 0), (1, 1, 11), (0, 2, 2)):
        key, (meta, view) = reader.read(shard, position, ("meta.json", "view1.jpg"))
        assert key == f"room-{number:06d}"
        assert json.loads(meta) == {"number": number}
        assert view == sample(number)[1]["view1.jpg"]


def test_a_shard_is_opened_once_however_many_threads_read_it(tmp_path: Path, monkeypatch):
    write_dataset(tmp_path, (8, 8, 8))
    opened = []
    real = module._open_shard

    def open_counted(index, shard, cache):
        opened.append(shard)
        return real(index, shard, cache)

    monkeypatch.setattr(module, "_open_shard", open_counted)
    reader = ShardReader(ShardIndex.open(tmp_path))
    records = list(module.read_each(reader.record, range(24)))
    assert len({record["number"] for record in records}) == 24
    assert len(opened) == len(set(opened)) == 3


def test_an_index_reads_back_as_it_was_written(tmp_path: Path):
    index = write_dataset(tmp_path)
    assert ShardIndex.open(tmp_path) == index
    assert index.num_pairs == 5
    assert index.scenes == ("room",)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path):
    digests = set()
    for name in ("a", "b"):
        path = tmp_path / name / "room-000000.tar"
        path.parent.mkdir()
        with open_shard(path, "room") as writer:
            for i in range(3):
                writer.add(*sample(i))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path):
    path = tmp_path / "room-000000.tar"
    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="the renderer broke"),
        open_shard(path, "room") as writer,
    ):
        writer.add(*sample(0))
        raise RuntimeError("the renderer broke")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path):
    with pytest.raises(FileNotFoundError), open_shard(tmp_path / "unmounted" / "a.tar", "room"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_busy_store_refuses_is_uploaded_again(monkeypatch):
    path = location("memory://uploads/text.json")
    store, _ = filesystem(path)
    store.pipe_file("/uploads/.keep", b"")
    upload, answers = store.put_file, iter(range(100))

    def busy(*names: str) -> None:
        if next(answers) < 3:
            raise OSError(errno.EBUSY, "slow down")
        upload(*names)

    monkeypatch.setattr(store, "put_file", busy)
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.0)
    write_text_whole(path, "whole")
    assert path.read_text() == "whole"


def test_no_samples_give_no_tar(tmp_path: Path):
    with open_shard(tmp_path / "room-000000.tar", "room") as writer:
        pass
    assert writer.entry is None
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_keeps_the_old_one_until_it_is_complete(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_depth_survives_to_half_a_millimetre():
    depth_m = np.random.default_rng(0).uniform(0, 12, (24, 32)).astype(np.float32)
    depth_m[0] = 0
    decoded = decode_depth_png(encode_depth_png(depth_m))
    np.testing.assert_allclose(decoded, depth_m, atol=0.00051)
    assert (decoded[0] == 0).all()


def test_depth_beyond_the_format_saturates():
    assert decode_depth_png(encode_depth_png(np.full((2, 2), 99.0, np.float32))).max() == 65.535


def test_jpeg_is_one_that_others_read():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    image = np.kron(image, np.ones((8, 8, 1), np.uint8))
    data = encode_jpeg(image, 95)
    other = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(other.astype(int) - decode_jpeg(data)).max() <= 4
    assert simplejpeg.decode_jpeg_header(data)[2] == "YCbCr"


class TestBadInput:
    def test_a_folder_without_an_index(self, tmp_path: Path):
        with pytest.raises(ShardError, match="found no such file"):
            ShardIndex.open(tmp_path)

    def test_a_folder_of_levels(self, tmp_path: Path):
        for level in ("low", "high"):
            write_dataset(tmp_path / level)
        with pytest.raises(ShardError, match="holds the datasets high, low; give"):
            ShardIndex.open(tmp_path)

    def test_an_index_of_something_else(self, tmp_path: Path):
        (tmp_path / "index.json").write_text('{"hello": 1}')
        with pytest.raises(ShardError, match="schema version"):
            ShardIndex.open(tmp_path)

    def test_an_index_that_is_not_json(self, tmp_path: Path):
        (tmp_path / "index.json").write_text("shards?")
        with pytest.raises(ShardError, match=r"index\.json"):
            ShardIndex.open(tmp_path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("count", "5"), ("count", 0), ("count", None), ("scene", ["a"]), ("sha256", None)],
    )
    def test_an_index_with_other_types_of_a_shard(self, tmp_path: Path, name: str, value: object):
        write_dataset(tmp_path)
        path = tmp_path / "index.json"
        raw = json.loads(path.read_text())
        raw["shards"][1][name] = value
        path.write_text(json.dumps(raw))
        with pytest.raises(ShardError, match=r"index\.json: not a dataset's index"):
            ShardIndex.open(tmp_path)

    @pytest.mark.parametrize("config", [None, [1], "procedural"])
    def test_an_index_whose_configuration_is_none(self, tmp_path: Path, config: object):
        write_dataset(tmp_path)
        path = tmp_path / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
        with pytest.raises(ShardError, match=r"index\.json: not a dataset's index"):
            ShardIndex.open(tmp_path)

    def test_an_index_without_pairs(self, tmp_path: Path):
        ShardIndex(folder=tmp_path, config={}, shards=()).write()
        with pytest.raises(ShardError, match="holds no pairs"):
            ShardIndex.open(tmp_path)

    def test_a_missing_shard(self, tmp_path: Path):
        index = write_dataset(tmp_path)
        (tmp_path / index.shards[0].name).unlink()
        with pytest.raises(ShardError, match="no such file"):
            ShardReader(index).read(0, 0, ("meta.json",))

    def test_a_truncated_shard(self, tmp_path: Path):
        index = write_dataset(tmp_path)
        path = tmp_path / index.shards[0].name
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ShardError, match="1000 bytes, but the index says"):
            ShardReader(index).read(0, 0, ("meta.json",))

    def test_a_foreign_shard_under_a_known_name(self, tmp_path: Path):
        index = write_dataset(tmp_path)
        sidecar_path(tmp_path / index.shards[0].name).write_text(
            sidecar_path(tmp_path / index.shards[1].name).read_text()
        )
        with pytest.raises(ShardError, match="not the one that the index lists"):
            ShardReader(index).read(0, 0, ("meta.json",))

    def test_depth_that_was_not_rendered(self, tmp_path: Path):
        index = write_dataset(tmp_path)
        with pytest.raises(ShardError, match="again with --depth"):
            ShardReader(index).read(0, 0, ("depth1.png",))
