"""crossview match: correspondences that are known beforehand, in pixels of the files."""

import json

import numpy as np
import pytest
from appearance_model import IMAGE_SIZE, PATCH_SIZE, SIDE, appearance_model, noise
from PIL import Image

from pipelines.cli import main
from training.model_folder import write_model_folder

ROWS, COLUMNS = 2, 3
"""By how many patches the second image's window begins later than the first's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and two windows of one picture: one as it is, one 3 times as large and padded."""
    folder = tmp_path_factory.mktemp("match")
    for decoder in ("cross", "cat", "self"):
        write_model_folder(appearance_model(decoder), folder / decoder)
    wide = noise(np.random.default_rng(0), IMAGE_SIZE + 4 * PATCH_SIZE)
    row, column = ROWS * PATCH_SIZE, COLUMNS * PATCH_SIZE
    Image.fromarray(wide[:IMAGE_SIZE, :IMAGE_SIZE]).save(folder / "a.png")
    window = wide[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE]
    Image.fromarray(window).save(folder / "b.png")
    smooth = Image.fromarray(window).resize((3 * IMAGE_SIZE,) * 2, Image.Resampling.NEAREST)
    padded = Image.new("RGB", (3 * IMAGE_SIZE + 100, 3 * IMAGE_SIZE), "white")
    padded.paste(smooth, (50, 0))
    padded.save(folder / "large.png")
    return folder


def match(folder, out, first="a.png", second="b.png", weights="cross"):
    images = [str(folder / first), str(folder / second)]
    return main(["match", "--weights", str(folder / weights), *images, "--out", str(out)])


def read(path):
    record = json.loads(path.read_text())
    return record, *(np.array(record[n]) for n in ("points1", "points2", "confidence"))


def test_points_lie_where_the_other_image_shows_them(folder, tmp_path):
    assert match(folder, tmp_path / "m.png") == 0
    record, points1, points2, confidence = read(tmp_path / "m.json")
    assert record["image1"] == {"path": str(folder / "a.png"), "image_size": [64, 64]}
    shown = (points1 > (COLUMNS * PATCH_SIZE, ROWS * PATCH_SIZE)).all(1)  # by the other image too
    assert shown.sum() == (SIDE - ROWS) * (SIDE - COLUMNS)
    assert (confidence[shown] > 0.5).all()
    shift = (COLUMNS * PATCH_SIZE, ROWS * PATCH_SIZE)
    assert points2[shown] == pytest.approx(points1[shown] - shift, abs=0.05 * PATCH_SIZE)
    assert set(points1[shown, 0]) == {PATCH_SIZE * (j + 0.5) for j in range(COLUMNS, SIDE)}
    assert set(points1[shown, 1]) == {PATCH_SIZE * (i + 0.5) for i in range(ROWS, SIDE)}


def test_points_are_in_pixels_of_the_files(folder, tmp_path):
    assert match(folder, tmp_path / "small.png") == 0
    assert match(folder, tmp_path / "large.png", second="large.png") == 0
    _, small1, small2, _ = read(tmp_path / "small.json")
    record, large1, large2, _ = read(tmp_path / "large.json")
    assert record["image2"]["image_size"] == [192, 292]
    shown = (large1 > (COLUMNS * PATCH_SIZE, ROWS * PATCH_SIZE)).all(1)
    assert shown.sum() == (SIDE - ROWS) * (SIDE - COLUMNS)
    small2_of = {tuple(first): second for first, second in zip(small1, small2)}
    expected = np.array([small2_of[tuple(first)] for first in large1[shown]]) * 3 + (50, 0)
    assert large2[shown] == pytest.approx(expected, abs=1.5)


def test_the_drawing_shows_both_images_and_a_point_at_each_match(folder, tmp_path):
    assert match(folder, tmp_path / "m.png") == 0
    drawn = np.asarray(Image.open(tmp_path / "m.png").convert("RGB")).astype(int)
    assert drawn.shape[1] == 1400
    assert 700 < drawn.shape[0] < 800
    assert (drawn[:8] == 255).all()
    assert (drawn[:, :8] == 255).all()
    # The first match is the surest, thus its colour stands at its point, almost opaque.
    _, points1, _, _ = read(tmp_path / "m.json")
    shown = 0
    for x, y in points1[:10]:
        margin, width = 0.12 * 140, (1400 - 2 * 0.12 * 140) * 640 / (640 * 2 + 24)
        column = int(margin + x / IMAGE_SIZE * width)
        row = int(drawn.shape[0] - margin - (1 - y / IMAGE_SIZE) * width)
        spot = drawn[row - 1 : row + 2, column - 1 : column + 2]
        shown += np.ptp(spot.reshape(-1, 3), axis=0).max() < 25 and np.ptp(spot[1, 1]) > 40
    assert shown >= 6


def test_a_decoder_that_concatenates_matches_too(folder, tmp_path):
    assert match(folder, tmp_path / "m.png", weights="cat") == 0
    assert read(tmp_path / "m.json")[0]["points1"]


def test_a_model_that_sees_no_reference_has_no_matches(folder, tmp_path, capsys):
    assert match(folder, tmp_path / "m.png", weights="self") == 2
    assert "sees no reference" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bad_input_gets_one_clear_message(folder, tmp_path, capsys):
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (63, 200)).save(folder / "small.png")
    for given, message in (
        ({"second": "gone.png"}, "gone.png: expected an image, found no such file"),
        ({"first": "text.png"}, "text.png: not an image that can be read"),
        ({"first": "small.png"}, "small.png: 63 x 200 pixels; the model takes 64 x 64"),
        ({"weights": "a.png"}, "a.png"),
        ({"weights": "gone"}, "gone"),
    ):
        assert match(folder, tmp_path / "m.png", **given) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "Traceback" not in printed
    assert match(folder, tmp_path / "m.jpg") == 2
    assert "expected a name that ends in .png" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
