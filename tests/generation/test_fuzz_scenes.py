"""Damaged scene files give a clear error or a scene, whatever is wrong with them."""

from pathlib import Path

import fuzz_scenes
import pytest

from generation.scenes.mesh_files import MESH_ENDINGS

NUM_CASES = 2400


@pytest.mark.slow
def test_damaged_files_give_a_clear_error_or_a_scene():
    report = fuzz_scenes.fuzz(NUM_CASES)
    assert report.failures == {}
    assert sum(report.outcomes.values()) == NUM_CASES
    for seed in {seed for seed, _ in report.outcomes}:  # neither all too gentle nor all too rough
        assert report.outcomes[seed, "scene"] >= 20, seed
        assert report.outcomes[seed, "error"] >= 100, seed


@pytest.mark.slow
def test_the_driver_names_what_each_case_did_wrong_and_goes_on():
    report = fuzz_scenes.fuzz(16, use="misbehave", silent_s=20.0)
    assert sorted(report.failures) == [1, 3, 5, 7, 9, 11], report.failures
    assert "died with status -11" in report.failures[1]
    assert "hung for 20 s" in report.failures[3]
    assert "MemoryError" in report.failures[5]
    assert "KeyError" in report.failures[7]
    assert "read " in report.failures[9]
    assert "secret.bin" in report.failures[9]
    assert "wrote " in report.failures[11]
    assert sum(report.outcomes.values()) == 10


def test_every_format_of_a_mesh_is_among_what_is_damaged(tmp_path: Path):
    seeds = fuzz_scenes.build_seeds(tmp_path)
    assert {path.suffix for path in seeds.values()} >= set(MESH_ENDINGS)


def test_a_case_is_the_same_every_time(tmp_path: Path):
    seeds = fuzz_scenes.build_seeds(tmp_path / "seeds")
    contents = []
    for run in ("one", "two"):
        _, path = fuzz_scenes.write_case(17, seeds, tmp_path / run)
        files = sorted(p for p in (tmp_path / run).rglob("*") if p.is_file())
        contents.append([(p.relative_to(tmp_path / run), p.read_bytes()) for p in files])
        assert path.is_file()
    assert contents[0] == contents[1]
