"""A run whose disk fills up, or may not be written any more, goes on; the real thing, mounted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_losses import curve

from training import checkpoint
from training.metrics_log import read_lines

ROOT = Path(__file__).parents[2]
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory) -> list[str]:
    """What goes before a command that mounts file systems, which nobody else sees."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare (Debian: util-linux)")
    mount = ["mount", "-t", "tmpfs", "crossview", str(tmp_path_factory.mktemp("mount"))]
    tried = subprocess.run([*IN_A_NAMESPACE, *mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"needs user namespaces, which this machine forbids: {tried.stderr.strip()}")
    return IN_A_NAMESPACE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_a_run_goes_on_and_writes_again_when_it_can(namespace, dataset, tmp_path, how, reason):
    out = tmp_path / "out"
    script = Path(__file__).with_name("run_on_bad_disk.py")
    done = subprocess.run(
        [*namespace, sys.executable, script, dataset, out, how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    for step in (8, 12, 16):
        assert f"no checkpoint of step {step}, those before it stay" in said
    assert f"cannot write the run here: {reason}" in said
    assert said.count("no metrics can be written here") == (how == "full")
    assert said.count("metrics are written, none is missing") == (how == "full")

    left = tmp_path / "out-left"
    lines = read_lines(left / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 41))
    assert list(curve(left)) == list(range(1, 41))
    names = sorted(path.name for path in (left / checkpoint.FOLDER).iterdir())
    assert names == ["best.pt", "step_00000036.pt", "step_00000040.pt"]
    assert checkpoint.load_newest(left)["step"] == 40
