"""The page of a dataset, in a real browser; and what is on it, against the dataset."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import numpy as np
import pytest
from one_worker import SERIAL
from PIL import Image

from generation.errors import CrossviewError
from generation.locations import location
from generation.machine import processor
from generation.raycast import RayCaster
from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import Sidecar, sidecar_path
from generation.versions import versions
from pipelines.cli import main
from pipelines.config import build
from pipelines.datasets.pair_table import PairTable
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from pipelines.datasets.run_log import RUN_LOG_NAME, read_runs, work_by_scene
from pipelines.inspection.page import (
    InspectConfig,
    choose_rows,
    read_accounts,
    write_inspection,
)
from pipelines.inspection.scene_maps import PlanDrawer, plan_of_views, split_storeys
from pipelines.inspection.scenes import RecordedScenes, inspect_scene

PAIRS = 30


def config_of(**changes) -> RenderPairsConfig:
    values = {
        "scenes": ["procedural:0-1"],
        "num_pairs": 4,
        "pairs": {"image_size": [64, 64], "overlap": "0.3-0.7"},
        "renderer": "embree",
    }
    return build(RenderPairsConfig, values | changes, source="test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Two rooms with depth, and a scene that cannot be read."""
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "broken.glb").write_bytes(b"not a mesh")
    config = config_of(
        scenes=["procedural:0-1", str(folder / "broken.glb")],
        num_pairs=PAIRS * 3 // 2,
        shards={"depth": True},
    )
    render_pairs(config, folder / "pairs", SERIAL)
    return folder / "pairs"


@pytest.fixture(scope="module")
def page(dataset: Path) -> Path:
    return write_inspection(dataset, dataset / "inspect.html", InspectConfig())


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    if chromium.PROGRAM is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    started = chromium.Chromium()
    yield started
    started.close()


SHOWN = (
    """[...document.querySelectorAll(".pair:not([hidden])")].map((card) => ({...card.dataset}))"""
)


def shown(browser: chromium.Chromium) -> list[dict[str, str]]:
    return browser.evaluate(SHOWN)


def test_the_page_shows_pairs_charts_and_maps_without_complaint(browser, page: Path):
    browser.resize(1280)
    browser.open(page)
    assert len(shown(browser)) == 24
    more = "document.getElementById('more')"
    assert browser.evaluate(f"{more}.offsetHeight") > 0
    browser.evaluate(f"{more}.click()")
    assert len(shown(browser)) == PAIRS
    assert browser.evaluate(f"{more}.offsetHeight") == 0, "there are no more"
    pictures = browser.evaluate("[...document.images].map((i) => [i.naturalWidth, i.alt, i.src])")
    assert all(width > 0 for width, _, _ in pictures)
    # Two views and two tints a pair, five charts, two maps.
    assert len(pictures) == 4 * PAIRS + 5 + 2
    assert browser.complaints == []


def test_nothing_comes_from_the_network(browser, page: Path):
    browser.open(page)
    assert browser.requests[0] == page.as_uri()
    assert {url.partition(":")[0] for url in browser.requests[1:]} <= {"data"}
    assert not re.search(r"https?:|//\w", re.sub(r'"data:[^"]*"', "", page.read_text()))


def test_a_fragment_filters_and_sorts(browser, page: Path, dataset: Path):
    records = {
        (record["scene"], record["covisibility"])
        for record in map(ShardReader(ShardIndex.open(dataset)).record, range(PAIRS))
    }
    browser.open(page, "#scene=procedural-000001&min=0.4&max=0.6&sort=-covisibility")
    found = [(card["scene"], float(card["covisibility"])) for card in shown(browser)]
    expected = {(s, c) for s, c in records if s == "procedural-000001" and 0.4 <= c <= 0.6}
    assert 0 < len(expected) < PAIRS
    assert found == sorted(expected, key=lambda item: -item[1])
    count = browser.evaluate("document.getElementById('count').value")
    assert count == f"{len(expected)} of {PAIRS} pairs"


def test_the_controls_filter_sort_and_keep_their_state_in_the_address(browser, page: Path):
    browser.open(page)
    browser.evaluate("document.querySelector('[name=scene]').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown", code="ArrowDown",
                 windowsVirtualKeyCode=40)  # fmt: skip
    assert {card["scene"] for card in shown(browser)} == {"procedural-000000"}
    set_control = """(name, value) => {
        const control = document.querySelector(`[name=${name}]`);
        control.value = value;
        control.dispatchEvent(new Event("input", {bubbles: true}));
        control.dispatchEvent(new Event("change", {bubbles: true}));
    }"""
    for name, value in (("max", "0.5"), ("sort", "baseline")):
        browser.evaluate(f"({set_control})('{name}', '{value}')")
    found = shown(browser)
    assert found
    assert max(float(card["covisibility"]) for card in found) <= 0.5
    baselines = [float(card["baseline"]) for card in found]
    assert baselines == sorted(baselines)
    fragment = browser.evaluate("location.hash")
    assert fragment == "#scene=procedural-000000&max=0.5&sort=baseline"
    browser.open(page, fragment)
    assert shown(browser) == found


def test_the_tint_can_be_taken_off(browser, page: Path):
    displayed = "getComputedStyle(document.querySelector('.seen')).display"
    browser.open(page)
    assert browser.evaluate(displayed) == "block"
    browser.evaluate("document.querySelector('[name=tint]').click()")
    assert browser.evaluate(displayed) == "none"


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_no_width_needs_horizontal_scrolling(browser, page: Path, width: int):
    browser.resize(width)
    browser.open(page)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_and_light_follow_what_the_reader_prefers(browser, page: Path):
    def brightness(color: str) -> float:
        script = f"getComputedStyle(document.body)[{color!r}]"
        return float(np.mean([int(n) for n in re.findall(r"\d+", browser.evaluate(script))]))

    for scheme, sign in (("dark", 1), ("light", -1)):
        browser.prefer(scheme)
        browser.open(page)
        assert sign * (brightness("color") - brightness("backgroundColor")) > 150
    browser.prefer("light")


def test_every_picture_and_control_has_a_name(browser, page: Path):
    browser.open(page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = ("image", "slider", "combobox", "checkbox", "button", "article", "link", "region")
    roles = {node["role"]["value"] for node in nodes if not node["ignored"]}
    assert {"image", "slider", "combobox", "checkbox", "button", "article"} <= roles
    for node in nodes:
        if not node["ignored"] and node["role"]["value"] in named:
            assert node["name"]["value"].strip(), node


def test_failures_rates_and_proposals_are_on_the_page(browser, page: Path, dataset: Path):
    browser.open(page)
    rows = browser.evaluate(
        "[...document.querySelectorAll('table')].map((table) => "
        "[...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent)))"
    )
    proposals, scenes, runs = rows
    assert proposals[0][:2] == ["kept", str(PAIRS)]
    assert len(proposals) > 2
    assert [row[0] for row in scenes[1:]] == ["broken", "procedural-000000", "procedural-000001"]
    assert scenes[1][7] == "failed"
    assert "broken.glb" in scenes[1][8]
    for row in scenes[2:]:
        assert row[1] == str(PAIRS // 2)
        assert float(row[5]) > 0
    assert sum(int(row[2]) for row in scenes[1:]) == sum(int(row[1]) for row in proposals)
    assert runs[1][2] == "SerialExecutor"
    assert runs[1][-1] == "1"


def test_pictures_lie_beside_the_page(page: Path):
    found = {path.name for path in page.with_suffix("").iterdir()}
    assert found == {
        "pairs.png", "covisibility.png", "official.png", "baseline.png", "angle.png", "depth.png",
        "map_procedural-000000.png", "map_procedural-000001.png",
    }  # fmt: skip


def test_the_tint_covers_the_recorded_covisibility(dataset: Path):
    table = PairTable.read(ShardIndex.open(dataset))
    scene = inspect_scene(table, table.rows_of_scene(0), RecordedScenes(table.index))
    assert len(scene.pairs) == PAIRS // 2
    for pair in scene.pairs:
        assert pair.seen
        assert pair.depths_m
        for seen, depth_m, name in zip(pair.seen, pair.depths_m, ("1_in_2", "2_in_1")):
            # Stored depth is in whole millimetres, so that a pixel may fall on the other side.
            share = seen.sum() / (depth_m > 0).sum()
            assert share == pytest.approx(pair.record[f"covisibility_{name}"], abs=0.005)


def test_proposals_and_rates_of_levels_are_of_all_of_them_together(tmp_path: Path):
    """As the table of the run has them."""
    config = config_of(
        scenes=["procedural:0"], num_pairs=4, levels={"low": "low", "near-half": "near-half"}
    )
    (summary,) = render_pairs(config, tmp_path, SERIAL).summaries.values()
    for level in ("low", "near-half"):
        folder = tmp_path / level
        (account,) = read_accounts(ShardIndex.open(folder)).values()
        assert (account.kept, account.proposals) == (summary.accepted, summary.attempts)
        (work,) = work_by_scene(read_runs(folder)).values()
        # run.json has whole milliseconds, which is much of the time of eight small pairs.
        seconds = summary.made / work.pairs_per_second
        assert seconds == pytest.approx(summary.seconds, abs=0.002)


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path]:
    """Return a mesh file and a dataset of it without depth."""
    export_glb(make_room(0), tmp_path / "scan.glb")
    config = config_of(scenes=[str(tmp_path / "scan.glb")])
    render_pairs(config, tmp_path / "pairs", SERIAL)
    return tmp_path / "scan.glb", tmp_path / "pairs"


def look_at(folder: Path):
    table = PairTable.read(ShardIndex.open(folder))
    return inspect_scene(table, table.rows_of_scene(0), RecordedScenes(table.index))


@pytest.mark.parametrize(("member", "content"), [("view2.jpg", b"?"), ("meta.json", b"{}")])
def test_a_damaged_member_is_named(
    scan: tuple[Path, Path], capsys: pytest.CaptureFixture, member: str, content: bytes
):
    _, folder = scan
    (tar,) = folder.glob("*.tar")
    data = bytearray(tar.read_bytes())
    for members in Sidecar.read(sidecar_path(tar)).samples.values():
        offset, size = members[member]
        data[offset : offset + size] = content.ljust(size)
    tar.write_bytes(data)
    assert main(["inspect", str(folder)]) == 2
    assert re.search(rf"tar: sample 'scan-00000\d', {member}: damaged", capsys.readouterr().err)


def test_without_stored_depth_the_tint_is_rendered_anew(scan: tuple[Path, Path]):
    _, folder = scan
    scene = look_at(folder)
    assert scene.note == ""
    for pair in scene.pairs:
        assert pair.seen
        assert pair.depths_m
        share = pair.seen[0].sum() / (pair.depths_m[0] > 0).sum()
        assert share == pair.record["covisibility_1_in_2"]


def test_a_scene_is_loaded_with_the_axes_that_its_pairs_were_made_with(tmp_path: Path):
    room = make_room(0)
    upright = replace(room, vertices=room.vertices[:, [0, 2, 1]] * np.float32([1, -1, 1]))
    export_glb(upright, tmp_path / "scan.glb")
    render_pairs(
        config_of(scenes=[str(tmp_path / "scan.glb")], up="z", shards={"depth": True}),
        tmp_path / "pairs",
        SERIAL,
    )
    index = ShardIndex.open(tmp_path / "pairs")
    scene = RecordedScenes(index).load("scan")
    np.testing.assert_allclose(scene.bounds, room.bounds, atol=1e-5)


@pytest.mark.parametrize(("change", "note"), [("edit", "not what it was"), ("remove", "scan.glb")])
def test_a_scene_that_is_not_there_as_it_was_is_not_drawn(
    scan: tuple[Path, Path], change: str, note: str
):
    mesh, folder = scan
    mesh.unlink()
    if change == "edit":
        export_glb(make_room(1), mesh)
    scene = look_at(folder)
    assert note in scene.note
    assert all(pair.seen is None for pair in scene.pairs)
    page = write_inspection(folder, folder / "inspect.html", InspectConfig()).read_text()
    assert "that takes depth" in page
    assert note in page
    assert 'class="seen"' not in page


def test_a_scene_is_found_though_others_of_its_dataset_have_gone(scan: tuple[Path, Path]):
    mesh, folder = scan
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document["config"]["scenes"] = ["/nowhere/*.glb", str(mesh)]
    path.write_text(json.dumps(document))
    assert look_at(folder).note == ""


def test_a_map_is_drawn_from_depth_where_the_scene_is_gone(dataset: Path, tmp_path: Path):
    shutil.copytree(dataset, tmp_path / "pairs")
    for path in (tmp_path / "pairs").glob("*-000000.json"):
        sidecar = json.loads(path.read_text())
        sidecar["task"]["scene"]["path"] = "elsewhere.glb"
        path.write_text(json.dumps(sidecar))
    scene = look_at(tmp_path / "pairs")
    assert "elsewhere.glb" in scene.note
    assert all(pair.seen for pair in scene.pairs)
    (figure,) = scene.maps
    stream = io.BytesIO()
    figure.savefig(stream, transparent=True)
    with Image.open(stream) as image:
        drawn = np.asarray(image)[..., 3] > 0
    assert drawn.mean() > 0.3


def test_a_plan_covers_the_floor_and_no_more(box_room):
    drawer = PlanDrawer(box_room, RayCaster(box_room))
    plan = drawer.draw(np.array([[2.0, 1.5, 2.0], [3.0, 1.6, 1.0]]))
    x0, x1, z0, z1 = plan.extent
    height, width = plan.image.shape[:2]
    covered_m2 = (plan.image[..., 3] > 127).mean() * (x1 - x0) * (z1 - z0)
    assert covered_m2 == pytest.approx(5 * 4, rel=0.01)
    assert (x1 - x0) / width == pytest.approx((z1 - z0) / height, rel=0.01)


def test_a_plan_has_room_for_cameras_far_from_the_mesh(box_room):
    """As those of a dataset whose up axis was mistaken are."""
    centres = np.array([[0.0, 1.5, 40.0], [60.0, 1.5, 40.0]])
    plan = PlanDrawer(box_room, RayCaster(box_room)).draw(centres)
    x0, x1, z0, z1 = plan.extent
    assert ((x0, z0) < centres[:, [0, 2]]).all()
    assert ((x1, z1) > centres[:, [0, 2]]).all()


def test_views_that_show_nothing_make_no_plan():
    assert plan_of_views([], np.zeros((2, 3))) is None


def test_storeys_part_where_no_camera_stands():
    heights_m = np.array([1.5, 4.4, 1.2, 1.8, 4.6, 7.5])
    assert [part.tolist() for part in split_storeys(heights_m)] == [[0, 2, 3], [1, 4], [5]]
    assert len(split_storeys(np.linspace(1, 4, 20))) == 1  # along a stair


def test_the_gallery_is_bounded_and_even(dataset: Path):
    table = PairTable.read(ShardIndex.open(dataset))
    for max_pairs, max_scenes, expected in ((7, 24, [3, 4]), (500, 24, [15, 15]), (5, 1, [5])):
        rows = choose_rows(table, InspectConfig(max_pairs=max_pairs, max_scenes=max_scenes))
        assert [len(part) for part in rows] == expected
        for part in rows:
            values = table.covisibility[part]
            assert (np.diff(values) >= 0).all()
            of_scene = table.covisibility[table.scenes == table.scenes[part[0]]]
            assert (values[0], values[-1]) == (of_scene.min(), of_scene.max())


def test_a_sample_is_even_and_the_page_says_so(dataset: Path, tmp_path: Path):
    whole = PairTable.read(ShardIndex.open(dataset))
    sample = PairTable.read(ShardIndex.open(dataset), max_rows=10)
    assert sample.is_sample
    assert not whole.is_sample
    assert np.bincount(sample.scenes).tolist() == [5, 5]
    np.testing.assert_array_equal(sample.covisibility, whole.covisibility[sample.positions])
    config = InspectConfig(max_pairs=2, max_rows=10)
    page = write_inspection(dataset, tmp_path / "page.html", config).read_text()
    assert "are of 10 pairs, evenly spread over all" in page
    assert "2 of 30 pairs" in page


def test_the_table_has_the_geometry_of_the_poses(dataset: Path):
    table = PairTable.read(ShardIndex.open(dataset))
    record = ShardReader(table.index).record(3)
    pose1, pose2 = (np.array(record[f"world_from_camera{number}"]) for number in (1, 2))
    relative = np.linalg.inv(pose1) @ pose2
    assert table.baseline_m[3] == pytest.approx(np.linalg.norm(relative[:3, 3]))
    assert table.angle_deg[3] == pytest.approx(np.degrees(np.arccos(relative[2, 2])))


@pytest.mark.parametrize("line", ["{", "null", "[]", "{}", '{"scenes": ["a"]}'])
def test_a_damaged_log_of_runs_is_named(tmp_path: Path, line: str):
    (tmp_path / RUN_LOG_NAME).write_text(line + "\n")
    with pytest.raises(CrossviewError, match=r"runs.jsonl: not a log of runs .*; remove it"):
        read_runs(tmp_path)


def test_runs_are_logged_and_added_up(dataset: Path, tmp_path: Path):
    render_pairs(config_of(), tmp_path, SERIAL)
    render_pairs(config_of(num_pairs=6), tmp_path, SERIAL)
    render_pairs(config_of(num_pairs=6), tmp_path, SERIAL)  # does nothing
    runs = read_runs(tmp_path)
    assert [run["pairs"] for run in runs] == [4, 6]  # shards that grow are made anew
    work = work_by_scene(runs)["procedural-000000"]
    assert work.pairs == 5
    assert 0 < work.seconds < sum(run["seconds"] for run in runs)
    assert [run["versions"] for run in runs] == [[versions()]] * 2
    assert runs[0]["processor"] == processor()
    assert "broken.glb" in work_by_scene(read_runs(dataset))["broken"].failures[0]


def test_the_command_says_where_the_page_is(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "look.html"
    assert main(["inspect", str(dataset), "--max-pairs", "2", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_text().count('class="pair"') == 2
    assert (tmp_path / "look" / "pairs.png").exists()


def test_a_dataset_behind_a_url_is_looked_at_there(dataset: Path, capsys: pytest.CaptureFixture):
    folder = location("memory://inspected/pairs")
    folder.mkdir(parents=True)
    for path in dataset.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    assert main(["inspect", str(folder), "--max-pairs", "4"]) == 0
    assert (folder / "inspect.html").read_text().count('class="pair"') == 4
    assert (folder / "inspect" / "map_procedural-000001.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-pairs", "0"], "max_pairs = 0: expected at least 1"),
        (["--out", "page"], "page.html"),
    ],
)
def test_bad_options_are_explained(
    dataset: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
):
    assert main(["inspect", str(dataset), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "index.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_words_of_a_dataset_are_never_markup(browser, dataset: Path, tmp_path: Path):
    shutil.copytree(dataset, tmp_path / "pairs")
    path = tmp_path / "pairs" / "procedural-000000-000000.json"
    sidecar = json.loads(path.read_text())
    hostile = "<img src=x onerror=\"document.title='taken'\">"
    sidecar["rejections"][hostile] = 3
    path.write_text(json.dumps(sidecar))
    out = tmp_path / "page.html"
    browser.open(write_inspection(tmp_path / "pairs", out, InspectConfig(max_pairs=2)))
    assert browser.evaluate("document.title") == "Pairs in pairs"
    cells = browser.evaluate("[...document.querySelectorAll('td')].map((cell) => cell.textContent)")
    assert hostile in cells
