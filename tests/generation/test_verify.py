"""What is done to a dataset is named by verify, and what can be mended is rendered again."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from folders import digests
from one_worker import SERIAL

from generation.covisibility import measure_pair
from generation.files import whole_file
from generation.geometry import Camera, look_at
from generation.locations import location
from generation.renderers.embree import EmbreeRenderer
from generation.scenes.scene import Scene
from generation.shards.images import decode_depth_png, encode_depth_png, encode_jpeg
from generation.shards.pair_flaws import Expected, pair_flaws, remeasured
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import DEPTHS, META, VIEWS, ShardError, Sidecar, sidecar_path
from generation.shards.sidecar_flaws import sidecar_flaws
from generation.shards.verify import (
    AS_WRITTEN,
    MOVE_AWAY,
    Problem,
    verify_dataset,
)
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs

CONFIG = {
    "scenes": ["procedural:0-1"],
    "num_pairs": 12,
    "renderer": "embree",
    "pairs": {"image_size": [64, 64]},
    "shards": {"pairs_per_shard": 3, "depth": True},
}
FIRST, SECOND, THIRD, LAST = (
    f"procedural-{scene:06d}-{first:06d}.tar" for scene in (0, 1) for first in (0, 3)
)
MEMBERS = (META, *VIEWS, *DEPTHS)


def render(out: Path, *, verify: bool = False) -> None:
    config = build(RenderPairsConfig, CONFIG, source="test")
    render_pairs(config, out, SERIAL, verify=verify)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    render(out)
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def named(folder: Path, **options) -> dict[str, str]:
    """Return what verify says, by file."""
    problems = verify_dataset(folder, **options).problems
    return {problem.file: problem.what for problem in problems}


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def exchange(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def exchange_with_sidecars(one: Path, other: Path) -> None:
    exchange(one, other)
    exchange(sidecar_path(one), sidecar_path(other))


def sidecar(folder: Path, tar: str) -> Path:
    return sidecar_path(folder / tar)


@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_dataset_has_no_problems(whole: Path, quick: bool):
    verdict = verify_dataset(whole, quick=quick)
    assert verdict.problems == ()
    assert [entry.name for entry in verdict.shards] == [FIRST, SECOND, THIRD, LAST]


def json_name(tar: str) -> str:
    return tar.replace(".tar", ".json")


DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "a deleted tar": (lambda d: (d / SECOND).unlink(), {SECOND: "missing"}),
    "a truncated tar": (
        lambda d: (d / SECOND).write_bytes((d / SECOND).read_bytes()[:2000]),
        {SECOND: "2000 bytes, the index says"},
    ),
    "a flipped bit in a tar": (lambda d: flip(d / SECOND, 70_001), {SECOND: "SHA-256"}),
    "two exchanged tars": (
        lambda d: exchange(d / FIRST, d / LAST),
        {FIRST: f"holds the bytes of {LAST}", LAST: f"holds the bytes of {FIRST}"},
    ),
    "two shards exchanged with their sidecars": (
        lambda d: exchange_with_sidecars(d / FIRST, d / SECOND),
        {
            FIRST: f"holds the bytes of {SECOND}",
            json_name(FIRST): "not the sidecar that the index lists",
            SECOND: f"holds the bytes of {FIRST}",
            json_name(SECOND): "not the sidecar that the index lists",
        },
    ),
    "a deleted sidecar": (
        lambda d: sidecar(d, THIRD).unlink(),
        {json_name(THIRD): "found no such file"},
    ),
    "a truncated sidecar": (
        lambda d: sidecar(d, THIRD).write_text(sidecar(d, THIRD).read_text()[:300]),
        {json_name(THIRD): "expected a shard's sidecar"},
    ),
    "two exchanged sidecars": (
        lambda d: exchange(sidecar(d, FIRST), sidecar(d, SECOND)),
        {json_name(FIRST): f"that of {SECOND}", json_name(SECOND): f"that of {FIRST}"},
    ),
    "another count of proposals in a sidecar": (
        lambda d: replace_text(sidecar(d, LAST), '"attempts": ', '"attempts": 1'),
        {json_name(LAST): "proposals are not 3 pairs and"},
    ),
    "another offset in a sidecar": (
        lambda d: replace_text(sidecar(d, LAST), "512,", "513,"),
        {json_name(LAST): f"its member offsets are not those of {LAST}"},
    ),
    "no index": (lambda d: (d / "index.json").unlink(), {"index.json": "found no such file"}),
    "an index cut short": (
        lambda d: (d / "index.json").write_text((d / "index.json").read_text()[:-20]),
        {"index.json": "expected a dataset's index"},
    ),
    "a shard of another name in the index": (
        lambda d: replace_text(d / "index.json", SECOND, SECOND.replace("3.tar", "2.tar")),
        {SECOND.replace("3.tar", "2.tar"): "missing", SECOND: "the index does not list it"},
    ),
    "another hash in the index": (
        lambda d: replace_text(d / "index.json", '"sha256": "', '"sha256": "0'),
        {"index.json": f"does not list {FIRST} as its sidecar does: sha256"},
    ),
    "another number of pairs in the index": (
        lambda d: replace_text(d / "index.json", '"num_pairs": 12', '"num_pairs": 13'),
        {"index.json": "num_pairs is 13, its shards have 12"},
    ),
    "another seed in the index": (
        lambda d: replace_text(d / "index.json", '"seed": 0', '"seed": 1'),
        {"index.json": "seed: 0 before, 1 now"},
    ),
    "a damaged configuration": (
        lambda d: (d / "config.json").write_text("{"),
        {"config.json": "expected the configuration of a run"},
    ),
    "a partial file": (
        lambda d: (d / f".{FIRST}.partial").write_bytes(b"half"),
        {f".{FIRST}.partial": "half-written"},
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_rendering_again_mends_it(whole: Path, dataset: Path, name: str):
    damage, expected = DAMAGE[name]
    damage(dataset)
    found = named(dataset, quick=True)
    assert found.keys() == expected.keys()
    for file, what in expected.items():
        assert what in found[file]
    render(dataset, verify=True)
    assert digests(dataset) == digests(whole)
    assert verify_dataset(dataset).problems == ()


def test_every_flipped_bit_of_a_tar_is_named(dataset: Path):
    size_bytes = (dataset / FIRST).stat().st_size
    for bit in np.random.default_rng(0).integers(0, 8 * size_bytes, 100):
        flip(dataset / FIRST, int(bit))
        assert named(dataset, quick=True).keys() == {FIRST}
        flip(dataset / FIRST, int(bit))
    assert named(dataset, quick=True) == {}


def test_no_number_of_a_sidecar_that_speaks_of_its_tar_can_change_unseen(dataset: Path):
    path = sidecar(dataset, FIRST)
    text = path.read_text()
    task = range(text.index(' "task"'), text.index(' "samples"'))  # a run compares it itself
    digits = [m.start() for m in re.finditer(r"\d", text) if m.start() not in task]
    rng = np.random.default_rng(0)
    for place in rng.choice(digits, 200, replace=False):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        path.write_text(changed)
        try:
            flaws = sidecar_flaws(dataset / FIRST, Sidecar.read(path))
        except ShardError:
            continue  # of another schema version, or no number any more
        assert flaws, changed[place - 40 : place + 10]


def test_damage_that_keeps_an_index_json_is_named_or_refused(dataset: Path):
    path = dataset / "index.json"
    data = path.read_bytes()
    unseen = []
    for bit in np.random.default_rng(0).integers(0, 8 * len(data), 150):
        flip(path, int(bit))
        if not verify_dataset(dataset, quick=True).problems:
            unseen.append(data[bit // 8 - 30 : bit // 8 + 10])
        path.write_bytes(data)
    assert unseen == []


class TestForeignFiles:
    def test_a_tar_that_the_index_does_not_list(self, dataset: Path):
        for path in (dataset / FIRST, sidecar(dataset, FIRST)):
            shutil.copy(path, dataset / path.name.replace("procedural", "stranger"))
        (problem,) = verify_dataset(dataset).problems
        name = FIRST.replace("procedural", "stranger")
        assert problem == Problem(file=name, what="the index does not list it", mend=MOVE_AWAY)

    def test_a_sidecar_without_its_tar(self, dataset: Path):
        shutil.copy(sidecar(dataset, FIRST), dataset / "stranger-000000.json")
        assert "without its shard" in named(dataset)["stranger-000000.json"]

    def test_the_sidecar_of_a_task_that_found_no_pair_belongs_there(self, dataset: Path):
        nothing = Sidecar(
            entry=None, task={}, samples={}, attempts=2, rejections={"overlap too low": 2}
        )
        (dataset / "bare-000000.json").write_text(nothing.to_json())
        assert named(dataset) == {}


def rewrite(folder: Path, tar: str, change: Callable[[str, dict[str, bytes]], None]) -> None:
    """Write a shard with changed members, and its sidecar and index as if it was always so."""
    from generation.shards.writer import open_shard

    index = ShardIndex.open(folder)
    number = [entry.name for entry in index.shards].index(tar)
    old = Sidecar.read(sidecar(folder, tar))
    samples = {}
    for position, (key, places) in enumerate(old.samples.items()):
        key, members = ShardReader(index).read(number, position, tuple(places))
        samples[key] = dict(zip(places, members))
        change(key, samples[key])
    with open_shard(folder / tar, old.entry.scene) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    fields = {name: getattr(old, name) for name in old.__dataclass_fields__}
    fields |= {"entry": writer.entry, "samples": writer.samples}
    with whole_file(sidecar(folder, tar)) as temporary:
        temporary.write_text(Sidecar(**fields).to_json())
    shards = [writer.entry if entry.name == tar else entry for entry in index.shards]
    ShardIndex(folder=folder, config=index.config, shards=tuple(shards)).write()


def test_a_pair_that_was_written_twice_is_named(dataset: Path):
    copied: dict[str, bytes] = {}

    def copy_the_first(key: str, members: dict[str, bytes]) -> None:
        if key.endswith("2"):
            members.update(copied)
        elif not copied:
            copied.update(members)

    rewrite(dataset, FIRST, copy_the_first)
    problems = verify_dataset(dataset).problems
    assert [problem.what for problem in problems] == [
        "procedural-000000-000002: the same images as procedural-000000-000000",
        "procedural-000000-000002: the same poses as procedural-000000-000000",
    ]
    assert {problem.mend for problem in problems} == {AS_WRITTEN}


def test_a_pair_with_its_views_exchanged_is_the_same_pair(dataset: Path):
    first: dict[str, bytes] = {}

    def exchanged(key: str, members: dict[str, bytes]) -> None:
        if key.endswith("0"):
            first.update(members)
        elif key.endswith("1"):
            for one, other in (VIEWS, DEPTHS):
                members[one], members[other] = first[other], first[one]
            meta = json.loads(first[META])
            for name in ("world_from_camera{}", "covisibility_{}_in_{}"):
                one, other = name.format(1, 2), name.format(2, 1)
                meta[one], meta[other] = meta[other], meta[one]
            members[META] = json.dumps(meta).encode()

    rewrite(dataset, FIRST, exchanged)
    assert [problem.what for problem in verify_dataset(dataset).problems] == [
        "procedural-000000-000001: the same images as procedural-000000-000000",
        "procedural-000000-000001: the same poses as procedural-000000-000000",
    ]


@pytest.fixture(scope="module")
def pair(whole: Path) -> dict[str, bytes]:
    _, members = ShardReader(ShardIndex.open(whole)).read(0, 0, MEMBERS)
    return dict(zip(MEMBERS, members))


def flaws_of(members: dict[str, bytes], **meta) -> list[str]:
    """Return the flaws of a pair, some of its meta.json changed."""
    members = members | {META: json.dumps(json.loads(members[META]) | meta).encode()}
    expected = Expected.of_config(json.loads(json.dumps(CONFIG_OF_INDEX)))
    return [*pair_flaws("key", members, "procedural-000000", expected)]


CONFIG_OF_INDEX = {
    "pairs": {"image_size": [64, 64], "overlap": {"low": 0.4, "high": 0.6}},
    "shards": {"depth": True},
}


class TestPairs:
    def test_one_as_it_was_rendered_has_no_flaws(self, pair: dict[str, bytes]):
        assert flaws_of(pair) == []

    @pytest.mark.parametrize("name", MEMBERS)
    def test_a_missing_member(self, pair: dict[str, bytes], name: str):
        members = {ending: data for ending, data in pair.items() if ending != name}
        expected = Expected.of_config(CONFIG_OF_INDEX)
        assert [*pair_flaws("key", members, "procedural-000000", expected)] == [f"key: no {name}"]

    @pytest.mark.parametrize("name", [*VIEWS, *DEPTHS])
    @pytest.mark.parametrize("damage", ["cut", "other size"])
    def test_an_image_that_is_not_one(self, pair: dict[str, bytes], name: str, damage: str):
        encode = encode_depth_png if name in DEPTHS else lambda image: encode_jpeg(image, 95)
        shape = (32, 64) if name in DEPTHS else (32, 64, 3)
        other = encode(np.zeros(shape, np.float32 if name in DEPTHS else np.uint8))
        (flaw,) = flaws_of(pair | {name: pair[name][:300] if damage == "cut" else other})
        assert flaw.startswith(f"key: {name} ")
        assert ("cannot be decoded" in flaw) == (damage == "cut")

    def test_depth_of_another_pair(self, pair: dict[str, bytes]):
        flaws = flaws_of(pair | {"depth1.png": encode_depth_png(np.full((64, 64), 2, np.float32))})
        assert any("covisibility_1_in_2 is 0." in f and "from its depth" in f for f in flaws)

    @pytest.mark.parametrize("by", [0.02, -0.02])
    def test_a_number_that_its_depth_does_not_bear_out(self, pair: dict[str, bytes], by: float):
        recorded = json.loads(pair[META])["covisibility_official"]
        (flaw,) = flaws_of(pair, covisibility_official=recorded + by)
        assert "measured from its depth" in flaw

    @pytest.mark.parametrize("distance_m", [0.01, 0.02, 0.03])
    def test_rounding_explains_what_is_seen_edge_on(self, box_room: Scene, distance_m: float):
        """A wall that one view faces, and the other looks along from a centimetre or two."""
        renderer = EmbreeRenderer(box_room)
        facing = look_at(np.array([2.0, 1.3, 2.0]), np.array([2.3, 1.2, 0.0]))
        along = look_at(np.array([0.8, 1.3, distance_m]), np.array([3.9, 1.3, distance_m / 2]))
        views = [renderer.render(Camera.from_hfov(60, (64, 64), pose)) for pose in (facing, along)]
        rounded = [
            replace(view, depth_m=decode_depth_png(encode_depth_png(view.depth_m)))
            for view in views
        ]
        exact, stored = measure_pair(*views), measure_pair(*rounded)
        assert exact.covisibility_1_in_2 - stored.covisibility_1_in_2 > 0.05
        bounds = remeasured(*rounded, asdict(exact))
        for name, (low, high) in bounds.items():
            assert low <= getattr(exact, name) <= high

    def test_a_pose_that_is_not_rigid(self, pair: dict[str, bytes]):
        stretched = (np.diag([1.0, 1.1, 1.0, 1.0])).tolist()
        (flaw,) = flaws_of(pair, world_from_camera1=stretched)
        assert "world_from_camera1 is not rigid" in flaw

    def test_a_mirrored_pose(self, pair: dict[str, bytes]):
        (flaw,) = flaws_of(pair, world_from_camera2=np.diag([1.0, -1.0, 1.0, 1.0]).tolist())
        assert "world_from_camera2 is not rigid" in flaw

    @pytest.mark.parametrize(
        ("meta", "flaw"),
        [
            ({"scene": "another"}, "of scene 'another', in a shard of 'procedural-000000'"),
            ({"renderer": ""}, "no renderer"),
            ({"hfov_deg": 61}, "intrinsics are not those of hfov_deg 61"),
            ({"hfov_deg": 0.0}, "meta.json is not as the schema says (ZeroDivisionError"),
            ({"intrinsics": [[1, 0], [0, 1]]}, "intrinsics is not a 3 x 3 matrix"),
            (
                {"intrinsics": [[28, 9, 32], [0, 28, 32], [0, 0, 1]]},
                "intrinsics are more than focal",
            ),
            ({"intrinsics": [[float("nan")] * 3] * 3}, "intrinsics is not a 3 x 3 matrix"),
            ({"covisibility_official": 1.2}, "covisibility_official is 1.2, expected 0 to 1"),
            ({"covisibility_official": None}, "not as the schema says"),
            ({"covisibility": 0.3}, "is not the smaller of"),
            ({"covisibility": 0.3}, "covisibility is 0.3000, outside 0.4-0.6"),
            ({"image_size": [64]}, "not as the schema says"),
        ],
    )
    def test_a_wrong_number(self, pair: dict[str, bytes], meta: dict, flaw: str):
        assert any(flaw in found for found in flaws_of(pair, **meta)), flaws_of(pair, **meta)

    def test_metadata_that_is_not_json(self, pair: dict[str, bytes]):
        members = pair | {META: b"\xff{"}
        (flaw,) = pair_flaws("key", members, "procedural-000000", Expected())
        assert "meta.json is not as the schema says" in flaw

    def test_an_official_band_judges_the_official_number(self, pair: dict[str, bytes]):
        config = {"pairs": {"overlap": {"low": 0.99, "high": 1.0, "official": True}}}
        (flaw,) = pair_flaws("key", pair, "procedural-000000", Expected.of_config(config))
        assert "covisibility_official is" in flaw
        assert "outside 0.99-1" in flaw


def test_a_dataset_behind_a_url(dataset: Path):
    bucket = location("memory://bucket/pairs")
    for path in dataset.iterdir():
        (bucket / path.name).write_bytes(path.read_bytes())
    assert verify_dataset(bucket).problems == ()
    assert sidecar_flaws(bucket / FIRST, Sidecar.read(bucket / json_name(FIRST))) == []
    (bucket / SECOND).write_bytes((dataset / SECOND).read_bytes()[:3000])
    (bucket / LAST).unlink()
    assert named(bucket).keys() == {SECOND, LAST}


class TestCommand:
    def test_a_whole_dataset_gives_a_table_of_scenes(self, whole: Path, capsys):
        assert main(["verify", str(whole), "--workers", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["scene", "shards", "pairs", "bytes", "state"]
        assert lines[2].split()[:3] == ["procedural-000000", "2", "6"]
        assert lines[4].split()[:3] == ["all", "4", "12"]

    def test_problems_give_a_table_of_files_and_what_to_do(self, dataset: Path, capsys):
        (dataset / SECOND).unlink()
        assert main(["verify", str(dataset), "--quick", "--workers", "1"]) == 2
        printed = capsys.readouterr().out
        assert re.search(rf"{SECOND} +1 +missing", printed)
        assert "render again with the same command and --verify" in printed

    def test_any_number_of_workers_finds_the_same(self, dataset: Path):
        flip(dataset / THIRD, 9999)
        (dataset / LAST).unlink()
        assert verify_dataset(dataset, workers=1) == verify_dataset(dataset, workers=3)

    @pytest.mark.parametrize("arguments", [["--workers", "0"], []])
    def test_what_cannot_be_verified(self, whole: Path, tmp_path: Path, capsys, arguments):
        assert main(["verify", str(whole if arguments else tmp_path), *arguments]) == 2
        assert re.search(
            "workers = 0: expected at least 1|index.json: expected", capsys.readouterr().err
        )
