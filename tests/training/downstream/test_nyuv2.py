"""NYU Depth V2: the .mat of its owners, and the usual folders of PNGs."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image
from public_layouts import add_nyuv2, write_nyuv2_labeled, write_nyuv2_splits
from torch.utils.data import DataLoader

from generation.errors import CrossviewError
from training.downstream.datasets.nyuv2 import LABELED, open_nyuv2

NUM_IMAGES, HEIGHT, WIDTH = 5, 4, 6
IMAGES = np.arange(NUM_IMAGES * HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
DEPTHS_M = np.linspace(0.5, 9.5, NUM_IMAGES * HEIGHT * WIDTH, dtype=np.float32)
DEPTHS_M = DEPTHS_M.reshape(NUM_IMAGES, HEIGHT, WIDTH)
HOLES_M = DEPTHS_M.copy()
HOLES_M[:, 1, 2] = 0
SCENES = ("bathroom_0001", "kitchen_0002", "bathroom_0001", "office_0003", "kitchen_0002")


def write_labeled(root, *, num_depths=NUM_IMAGES):
    write_nyuv2_labeled(root, IMAGES, DEPTHS_M[:num_depths], SCENES, HOLES_M[:num_depths])


@pytest.fixture
def labeled(tmp_path):
    write_labeled(tmp_path)
    write_nyuv2_splits(tmp_path, train=[5, 2], test=[1, 3])
    return tmp_path


def names_of(examples):
    return [examples[number].name for number in range(len(examples))]


def test_the_official_split_counts_from_one(labeled):
    splits = open_nyuv2(labeled)
    assert names_of(splits.train) == ["0005", "0002"]
    assert names_of(splits.val) == ["0001", "0003"]


def test_images_and_depths_come_back_upright(labeled):
    splits = open_nyuv2(labeled)
    for example, number in ((splits.train[0], 4), (splits.train[1], 1), (splits.val[1], 2)):
        np.testing.assert_array_equal(example.images[0], IMAGES[number])
        assert example.truth["depth_m"].dtype == np.float32
        expected = np.where(HOLES_M[number], DEPTHS_M[number], np.nan)  # what is filled in, is not
        np.testing.assert_array_equal(example.truth["depth_m"], expected)


def test_without_an_official_split_scenes_are_kept_apart(tmp_path, caplog):
    write_labeled(tmp_path)
    splits = open_nyuv2(tmp_path)
    assert names_of(splits.train) == ["0001", "0003", "0004"]  # bathroom and office
    assert names_of(splits.val) == ["0002", "0005"]  # kitchen
    assert "no splits.mat" in caplog.text


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_the_main_process_reads(labeled, start):
    examples = open_nyuv2(labeled).train
    here = [examples[number].truth["depth_m"] for number in range(2)]
    loader = DataLoader(examples, batch_size=None, num_workers=2, multiprocessing_context=start)
    for example, depth_m in zip(loader, here, strict=True):
        np.testing.assert_array_equal(example.truth["depth_m"], depth_m)


@pytest.mark.parametrize(
    ("train", "test"), [([0, 1], [2]), ([1, 2], [6]), ([1, 2], [2]), ([1, 2], [])]
)
def test_a_split_that_does_not_fit_is_refused(labeled, train, test):
    write_nyuv2_splits(labeled, train, test)
    with pytest.raises(CrossviewError, match=r"splits\.mat: .*from 1 to the 5 images"):
        open_nyuv2(labeled)


def test_a_damaged_split_is_named(labeled):
    (labeled / "splits.mat").write_bytes(b"no matrix")
    with pytest.raises(CrossviewError, match=r"splits\.mat: no trainNdxs and testNdxs"):
        open_nyuv2(labeled)


def test_a_cut_file_is_named(labeled):
    path = labeled / LABELED
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CrossviewError, match=rf"{LABELED}: not a whole HDF5 file"):
        open_nyuv2(labeled)


def test_images_and_depths_must_be_as_many(labeled):
    write_labeled(labeled, num_depths=3)
    with pytest.raises(CrossviewError, match=r"images of shape \(5, 3, 6, 4\) but depths of shape"):
        open_nyuv2(labeled)


@pytest.mark.parametrize("name", ["depths", "rawDepths"])
def test_an_array_that_is_not_there_is_named(labeled, name):
    with h5py.File(labeled / LABELED, "a") as file:
        del file[name]
    with pytest.raises(CrossviewError, match=f"no array {name}; found #refs#, .*images, "):
        open_nyuv2(labeled)


def write_files(root, image_name, depth_name, number=0):
    add_nyuv2(root, image_name, depth_name, IMAGES[number], np.rint(HOLES_M[number] * 1000))


BTS = ("kitchen/rgb_00045.png", "kitchen/sync_depth_00045.png")


@pytest.mark.parametrize(
    ("train", "test", "image", "depth", "name"),
    [
        ("train", "test", *BTS, "kitchen/00045"),
        ("sync", "official_splits/test", *BTS, "kitchen/00045"),
        ("train", "test", "rgb/0001.png", "depth/0001.png", "0001"),
        ("train", "val", "images/a/0001.png", "depths/a/0001.png", "a/0001"),
        ("train", "test", "a/color/0001.png", "a/depth/0001.png", "a/0001"),
    ],
)
def test_folders_of_files_give_metres(tmp_path, train, test, image, depth, name):
    write_files(tmp_path, f"{train}/{image}", f"{train}/{depth}", number=3)
    write_files(tmp_path, f"{test}/{image}", f"{test}/{depth}", number=1)
    splits = open_nyuv2(tmp_path)
    assert names_of(splits.train) == names_of(splits.val) == [name]
    for example, number in ((splits.train[0], 3), (splits.val[0], 1)):
        np.testing.assert_array_equal(example.images[0], IMAGES[number])
        depth_m = example.truth["depth_m"]
        assert depth_m.dtype == np.float32
        assert np.isnan(depth_m[1, 2])
        known = ~np.isnan(depth_m)
        assert known.sum() == depth_m.size - 1
        np.testing.assert_allclose(depth_m[known], HOLES_M[number][known], atol=5.1e-4)


def test_scenes_may_be_links(tmp_path, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    for split in ("train", "test"):
        for scene, number in (("attic", 3), ("kitchen", 1)):
            names = (f"{split}/{name.replace('kitchen', scene)}" for name in BTS)
            write_files(tmp_path, *names, number=number)
    (tmp_path / "train/kitchen").rename(disk / "kitchen")
    (tmp_path / "train/kitchen").symlink_to(disk / "kitchen")
    examples = open_nyuv2(tmp_path).train
    assert names_of(examples) == ["attic/00045", "kitchen/00045"]
    np.testing.assert_array_equal(examples[1].images[0], IMAGES[1])


def test_depth_in_another_unit_is_refused(tmp_path):
    """MultiMAE's tool writes 10 / 65536 m, here 3 m."""
    for split in ("train", "test"):
        image, depth = f"{split}/rgb/data/0000.png", f"{split}/depth/data/0000.png"
        add_nyuv2(tmp_path, image, depth, IMAGES[0], np.full((HEIGHT, WIDTH), 3 * 65536 / 10))
    expected = (
        r"train/depth/data/0000\.png: read in millimetres, its depths reach 19\.66 m; .*10\.5 m"
    )
    with pytest.raises(CrossviewError, match=expected):
        open_nyuv2(tmp_path).train[0]
    add_nyuv2(tmp_path, image, depth, IMAGES[0], np.full((HEIGHT, WIDTH), 9999))
    assert open_nyuv2(tmp_path).val[0].truth["depth_m"].max() == np.float32(9.999)


def test_depth_of_eight_bits_is_refused(tmp_path):
    for split in ("train", "test"):
        write_files(tmp_path, f"{split}/{BTS[0]}", f"{split}/{BTS[1]}")
    Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)).save(tmp_path / "train" / BTS[1])
    with pytest.raises(CrossviewError, match="1 channels of 8 bits; expected millimetres, 1 of 16"):
        open_nyuv2(tmp_path).train[0]


def test_a_file_without_its_counterpart_is_named(tmp_path):
    for split in ("train", "test"):
        write_files(tmp_path, f"{split}/{BTS[0]}", f"{split}/{BTS[1]}")
    (tmp_path / "test" / BTS[1]).unlink()
    with pytest.raises(CrossviewError, match="test: no depth map for 1 of 1: kitchen/00045;"):
        open_nyuv2(tmp_path)


def test_other_depth_maps_beside_those_of_the_owners_are_left_alone(tmp_path):
    """As a copy of the folders that others pass on has them, of the split to be judged on."""
    for split in ("train", "test"):
        write_files(tmp_path, f"{split}/{BTS[0]}", f"{split}/{BTS[1]}")
    dense = tmp_path / "test" / "kitchen" / "dense" / "sync_depth_dense_00045.png"
    dense.parent.mkdir()
    Image.fromarray(np.ones((4, 6), np.uint16)).save(dense)
    splits = open_nyuv2(tmp_path)
    assert names_of(splits.val) == ["kitchen/00045"]
    assert splits.val[0].truth["depth_m"][3, 5] == pytest.approx(2.239, abs=1e-3)


def test_a_depth_map_of_another_size_is_named(tmp_path):
    for split in ("train", "test"):
        write_files(tmp_path, f"{split}/{BTS[0]}", f"{split}/{BTS[1]}")
    Image.fromarray(np.ones((2, 3), np.uint16)).save(tmp_path / "train" / BTS[1])
    with pytest.raises(CrossviewError, match=r"sync_depth_00045\.png: 2 x 3 pixels, but .*: 4 x 6"):
        open_nyuv2(tmp_path).train[0]


@pytest.mark.parametrize("folders", [[], ["train"], ["train", "test"]])
def test_a_missing_dataset_says_where_to_get_it(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(CrossviewError, match=r"(?s)https://cs\.nyu\.edu/.*nyu_depth_v2_labeled"):
        open_nyuv2(tmp_path)
