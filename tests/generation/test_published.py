"""The original project's metadata: read, mapped onto files, and refused where it makes no sense."""

import io
import json
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from generation.errors import CrossviewError
from generation.geometry import rotation_about_axis
from generation.published import METADATA_NAME, find_scene, read_published
from generation.recorded import RecordedPairs

LABEL = "hm3d/train/00000-AbC/AbC.basis.glb"


def metadata(label: str = LABEL, *, num_views: int = 2, num: int = 3, **changes) -> dict:
    """Return a metadata file's values, in its published layout."""
    ratios = np.full((num_views, num_views), 0.9) - 0.1 * np.arange(num_views)
    view = {
        "positions": [[1.0, 1.5, -2.0 - i] for i in range(num_views)],
        "orientations": [[1.0, 0.0, 0.0, 0.0]] * num_views,
        "covisibility_ratios": [0.8] * num_views,
        "valid_fractions": [1.0] * num_views,
        "pairwise_visibility_ratios": ratios.tolist(),
    }
    return {
        "scene_dataset_config_file": "",
        "scene": label,
        "navmesh": "",
        "views_count": num_views,
        "size": num,
        "generate_depth": False,
        "resolution": [256, 256],
        "hfov": 60,
        "multiviews": {f"{i:08d}": view for i in range(num)},
        **changes,
    }


def write(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def read(path: Path, *roots: Path, up: str | None = None, size: int = 256) -> list[RecordedPairs]:
    return list(read_published(path, list(roots), up=up, pairs_per_piece=size))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_poses_turn_from_habitats_axes_to_ours(tmp_path: Path):
    values = metadata()
    half = np.sqrt(0.5)
    values["multiviews"]["00000001"] = values["multiviews"]["00000001"] | {
        "orientations": [[half, 0.0, half, 0.0], [-1.0, 0.0, 0.0, 0.0]]  # a quarter turn about y
    }
    (pairs,) = read(write(tmp_path / METADATA_NAME, values))
    assert pairs.world_from_cameras.shape == (3, 2, 4, 4)
    flip = np.diag([1.0, -1.0, -1.0])  # habitat-sim's cameras look along -z, ours along z
    first = pairs.world_from_cameras[0, 0]
    np.testing.assert_array_equal(first[:3, :3], flip)
    np.testing.assert_array_equal(first[:3, 3], [1.0, 1.5, -2.0])
    turned = rotation_about_axis(1, np.pi / 2) @ flip
    np.testing.assert_allclose(pairs.world_from_cameras[1, 0, :3, :3], turned, atol=1e-15)
    np.testing.assert_array_equal(pairs.world_from_cameras[1, 1, :3, :3], flip)


def test_a_pairs_number_is_the_smaller_of_both_directions(tmp_path: Path):
    (pairs,) = read(write(tmp_path / METADATA_NAME, metadata()))
    np.testing.assert_allclose(pairs.covisibility["covisibility_official"], 0.8)
    assert pairs.keys == ("AbC-00000000", "AbC-00000001", "AbC-00000002")
    assert (pairs.image_size, pairs.hfov_deg) == ((256, 256), 60.0)


def test_every_two_of_several_views_are_a_pair(tmp_path: Path):
    (pairs,) = read(write(tmp_path / METADATA_NAME, metadata(num_views=4, num=2)))
    names = ["1-2", "1-3", "1-4", "2-3", "2-4", "3-4"]
    assert pairs.keys == tuple(f"AbC-0000000{i}-{name}" for i in (0, 1) for name in names)
    np.testing.assert_array_equal(
        pairs.world_from_cameras[1, :, 2, 3],
        [-2.0, -4.0],  # the first view and the third
    )


def test_a_folder_and_a_tar_give_the_same_in_pieces_sorted_by_scene(tmp_path: Path):
    folder = tmp_path / "metadata"
    for name in ("b", "a"):
        write(folder / "deep" / name / METADATA_NAME, metadata(f"hm3d/train/{name}/{name}.glb"))
    write(folder / "deep" / "other.json", {})
    archive = tmp_path / "metadata.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "metadata")
    of_folder, of_tar = read(folder, size=2), read(archive, size=2)
    names = ["a-000000", "a-000002", "b-000000", "b-000002"]
    assert [piece.name for piece in of_folder] == [piece.name for piece in of_tar] == names
    assert [piece.digest() for piece in of_folder] == [piece.digest() for piece in of_tar]
    assert [len(piece.keys) for piece in of_folder] == [2, 1, 2, 1]


@pytest.mark.parametrize("below", ["", "hm3d", "hm3d/train", "hm3d/train/00000-AbC"])
def test_a_root_may_be_that_of_all_sets_of_one_or_the_scenes_own(tmp_path: Path, below: str):
    file = touch(tmp_path / "hm3d" / "train" / "00000-AbC" / "AbC.basis.glb")
    assert find_scene(PurePosixPath(LABEL), [tmp_path / "else", tmp_path / below]) == file
    assert find_scene(PurePosixPath(LABEL), [tmp_path / "else"]) is None


def test_a_plain_glb_stands_for_the_basis_one(tmp_path: Path):
    touch(tmp_path / "AbC.basis.glb")
    plain = touch(tmp_path / "AbC.glb")
    assert find_scene(PurePosixPath(LABEL), [tmp_path]) == plain


@pytest.mark.parametrize(
    "label",
    [
        "replica_cad_baked_lighting/remake_v0_v3_sc1_staging_19.glb",
        "replica_cad_baked_lighting/stages_uncompressed/remake_v0_v3_sc1_staging_19.glb",
    ],
)
def test_replica_cads_old_names_lead_to_its_present_files(tmp_path: Path, label: str):
    root = tmp_path / "replica_cad_baked_lighting"
    file = touch(root / "stages" / "Baked_sc1_staging_19.glb")
    touch(root / "stages" / "Baked_sc1_staging_18.glb")
    touch(root / "stages_uncompressed" / "Baked_sc1_staging_18.glb")
    path = write(tmp_path / METADATA_NAME, metadata(label))
    for given in (tmp_path, root):
        (pairs,) = read(path, given)
        assert pairs.scene is not None
        assert (Path(pairs.scene.path), pairs.scene.up) == (file, "y")


def test_replica_cads_plain_textures_go_before_those_that_may_be_compressed(tmp_path: Path):
    label = PurePosixPath("replica_cad_baked_lighting/remake_v0_v3_sc1_staging_19.glb")
    root = tmp_path / "replica_cad_baked_lighting"
    touch(root / "stages" / "Baked_sc1_staging_19.glb")
    plain = touch(root / "stages_uncompressed" / "Baked_sc1_staging_19.glb")
    assert find_scene(label, [tmp_path]) == plain


def test_mesh_ply_is_not_taken_from_another_room(tmp_path: Path):
    touch(tmp_path / "mesh.ply")
    label = PurePosixPath("replica/room_0/mesh.ply")
    assert find_scene(label, [tmp_path]) is None
    file = touch(tmp_path / "room_0" / "mesh.ply")
    assert find_scene(label, [tmp_path]) == file


@pytest.mark.parametrize(
    "label",
    [
        "scannet/scene0000_00.glb",
        "scannet/scans/scene0000_00/scene0000_00.glb",
        "scannet/scans/scene0000_00/scene0000_00_vh_clean_2.glb",
    ],
)
def test_scannets_own_files_stand_for_the_glbs_that_were_made_of_them(tmp_path: Path, label: str):
    scans = tmp_path / "scannet" / "scans"
    file = touch(scans / "scene0000_00" / "scene0000_00_vh_clean_2.ply")
    touch(scans / "scene0000_01" / "scene0000_01_vh_clean_2.ply")
    path = write(tmp_path / METADATA_NAME, metadata(label))
    for root in (tmp_path, tmp_path / "scannet", scans):
        assert find_scene(PurePosixPath(label), [root]) == file
    (pairs,) = read(path, scans)
    assert pairs.scene is not None
    assert (Path(pairs.scene.path), pairs.scene.up) == (file, "z")  # as habitat-sim takes the .glb


@pytest.mark.parametrize(("name", "up"), [("room.glb", "z"), ("room.ply", "y")])
def test_axes_are_those_that_habitat_sim_assumes_unless_said(tmp_path: Path, name: str, up: str):
    touch(tmp_path / name)
    path = write(tmp_path / METADATA_NAME, metadata(f"sets/{name}"))
    assert [pairs.scene.up for pairs in read(path, tmp_path)] == [up]
    assert [pairs.scene.up for pairs in read(path, tmp_path, up="-x")] == ["-x"]


def test_a_scene_that_is_not_there_says_where_it_was_sought(tmp_path: Path):
    (pairs,) = read(write(tmp_path / METADATA_NAME, metadata()), tmp_path)
    assert pairs.scene is None
    assert LABEL in pairs.missing
    assert str(tmp_path) in pairs.missing


def test_the_real_files_are_read(shared_folder: Path):
    pieces = read(shared_folder / "habitat_reference", shared_folder / "scenes")
    assert [(piece.name, len(piece.keys)) for piece in pieces] == [
        ("bathroom-000000", 8),
        ("living-room-000000", 8),
    ]
    assert not any(piece.missing for piece in pieces)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scene": "../../etc/passwd"}, "expected a path"),
        ({"scene": ""}, "expected a path"),
        ({"scene": 3}, "not a metadata file"),
        ({"resolution": [256]}, "not a metadata file"),
        ({"resolution": [2, 2]}, "resolution 2 x 2"),
        ({"hfov": 720}, "hfov 720"),
        ({"multiviews": [1]}, "not a metadata file"),
        ({"multiviews": {"0": {"positions": []}}}, "no 'orientations'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_file(tmp_path: Path, changes, complaint: str):
    path = write(tmp_path / METADATA_NAME, metadata(**changes))
    with pytest.raises(CrossviewError, match=complaint) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("positions", [[0, 0], [0, 0]], "expected a position"),
        ("positions", [[0, 0, float("nan")]] * 2, "expected a position"),
        ("positions", [[0, 0, 0]], "not a metadata file"),
        ("orientations", [[0, 0, 0, 0]] * 2, "expected a position"),
        ("pairwise_visibility_ratios", [[1.0]], "expected 2 x 2 ratios"),
        ("pairwise_visibility_ratios", [[1.0, 1.5], [0.5, 1.0]], "expected 2 x 2 ratios"),
    ],
)
def test_bad_poses_are_refused_with_their_pair(tmp_path: Path, key: str, value, complaint: str):
    values = metadata()
    values["multiviews"]["00000002"] = values["multiviews"]["00000002"] | {key: value}
    with pytest.raises(CrossviewError, match=complaint):
        read(write(tmp_path / METADATA_NAME, values))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / METADATA_NAME
    path.write_bytes(content)
    with pytest.raises(CrossviewError, match=r"metadata\.json: not a metadata file"):
        read(path)


def test_damaged_tars_are_refused(tmp_path: Path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo(METADATA_NAME)
        data = json.dumps(metadata(num=500)).encode()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    whole = stream.getvalue()
    path = tmp_path / "metadata.tar.gz"
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(CrossviewError, match="tar"):
            read(path)
    path.write_bytes(whole)
    assert sum(len(piece.keys) for piece in read(path)) == 500


def test_nothing_and_the_same_scene_twice_are_refused(tmp_path: Path):
    with pytest.raises(CrossviewError, match="no such file"):
        read(tmp_path / "gone")
    with pytest.raises(CrossviewError, match=r"no metadata\.json in it"):
        read(tmp_path)
    for name in "ab":
        write(tmp_path / name / METADATA_NAME, metadata())
    with pytest.raises(CrossviewError, match="are both of hm3d/train"):
        read(tmp_path)
