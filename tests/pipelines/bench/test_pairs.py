"""What is measured of making pairs, on a scan in a file."""

from pathlib import Path

import pytest

from generation.scenes.export import export_glb
from generation.scenes.procedural import make_room
from pipelines.cli import main


@pytest.mark.slow
def test_a_scan_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture):
    export_glb(make_room(0), tmp_path / "room.glb")
    scenes = str(tmp_path / "room.glb")
    assert main(["bench", "--scenes", scenes, "--num-pairs", "2", "--renderer", "embree"]) == 0
    told = capsys.readouterr().out
    assert told.count("room") >= 3
    assert "pairs/s" in told
