"""Every layout that we know, from `crossview scenes` to rendered pairs."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scene_layouts as layouts
import webdataset

from generation.scenes.sources import resolve_scenes
from pipelines.cli import main
from pipelines.scene_sets import SCENE_SETS, scene_sets

LAYOUTS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "hm3d": (
        layouts.write_hm3d,
        ["00000-kfPV7w3FaU5", "00001-UVdNNRcVyV1", "00002-FxCkHAfgh7A", "00003-NtVbfPCkBFy"],
    ),
    "scannet": (layouts.write_scannet, ["scene0000_00", "scene0000_01"]),
    "replica": (layouts.write_replica, ["office_4", "room_0"]),
    "replica_cad": (layouts.write_replica_cad, ["apt_0", "apt_1", "apt_2"]),
    "replica_cad_baked": (
        layouts.write_replica_cad_baked,
        ["Baked_sc0_staging_00", "Baked_sc0_staging_01"],
    ),
    "habitat_test_scenes": (
        layouts.write_habitat_test_scenes,
        ["apartment_1", "skokloster-castle", "van-gogh-room"],
    ),
    "my_scans": (layouts.write_my_scans, ["office-scan", "upstairs-scan"]),
}
GOOD = {
    "hm3d": "00001-UVdNNRcVyV1",
    "scannet": "scene0000_00",
    "replica": "room_0",
    "replica_cad": "apt_0",
    "replica_cad_baked": "Baked_sc0_staging_00",
    "habitat_test_scenes": "skokloster-castle",
    "my_scans": "upstairs-scan",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, (write, _) in LAYOUTS.items()}


def resolved(name: str, root: Path, split: str = ""):
    return resolve_scenes([f"{name}{split}:{root}"], sets=scene_sets())


def test_every_manifest_says_what_a_user_needs():
    assert set(scene_sets()) == {*LAYOUTS, "procedural"}
    for path in SCENE_SETS.glob("*.yaml"):
        scene_set = scene_sets()[path.stem]
        assert scene_set.title
        assert scene_set.licence
        assert scene_set.access.endswith(".")
        if scene_set.name not in ("procedural", "my_scans"):
            assert scene_set.url
            assert scene_set.up
            assert scene_set.splits


def test_hm3ds_val_and_minival_are_held_out():
    assert scene_sets()["hm3d"].default_splits == ("train",)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sets_scenes_have_their_published_ids_in_a_stable_order(roots, name: str):
    assert [source.scene_id for source in resolved(name, roots[name])] == LAYOUTS[name][1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sets_scenes_are_turned_upright_in_metres(roots, name: str):
    (source,) = (s for s in resolved(name, roots[name]) if s.scene_id == GOOD[name])
    scene = source.load()
    np.testing.assert_allclose(scene.bounds, [[0, 0, 0], layouts.ROOM_SIZE], atol=1e-5)


def test_a_held_out_split_is_used_where_it_is_named(roots):
    (source,) = resolved("hm3d", roots["hm3d"], "/val")
    assert source.scene_id == "00800-TEEsavR23oF"


@pytest.mark.parametrize("name", ["hm3d", "scannet", "replica", "replica_cad"])
def test_a_set_renders_pairs(roots, name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    good = [source for source in resolved(name, roots[name]) if source.scene_id == GOOD[name]]
    (number,) = [LAYOUTS[name][1].index(source.scene_id) for source in good]
    num_scenes = len(LAYOUTS[name][1])
    arguments = ["--scenes", f"{name}:{roots[name]}", "--num-pairs", str(num_scenes)]
    options = ["--image-size", "64", "--executor", "serial", "--renderer", "embree"]
    status = main(["render-pairs", *arguments, *options, "--out", str(tmp_path)])
    captured = capsys.readouterr()
    failed = re.findall(r"^  (\S+): ", captured.err, re.MULTILINE)
    whole = {"hm3d": 2, "scannet": 2, "replica": 1, "replica_cad": 2}[name]
    assert len(failed) == num_scenes - whole
    assert status == (2 if failed else 0)
    shard = webdataset.WebDataset(
        str(tmp_path / f"{LAYOUTS[name][1][number]}-000000.tar"), shardshuffle=False
    )
    (sample,) = shard.decode("rgb8")
    assert sample["meta.json"]["scene"] == GOOD[name]
    assert sample["view1.jpg"].shape == (64, 64, 3)
    assert sample["view1.jpg"].std() > 10, "the room's random colours are seen"


def test_hm3ds_basis_textures_name_the_archive_to_get(roots, tmp_path: Path, capsys):
    scenes = [f"hm3d:{roots['hm3d']}"]
    main(["render-pairs", "--scenes", *scenes, "--num-pairs", "4", "--image-size", "64",
          "--executor", "serial", "--renderer", "embree", "--out", str(tmp_path)])  # fmt: skip
    printed = capsys.readouterr().err
    assert re.search(r"00002-FxCkHAfgh7A: .*Basis Universal.*hm3d-\*-glb", printed)
    assert re.search(r"00003-NtVbfPCkBFy: .*\.glb: no such file", printed)


class TestScenes:
    def run(self, *arguments: str) -> int:
        return main(["scenes", *arguments])

    def test_alone_it_lists_the_sets(self, capsys):
        assert self.run() == 0
        printed = capsys.readouterr().out
        for name in scene_sets():
            assert re.search(rf"^{name} ", printed, re.MULTILINE)
        assert "val (held out)" in printed

    def test_of_a_root_it_prints_what_is_there_missing_and_unusable(self, roots, capsys):
        root = str(roots["hm3d"])
        assert self.run("--set", "hm3d", "--root", root) == 0
        printed = capsys.readouterr().out
        assert re.search(r"00000-kfPV7w3FaU5 +train +train/\S+/kfPV7w3FaU5\.glb +ok", printed)
        assert re.search(r"00002-FxCkHAfgh7A +train .*not usable", printed)
        assert re.search(r"00003-NtVbfPCkBFy +train .*missing", printed)
        assert re.search(r"  00002-FxCkHAfgh7A: .*Basis Universal", printed)
        assert "train: 2 of 800 scenes are there and usable" in printed
        assert "val (held out): 1 of 100" in printed
        assert "minival (held out): no scene; expected minival/" in printed
        assert "to get the others: " in printed
        assert "https://aihabitat.org/datasets/hm3d/" in printed
        assert f"--scenes hm3d:{root}" in printed

    def test_of_one_split(self, roots, capsys):
        assert self.run("--set", "hm3d", "--root", str(roots["hm3d"]), "--split", "val") == 0
        printed = capsys.readouterr().out
        assert "00800-TEEsavR23oF" in printed
        assert "train" not in printed.split("to get")[0]
        assert f"--scenes hm3d/val:{roots['hm3d']}" in printed

    def test_of_composed_scenes_it_looks_into_what_they_name(self, roots, capsys):
        assert self.run("--set", "replica_cad", "--root", str(roots["replica_cad"])) == 0
        printed = capsys.readouterr().out
        assert re.search(r"apt_2 .*not usable", printed)
        assert "object 'objects/frl_apartment_sofa'" in printed
        assert re.search(r"left out:\n  apt_0: fridge", printed)

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_an_empty_root_is_told_with_status_2(self, tmp_path: Path, capsys, name: str):
        assert self.run("--set", name, "--root", str(tmp_path)) == 2
        printed = capsys.readouterr().out
        assert "to get the others: " in printed
        assert scene_sets()[name].access in printed

    def test_generated_rooms_need_no_root(self, capsys):
        assert self.run("--set", "procedural") == 0
        assert "procedural:0-9" in capsys.readouterr().out

    def test_a_set_says_how_to_get_it_without_a_root(self, capsys):
        assert self.run("--set", "hm3d") == 0
        assert "hm3d-train-glb" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "hm4d"], "expected one of"),
            (["--set", "hm3d", "--root", "gone"], "gone: no such folder"),
            (["--set", "hm3d", "--root", ".", "--split", "dev"], "no split 'dev'; expected one of"),
            (["--root", "."], "need --set"),
        ],
    )
    def test_wrong_options_are_told_with_status_2(self, capsys, arguments, message: str):
        assert self.run(*arguments) == 2
        assert message in capsys.readouterr().err
