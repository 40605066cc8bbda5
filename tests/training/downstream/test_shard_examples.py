"""Our own shards as examples: truth in closed form, by a slow reprojection, and by its colours."""

import json
import pickle
import resource

import numpy as np
import pytest
from micro_pairs import write_rooms
from scipy.ndimage import map_coordinates
from synthetic import HFOV_DEG, pair_members, plane_pair, view_of, write_dataset

from generation.errors import CrossviewError
from generation.geometry import Camera
from generation.shards.cameras import cameras_of
from generation.shards.images import encode_depth_png, encode_jpeg
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import Sidecar
from generation.shards.writer import open_shard
from training.data import DataConfig, open_split
from training.downstream.datasets.shards import open_all, open_shards, reprojected


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Six pairs of each of two furnished rooms, 96 x 96 pixels."""
    return write_rooms(tmp_path_factory.mktemp("rooms"), num_pairs=12, size=96)


def examples_of(splits):
    return [part[n] for part in (splits.train, splits.val) for n in range(len(part))]


def write_shards(folder, samples):
    """Write a shard a scene, of one sample each."""
    entries = []
    for number, members in enumerate(samples):
        path = folder / f"room{number}.tar"
        with open_shard(path, f"room{number}") as writer:
            writer.add(f"room{number}_0000", members)
        sidecar = Sidecar(
            entry=writer.entry, task={}, samples=writer.samples, attempts=1, rejections={}
        )
        sidecar.write(path)
        entries.append(writer.entry)
    ShardIndex(folder=folder, config={}, shards=tuple(entries)).write()
    return folder


def good(**changes):
    return pair_members(np.random.default_rng(0), 36, 6, with_depth=True) | changes


def test_a_shifted_plane_flows_by_its_shift_and_leaves_the_image(dataset):
    """The n-th pair of each scene shows a plane that moves left by 6 n % 25 pixels."""
    splits = open_shards(dataset)
    for number in range(12):
        example, shift_px = splits.train[number], 6 * number % 25
        np.testing.assert_allclose(
            example.truth["flow"], np.broadcast_to([-shift_px, 0], (36, 36, 2)), atol=1e-5
        )
        leaves = np.broadcast_to(np.arange(36) + 0.5 < shift_px, (36, 36))
        np.testing.assert_array_equal(example.truth["occluded"], leaves)
        np.testing.assert_array_equal(example.truth["depth_m"], np.full((36, 36), 2, np.float32))
        moved = example.truth["camera2_from_camera1"][:3, 3]
        focal = Camera.from_hfov(HFOV_DEG, (36, 36), np.eye(4)).intrinsics[0, 0]
        np.testing.assert_allclose(moved, [-shift_px * 2 / focal, 0, 0], atol=1e-9)


def test_an_example_has_its_key_and_every_truth_by_its_name_and_type(dataset):
    example = open_shards(dataset).train[13]
    shard, key = example.name.split("/")
    assert shard.startswith("scene")
    assert key == f"{shard.replace('-0000', '')}_0_0001"
    assert {name: (value.shape, value.dtype.name) for name, value in example.truth.items()} == {
        "depth_m": ((36, 36), "float32"),
        "depth2_m": ((36, 36), "float32"),
        "flow": ((36, 36, 2), "float32"),
        "occluded": ((36, 36), "bool"),
        "intrinsics1": ((3, 3), "float64"),
        "intrinsics2": ((3, 3), "float64"),
        "camera2_from_camera1": ((4, 4), "float64"),
    }


def test_the_scenes_that_pre_training_holds_out_validate(dataset):
    held_out = open_split(DataConfig(path=dataset)).val.scenes
    assert len(held_out) == 1
    splits = open_shards(dataset)
    for part, here in ((splits.train, False), (splits.val, True)):
        assert scenes_of(part) == {
            f"scene{n}" for n in range(4) if (f"scene{n}" in held_out) == here
        }


def scenes_of(examples):
    return {examples[number].name.split("-")[0] for number in range(len(examples))}


def test_many_shards_do_not_take_all_files_that_a_process_may_open(tmp_path):
    folder = write_dataset(tmp_path, scenes=100, pairs=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        opened = [open_shards(folder) for _ in range(3)]  # as three tasks do
        for splits in opened:
            for part in (splits.train, splits.val):
                assert len({part[number].name for number in range(len(part))}) == len(part)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_all_of_another_folder_is_judged_on_and_its_scenes_are_not_trained_on(dataset, tmp_path):
    one = write_dataset(tmp_path, scenes=1)
    splits = open_shards(dataset, val_root=one)
    assert scenes_of(splits.val) == {"scene0"}
    assert len(splits.val) == 12
    assert scenes_of(splits.train) == {"scene1", "scene2", "scene3"}
    assert len(open_shards(one, val_root=dataset).train) == 0
    assert len(open_all(dataset)) == 48


def slow_flow(depth_m, intrinsics, camera2_from_camera1, row, column):
    """Reproject the middle of one pixel, step by step; None behind the second camera."""
    pixel = np.array([column + 0.5, row + 0.5, 1])
    point1 = np.linalg.solve(intrinsics, pixel) * float(depth_m[row, column])
    point2 = (camera2_from_camera1 @ [*point1, 1])[:3]
    if point2[2] <= 0:
        return None
    projected = intrinsics @ point2
    return projected[:2] / projected[2] - pixel[:2], point2[2]


def test_flow_and_occlusion_of_rooms_are_those_of_a_slow_reprojection(rooms):
    splits = open_shards(rooms)
    for example in (splits.train[0], splits.train[4], splits.val[2]):
        truth = example.truth
        for row in range(1, 96, 7):
            for column in range(2, 96, 7):
                flow, occluded = truth["flow"][row, column], truth["occluded"][row, column]
                if np.isnan(truth["depth_m"][row, column]):
                    assert np.isnan(flow).all()
                    assert not occluded
                    continue
                expected = slow_flow(
                    truth["depth_m"], truth["intrinsics1"], truth["camera2_from_camera1"],
                    row, column,
                )  # fmt: skip
                if expected is None or (np.abs(expected[0]) > 96).any():
                    assert np.isnan(flow).all()
                    assert occluded
                    continue
                np.testing.assert_allclose(flow, expected[0], rtol=1e-4, atol=1e-3)
                x, y = column + 0.5 + expected[0][0], row + 0.5 + expected[0][1]
                if not (0 <= x < 96 and 0 <= y < 96):
                    assert occluded
                    continue
                inverse = 1 / truth["depth2_m"].astype(float)
                between = map_coordinates(inverse, [[y - 0.5], [x - 0.5]], order=1, mode="nearest")
                there_m = np.array([1 / inverse[int(y), int(x)], 1 / between[0]])
                agrees = (np.abs(there_m / expected[1] - 1) <= 0.01).any()
                assert occluded == (not agrees)


def test_the_second_view_looked_up_by_the_flow_has_the_colours_of_the_first(rooms):
    """Compared with looking up the same pixel, and only where both views see the point."""
    along, still = [], []
    for example in examples_of(open_shards(rooms)):
        first, second = (image.astype(float) for image in example.images)
        seen = np.isfinite(example.truth["flow"]).all(-1) & ~example.truth["occluded"]
        row, column = np.nonzero(seen)
        x, y = (example.truth["flow"][seen] + np.stack([column, row], -1) + 0.5).T
        at = second[np.floor(y).astype(int), np.floor(x).astype(int)]
        along.append(np.abs(at - first[seen]).mean(-1))
        still.append(np.abs(second[seen] - first[seen]).mean(-1))
    assert np.median(np.concatenate(along)) < 6
    assert np.median(np.concatenate(still)) > 12


def test_what_is_not_occluded_is_what_the_renderer_found_co_visible(rooms):
    """Of depth in whole millimetres, by the same rule."""
    val = open_shards(rooms).val
    recorded = ShardReader(open_split(DataConfig(path=rooms)).val)
    for number in range(len(val)):
        truth = val[number].truth
        seen = 1 - truth["occluded"].sum() / np.isfinite(truth["depth_m"]).sum()
        assert seen == pytest.approx(recorded.record(number)["covisibility_1_in_2"], abs=0.01)


def test_flow_is_unknown_where_it_is_wider_than_the_image(rooms):
    """Some points lie so near the plane of the second camera that they project anywhere."""
    truths = [example.truth for example in examples_of(open_shards(rooms))]
    longest = max(float(np.nanmax(np.abs(truth["flow"]))) for truth in truths)
    assert 48 < longest <= 96
    for truth in truths:
        shown = np.isfinite(truth["depth_m"]) & ~truth["occluded"]
        assert np.isfinite(truth["flow"][shown]).all()


def test_no_depth_is_unknown_and_what_lies_behind_the_second_camera_is_occluded():
    _, _, depth, meta = plane_pair(np.random.default_rng(0), 8, 0)
    camera1, camera2 = cameras_of(meta)
    holes = depth.copy()
    holes[2, 3] = 0
    flow, occluded = reprojected(view_of(camera1, holes), view_of(camera2, depth))
    assert np.isnan(flow[2, 3]).all()
    assert np.isfinite(np.delete(flow.reshape(64, 2), 2 * 8 + 3, axis=0)).all()
    assert not occluded.any()
    _, occluded = reprojected(view_of(camera1, depth), view_of(camera2, holes))
    assert occluded[2, 3]
    assert occluded.sum() == 1
    turned = np.diag([-1.0, 1, -1, 1])
    _, behind = cameras_of(meta | {"world_from_camera2": turned.tolist()})
    flow, occluded = reprojected(view_of(camera1, depth), view_of(behind, depth))
    assert np.isnan(flow).all()
    assert occluded.all()


@pytest.mark.parametrize("depth_m", [0, 200], ids=["nothing hit", "beyond what is stored"])
def test_depth_that_is_not_known_is_nan_in_either_view(tmp_path, depth_m):
    depth = np.full((36, 36), 2, np.float32)
    depth[4, 5] = depth_m
    sample = good(**{"depth1.png": encode_depth_png(depth), "depth2.png": encode_depth_png(depth)})
    truth = open_shards(write_shards(tmp_path, [sample, sample])).val[0].truth
    for name in ("depth_m", "depth2_m"):
        assert np.argwhere(np.isnan(truth[name])).tolist() == [[4, 5]]
    assert np.isnan(truth["flow"][4, 5]).all()


def test_shards_without_depth_say_how_to_render_it(tmp_path):
    folder = write_dataset(tmp_path, scenes=2, pairs=1, with_depth=False)
    with pytest.raises(
        CrossviewError, match=r"no depth1\.png; render the pairs again with --depth"
    ):
        open_shards(folder)


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(CrossviewError, match=r"index\.json: expected a dataset's index"):
        open_shards(tmp_path)


META = json.loads(good()["meta.json"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"view2.jpg": b"no image"}, r"view2\.jpg: damaged"),
        ({"depth2.png": b"no image"}, r"depth2\.png: damaged"),
        ({"meta.json": b"{"}, r"meta\.json: damaged"),
        ({"meta.json": b"{}"}, r"meta\.json: damaged \(KeyError\('world_from_camera1'\)\)"),
        (
            {"meta.json": json.dumps(META | {"image_size": [36, 35]}).encode()},
            r"images and depth of 36 x 36 pixels, but its cameras' have 36 x 35",
        ),
        (
            {"view1.jpg": encode_jpeg(np.zeros((36, 40, 3), np.uint8), 90)},
            r"images and depth of 36 x 36, 36 x 40 pixels",
        ),
    ],
)
def test_a_damaged_sample_is_named(tmp_path, changes, expected):
    folder = write_shards(tmp_path, [good(**changes), good(**changes)])
    with pytest.raises(CrossviewError, match=rf"room\d\.tar: sample 'room\d_0000'.*{expected}"):
        open_shards(folder).val[0]


def test_examples_reach_the_workers_of_a_loader(dataset):
    train = open_shards(dataset).train
    again = pickle.loads(pickle.dumps(train))[5]
    assert again.name == train[5].name
    np.testing.assert_array_equal(again.images[1], train[5].images[1])
