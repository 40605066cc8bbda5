"""What belongs to a set of scenes, and how patterns become sources."""

import pickle
from pathlib import Path

import pytest
from scene_layouts import write_basis_glb, write_replica_cad, write_room_glb, write_text

from generation.errors import CrossviewError
from generation.scenes.scene import SceneError
from generation.scenes.sets import SceneSet, SceneSplit, discover
from generation.scenes.sources import resolve_scenes
from pipelines.scene_sets import scene_sets


def set_of(*files: str, **options) -> SceneSet:
    held_out = SceneSplit(files=("eval/*.ply",), held_out=True)
    fields = {"title": "A set", "licence": "none", "access": "Ask for it."}
    return SceneSet(
        name="mine",
        splits={"main": SceneSplit(files=files), "eval": held_out},
        **{**fields, **options},
    )


def touch(root: Path, *names: str) -> None:
    for name in names:
        write_text(root / name)


def ids(scene_set: SceneSet, root: Path, splits: list[str] | None = None) -> list[str]:
    return [scene.scene_id for scene in discover(scene_set, root, splits, check=False)]


class TestDiscovery:
    def test_is_sorted_by_split_and_then_by_id(self, tmp_path: Path):
        touch(tmp_path, "b.ply", "a.ply", "eval/0.ply")
        assert ids(set_of("*.ply"), tmp_path, ["eval", "main"]) == ["0", "a", "b"]

    def test_leaves_held_out_splits_unless_they_are_named(self, tmp_path: Path):
        touch(tmp_path, "a.ply", "eval/0.ply")
        assert ids(set_of("*.ply"), tmp_path) == ["a"]
        assert ids(set_of("*.ply"), tmp_path, ["eval"]) == ["0"]

    def test_takes_of_two_files_with_one_id_that_of_the_first_pattern(self, tmp_path: Path):
        touch(tmp_path, "small/a.glb", "plain/a.glb", "small/b.glb")
        found = discover(set_of("plain/*.glb", "small/*.glb"), tmp_path, check=False)
        assert [s.path.relative_to(tmp_path).as_posix() for s in found] == [
            "plain/a.glb", "small/b.glb",
        ]  # fmt: skip

    def test_names_a_folder_without_its_file(self, tmp_path: Path):
        touch(tmp_path, "room_0/mesh.ply", "room_1/notes.txt", "readme/notes.txt", "room_2")
        found = discover(set_of("room_*/mesh.ply", named_by="folder"), tmp_path, check=False)
        assert [(s.scene_id, bool(s.problem)) for s in found] == [
            ("room_0", False), ("room_1", True),
        ]  # fmt: skip
        assert "there is no mesh.ply in" in found[1].problem

    def test_names_a_file_that_is_expected_by_its_name(self, tmp_path: Path):
        found = discover(set_of("a.glb"), tmp_path)
        assert "no such file" in found[0].problem

    def test_tells_files_of_one_name_apart_by_their_folders(self, tmp_path: Path):
        touch(tmp_path, "x/scan.ply", "y/scan.ply", "y/other.glb", "y/other.basis.glb")
        scene_set = set_of("**/*.glb", "**/*.ply", named_by="path")
        assert ids(scene_set, tmp_path) == ["other", "x-scan", "y-scan"]

    def test_finds_your_own_scans_whatever_the_case_of_their_endings(self, tmp_path: Path):
        touch(tmp_path, "A.GLB", "b/SCAN.PLY", "b/c/d.Obj", "b/notes.txt", "A.stage_config.json")
        assert ids(scene_sets()["my_scans"], tmp_path) == ["A", "SCAN", "d"]

    def test_says_what_the_header_tells_of_a_bad_file(self, tmp_path: Path):
        write_room_glb(tmp_path / "good.glb", z_up=True)
        write_basis_glb(tmp_path / "basis.glb")
        data = (tmp_path / "good.glb").read_bytes()
        (tmp_path / "short.glb").write_bytes(data[:-1])
        (tmp_path / "text.glb").write_bytes(b"<html>not found</html>")
        touch(tmp_path, "zero.glb")
        found = {s.scene_id: s.problem for s in discover(set_of("*.glb"), tmp_path)}
        assert found.pop("good") == ""
        assert "Basis Universal" in found["basis"]
        assert "truncated" in found["short"]
        assert "expected a binary glTF" in found["text"]
        assert "empty" in found["zero"]

    def test_wants_a_folder_and_a_split_that_exist(self, tmp_path: Path):
        with pytest.raises(CrossviewError, match="no such folder"):
            discover(set_of("*.ply"), tmp_path / "gone")
        with pytest.raises(CrossviewError, match="no split 'dev'; expected one of main, eval"):
            discover(set_of("*.ply"), tmp_path, ["dev"])


class TestPatterns:
    def resolve(self, *patterns: str, scene_set: SceneSet, up: str = "y"):
        return resolve_scenes(list(patterns), up=up, sets={"mine": scene_set})

    def test_a_set_gives_its_axes_and_units(self, tmp_path: Path):
        touch(tmp_path, "a.ply")
        scene_set = set_of("*.ply", up="z", units_to_meters=0.01)
        (source,) = self.resolve(f"mine:{tmp_path}", scene_set=scene_set, up="x")
        assert (source.up, source.units_to_meters) == ("z", 0.01)

    def test_a_set_without_axes_takes_those_given(self, tmp_path: Path):
        touch(tmp_path, "a.ply")
        (source,) = self.resolve(f"mine:{tmp_path}", scene_set=set_of("*.ply"), up="x")
        assert source.up == "x"

    def test_sets_files_and_rooms_keep_their_order_and_come_once(self, tmp_path: Path):
        touch(tmp_path, "b.ply", "a.ply", "eval/0.ply")
        patterns = ["procedural:3", f"mine/eval:{tmp_path}", f"mine:{tmp_path}"]
        sources = self.resolve(*patterns, str(tmp_path / "*.ply"), scene_set=set_of("*.ply"))
        assert [s.scene_id for s in sources] == ["procedural-000003", "0", "a", "b"]

    def test_sources_go_through_pickle(self, tmp_path: Path):
        touch(tmp_path, "a.ply")
        sources = self.resolve(f"mine:{tmp_path}", scene_set=set_of("*.ply", up="z"))
        assert pickle.loads(pickle.dumps(sources)) == sources

    def test_two_scenes_of_one_name_are_refused(self, tmp_path: Path):
        touch(tmp_path, "a.ply", "eval/a.ply")
        with pytest.raises(SceneError, match=r"the name a: .*a\.ply and .*a\.ply; leave one out"):
            self.resolve(f"mine:{tmp_path}", f"mine/eval:{tmp_path}", scene_set=set_of("*.ply"))

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("mien:{root}", "no scene set 'mien'; expected .* mine"),
            ("mine/dev:{root}", "no split 'dev'"),
            ("mine:{root}/gone", "no such folder"),
            ("mine:{root}", r"no scene below .*; expected \*\.ply. Ask for it\."),
        ],
    )
    def test_a_set_pattern_that_gives_nothing_is_refused(self, tmp_path, pattern, message: str):
        with pytest.raises(CrossviewError, match=message):
            self.resolve(pattern.format(root=tmp_path), scene_set=set_of("*.ply"))

    def test_a_split_that_is_there_and_the_folder_above_are_pointed_out(self, tmp_path: Path):
        touch(tmp_path, "eval/0.ply")
        for root, hint in ((tmp_path, "mine/eval:"), (tmp_path / "eval", "folder above: mine:")):
            with pytest.raises(SceneError, match=f"no scene below .* {hint}{tmp_path}$"):
                self.resolve(f"mine:{root}", scene_set=set_of("main/*.ply"))

    @pytest.mark.parametrize("word", ["mine", "procedural", "no/such/folder"])
    def test_a_word_that_names_nothing_is_refused_at_once(self, word: str):
        with pytest.raises(SceneError, match=f"^{word}: no such file or folder; .* mine, or proc"):
            self.resolve(word, scene_set=set_of("*.ply"))

    def test_a_folder_whose_scenes_lie_deeper_is_refused_with_what_finds_them(self, tmp_path: Path):
        touch(tmp_path, "00800-TEEsavR23oF/TEEsavR23oF.glb")
        with pytest.raises(SceneError, match=f"in folders below, give my_scans:{tmp_path}"):
            self.resolve(str(tmp_path), scene_set=set_of("*.ply"))

    def test_a_file_whose_name_looks_like_a_set_is_that_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        touch(tmp_path, "old:scan.ply")
        (source,) = self.resolve("old:scan.ply", scene_set=set_of("*.ply"))
        assert source.path == "old:scan.ply"

    def test_scene_instances_are_scenes_in_folders_and_globs(self, tmp_path: Path):
        folder = write_replica_cad(tmp_path) / "configs" / "scenes"
        for pattern in (folder, folder / "*.scene_instance.json"):
            sources = resolve_scenes([str(pattern)])
            assert [s.scene_id for s in sources] == ["apt_0", "apt_1", "apt_2"]
        assert sources[0].load().num_faces == 6 * 25 * 2 + 2 * 12

    def test_articulated_objects_are_named_as_left_out(self, tmp_path: Path, caplog):
        write_replica_cad(tmp_path)
        resolve_scenes([str(tmp_path / "configs" / "scenes")])
        assert "left out of 2 of 2 scenes: fridge" in caplog.text

    def test_semantic_and_basis_twins_of_a_glb_are_no_scenes_of_their_own(self, tmp_path: Path):
        touch(tmp_path, "a.glb", "a.basis.glb", "a.semantic.glb", "b.semantic.glb")
        sources = resolve_scenes([str(tmp_path)])
        assert [s.scene_id for s in sources] == ["a", "b_semantic"]
