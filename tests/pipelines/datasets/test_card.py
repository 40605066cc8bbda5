"""The dataset's README.md: true, readable by the libraries it names, and never over another's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from one_worker import SERIAL

from generation.shards.reader import ShardIndex
from generation.shards.schema import META, Sidecar, sidecar_path
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.card import CARD_NAME, card_text, scene_licences
from pipelines.datasets.render_pairs import RenderPairsConfig, render_command, render_pairs

SMALL = {
    "scenes": ["procedural:0-1"],
    "num_pairs": 6,
    "pairs": {"image_size": [48, 64], "hfov_deg": 75.0, "overlap": "0.3-0.7"},
    "shards": {"depth": True, "pairs_per_shard": 2},
    "renderer": "embree",
}


def config_of(**changes) -> RenderPairsConfig:
    return build(RenderPairsConfig, SMALL | changes, source="test")


def front_matter(text: str) -> dict:
    _, matter, _ = text.split("---\n", 2)
    return yaml.safe_load(matter)


def code_block(text: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)\n```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("card") / "pairs"
    render_pairs(config_of(), out, SERIAL)
    return out


def test_the_front_matter_says_what_the_dataset_is(dataset: Path):
    matter = front_matter((dataset / CARD_NAME).read_text())
    assert matter["license"] == "apache-2.0"
    assert matter["size_categories"] == ["n<1K"]
    assert "webdataset" in matter["tags"]
    assert "depth-estimation" in matter["task_categories"]
    (data_files,) = matter["configs"][0]["data_files"]
    assert sorted(dataset.glob(data_files["path"])) == sorted(dataset.glob("*.tar"))


def test_the_table_has_the_datasets_numbers(dataset: Path):
    table = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", (dataset / CARD_NAME).read_text(), re.M))
    assert table["pairs"] == "6"
    assert table["scenes"] == "2"
    assert table["image size"] == "64 x 48 pixels"
    assert table["field of view"].startswith("75 degrees")
    assert table["depth maps"] == "yes"
    assert table["renderer"] == "embree"
    mean = float(re.search(r"mean ([\d.]+)", table["co-visibility"])[1])
    assert 0.3 <= mean <= 0.7


def test_the_datasets_library_reads_the_folder_as_the_card_says(dataset: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install datasets")
    pairs = datasets.load_dataset(str(dataset), split="train", cache_dir=str(tmp_path))
    assert len(pairs) == ShardIndex.open(dataset).num_pairs
    assert pairs[0]["view1.jpg"].size == pairs[0]["view2.jpg"].size == (64, 48)
    for pair in pairs:
        assert 0.3 <= pair["meta.json"]["covisibility"] <= 0.7


def test_the_cards_python_runs(dataset: Path):
    pytest.importorskip("datasets", reason="needs datasets: pip install datasets")
    code = code_block((dataset / CARD_NAME).read_text(), "python")
    names: dict = {}
    exec(code.replace("path/of/this/folder", str(dataset)), names)
    assert names["pair"]["__key__"] == "procedural-000000-000000"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "num_pairs": None,
            "pairs_per_scene": 2,
            "seed": 7,
            "supersampling": 2,
            "pairs": {
                "image_size": [48, 48],
                "overlap": {"low": 0.1234567, "high": 0.9, "flat": True},
                "viewpoints": {"floor": {"step_m": 0.25}},
            },
        },
    ],
)
def test_the_cards_command_makes_the_same_bytes(tmp_path: Path, changes: dict):
    first, again = tmp_path / "first", tmp_path / "again"
    render_pairs(config_of(**changes), first, SERIAL)
    command = code_block((first / CARD_NAME).read_text(), "sh").replace("\\\n", " ")
    words = shlex.split(command)
    assert words[0] == "crossview"
    assert words[-2:] == ["--out", "pairs"]
    assert main([*words[1:-1], str(again), "--executor", "serial"]) == 0
    made, remade = ShardIndex.open(first), ShardIndex.open(again)
    assert made.shards == remade.shards
    assert (first / CARD_NAME).read_bytes() == (again / CARD_NAME).read_bytes()


def test_the_command_of_several_levels_names_their_bands():
    command = render_command(config_of(levels={"low": "0.1-0.3", "rest": "0.5-0.9:flat"}))
    (setting,) = [word for word in shlex.split(command) if word.startswith("levels=")]
    assert yaml.safe_load(setting.partition("=")[2]) == {"low": "0.1-0.3", "rest": "0.5-0.9:flat"}
    assert "--overlap" not in command  # which levels leave no room for


def test_a_card_that_is_not_ours_stays(dataset: Path, tmp_path: Path):
    (tmp_path / CARD_NAME).write_text("My own words.\n")
    render_pairs(config_of(num_pairs=2), tmp_path, SERIAL)
    assert (tmp_path / CARD_NAME).read_text() == "My own words.\n"
    (tmp_path / CARD_NAME).unlink()
    render_pairs(config_of(num_pairs=2), tmp_path, SERIAL)
    render_pairs(config_of(num_pairs=4), tmp_path, SERIAL)
    assert "| pairs | 4 |" in (tmp_path / CARD_NAME).read_text()


def test_licences_follow_the_scenes(dataset: Path):
    index = ShardIndex.open(dataset)
    text = card_text(index, scenes=["procedural:0", "hm3d:/data/hm3d", "a.glb"], command="")
    assert front_matter(text)["license"] == "other"
    assert front_matter(text)["license_name"]
    licences = scene_licences(["procedural:0", "hm3d/train:/data/hm3d", "a.glb", "b/*.ply"])
    assert len(licences) == 3
    assert "Apache-2.0" in licences[0]
    assert "Matterport" in licences[1]
    assert "licence of that scene" in licences[2]
    assert all(line in text for line in scene_licences(["hm3d:/data/hm3d", "a.glb"]))


def test_a_damaged_record_is_named_and_no_card_made_of_it(dataset: Path, tmp_path: Path):
    for path in dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = ShardIndex.open(tmp_path)
    tar = tmp_path / index.shards[0].name
    offset, _ = next(iter(Sidecar.read(sidecar_path(tar)).samples.values()))[META]
    data = bytearray(tar.read_bytes())
    data[offset] ^= 0xFF
    tar.write_bytes(data)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "pipelines.cli", "render-pairs", "--executor", "serial"]
    command += ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sample 'procedural-000000-000000', meta.json: damaged" in done.stderr
    render_pairs(config_of(), tmp_path, SERIAL, verify=True)
    assert (tmp_path / CARD_NAME).read_bytes() == (dataset / CARD_NAME).read_bytes()
