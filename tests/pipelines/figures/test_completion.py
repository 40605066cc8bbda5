"""crossview complete: what the pictures hold, and what is said of input that does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from appearance_model import IMAGE_SIZE, PATCH_SIZE, SIDE, appearance_model, noise
from PIL import Image, PngImagePlugin

from pipelines.cli import main
from pipelines.figures.square_view import SquareView
from training.model_folder import write_model_folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for decoder in ("cross", "self"):
        write_model_folder(appearance_model(decoder), folder / decoder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image of the model's size, and a larger one that is no square."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    Image.fromarray(noise(generator, IMAGE_SIZE)).save(folder / "a.png")
    wide = noise(generator, 2 * IMAGE_SIZE)[: IMAGE_SIZE + 20]
    Image.fromarray(wide).save(folder / "b.jpg", quality=95)
    return folder


def complete(weights, images, out, *more, target="a.png", reference="b.jpg"):
    arguments = ["--target", str(images / target), "--reference", str(images / reference)]
    return main(["complete", "--weights", str(weights), *arguments, "--out", str(out), *more])


@pytest.fixture(scope="module")
def pictures(weights, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("completion")
    assert complete(weights / "cross", images, out) == 0
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in out.glob("*.png")}


def patches(picture):
    """(N, P, P, 3) patches of a picture of the model's size."""
    cut = picture.reshape(SIDE, PATCH_SIZE, SIDE, PATCH_SIZE, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(-1, PATCH_SIZE, PATCH_SIZE, 3)


def test_every_picture_has_the_model_s_size(pictures):
    names = {"masked_target", "reference", "completed", "target", "places", "looked_at"}
    assert pictures.keys() == names | {"completion"}
    assert {pictures[name].shape for name in names} == {(IMAGE_SIZE, IMAGE_SIZE, 3)}


def test_visible_patches_are_the_image_s_and_hidden_ones_grey(pictures):
    target, shown = patches(pictures["target"]), patches(pictures["masked_target"])
    visible = (target == shown).all((1, 2, 3))
    assert (~visible).sum() == int(0.9 * SIDE**2)
    assert np.ptp(shown[~visible]) == 0
    completed = patches(pictures["completed"])
    assert np.array_equal(completed[visible], target[visible])
    assert not (completed[~visible] == target[~visible]).all((1, 2, 3)).any()


def test_target_and_reference_are_the_files_own(pictures, images):
    original = np.asarray(Image.open(images / "a.png"))
    assert np.array_equal(pictures["target"], original)
    middle = Image.open(images / "b.jpg").crop((22, 0, 22 + IMAGE_SIZE + 20, IMAGE_SIZE + 20))
    resized = middle.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    assert np.array_equal(pictures["reference"], np.asarray(resized))


def test_the_figure_shows_all_of_them(pictures):
    figure = pictures["completion"]
    height, width = figure.shape[:2]
    assert 1000 <= width <= 2000
    assert 0.5 < height / width < 0.65
    assert (figure[:4] == 255).all()  # nothing is cut off at the border
    # The first row's four panels hold each picture's own mean colour, below the same headings.
    names = ("masked_target", "reference", "completed", "target")
    for column, name in enumerate(names):
        left = int(width * (column + 0.2) / 4)
        panel = figure[int(0.2 * height) : int(0.4 * height), left : int(left + 0.15 * width)]
        rows, columns = slice(IMAGE_SIZE // 4, -IMAGE_SIZE // 4), slice(10, -10)
        expected = pictures[name][rows, columns].mean((0, 1))
        assert panel.mean((0, 1)) == pytest.approx(expected, abs=20), name


def test_a_patch_s_colour_is_that_of_where_it_looked(weights, images, tmp_path):
    # Of an image with itself, each visible patch looks at its own place, and so has its own colour.
    assert complete(weights / "cross", images, tmp_path, reference="a.png") == 0
    read = {p.stem: np.asarray(Image.open(p)) for p in tmp_path.glob("*.png")}
    visible = (patches(read["masked_target"]) == patches(read["target"])).all((1, 2, 3))
    same = (patches(read["places"]) == patches(read["looked_at"])).all((1, 2, 3))
    assert same[visible].all()
    assert not same.all()


def test_the_seed_and_the_share_decide_what_is_hidden(weights, images, tmp_path):
    shown = {}
    for name, more in {
        "one": ("--seed", "1"),
        "again": ("--seed", "1"),
        "two": ("--seed", "2"),
        "half": ("--mask", "0.5"),
    }.items():
        assert complete(weights / "cross", images, tmp_path / name, *more) == 0
        shown[name] = patches(np.asarray(Image.open(tmp_path / name / "masked_target.png")))
    assert np.array_equal(shown["one"], shown["again"])
    assert not np.array_equal(shown["one"], shown["two"])
    assert (shown["half"] == shown["half"][:, :1, :1]).all((1, 2, 3)).sum() == SIDE**2 // 2


def test_how_the_images_were_cut_is_said(weights, images, tmp_path, capsys):
    assert complete(weights / "cross", images, tmp_path) == 0
    printed = capsys.readouterr().out
    assert f"a.png: {IMAGE_SIZE} x {IMAGE_SIZE} pixels\n" in printed
    assert "b.jpg: 128 x 84 pixels, the middle 84 x 84 of it, resized to 64 x 64\n" in printed


def test_a_model_that_sees_no_reference_completes_too(weights, images, tmp_path, capsys):
    assert complete(weights / "self", images, tmp_path) == 0
    assert "sees no reference" in capsys.readouterr().out
    assert not (tmp_path / "looked_at.png").exists()
    width, height = Image.open(tmp_path / "completion.png").size
    assert width > 3 * height


def test_an_image_is_upright_as_its_camera_says(tmp_path):
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[:, :60, 0] = 255  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left comes on top
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    view = SquareView.read(tmp_path / "turned.png", 64)
    assert view.original.shape == (120, 80, 3)
    assert view.pixels[:28, :, 0].min() > 200
    assert view.pixels[36:, :, 0].max() < 55


def bad_images(folder: Path):
    (folder / "text.jpg").write_text("no image")
    good = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    Image.fromarray(good).save(folder / "odd.dds")
    with open(folder / "odd.dds", "r+b") as stream:  # of pixels that nobody knows
        stream.seek(80)
        stream.write(b"\4\0\0\0what")
    Image.fromarray(good[:40]).save(folder / "small.png")
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(folder / "deep.png")
    Image.fromarray(noise(np.random.default_rng(0), 256)).save(folder / "whole.png")
    about = PngImagePlugin.PngInfo()
    about.add_text("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    Image.fromarray(good).save(folder / "told.png", pnginfo=about)
    Image.fromarray(good).save(folder / "turned.png", exif=b"II*\0")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:20000])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "gone.png: expected an image, found no such file"),
        ("text.jpg", "text.jpg: not an image that can be read"),
        ("odd.dds", "odd.dds: not an image that can be read (Unimplemented pixel format"),
        ("cut.png", "cut.png: not an image that can be read"),
        ("turned.png", "turned.png: not an image that can be read (unpack requires"),
        ("told.png", "told.png: not an image that can be read (Decompressed data too large"),
        ("small.png", "small.png: 64 x 40 pixels; the model takes 64 x 64"),
        ("deep.png", "deep.png: expected 8 bits a channel"),
        (".", "not an image that can be read"),
    ],
)
@pytest.mark.parametrize("part", ["target", "reference"])
def test_an_image_that_cannot_be_taken(weights, images, tmp_path, capsys, part, name, message):
    bad_images(tmp_path)
    other = {"target": "reference", "reference": "target"}[part]
    given = {part: tmp_path / name, other: images / "a.png"}
    assert complete(weights / "cross", images, tmp_path / "out", **given) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mask", "0"], "mask = 0.0: expected above 0 and below 1"),
        (["--mask", "1"], "mask = 1.0: expected"),
        (["--mask", "nan"], "mask = nan: expected"),
        (["--seed", "-1"], "seed = -1: expected"),
    ],
)
def test_options_out_of_range(weights, images, tmp_path, capsys, more, message):
    assert complete(weights / "cross", images, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_ours(images, tmp_path, capsys):
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("other.pt", "expected a checkpoint"),
        ("text.pt", "a damaged checkpoint"),
        ("empty", "expected a run's folder or a model's"),
        ("gone.pt", "gone.pt"),
    ):
        assert complete(tmp_path / name, images, tmp_path / "out") == 2
        printed = capsys.readouterr().err
        assert f"{tmp_path / name}: " in printed
        assert message in printed
        assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(weights, images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert complete(weights / "cross", images, tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err
