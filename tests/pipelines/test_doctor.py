"""What doctor says of machines that are well, and of those that are not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.doctor.checks import CHECKS, Check, examine, failures
from pipelines.doctor.finding import BROKEN, MISSING, OK, WARN, Finding
from pipelines.doctor.machine import (
    cores_finding,
    disk_finding,
    gpu_finding,
    least_limit,
    memory_finding,
    shared_memory_finding,
)
from pipelines.doctor.packages import python_finding, unmet
from pipelines.doctor.probes import Answer, run
from pipelines.doctor.renderers import (
    VENDOR_FILES,
    check_egl,
    check_gl,
    egl_finding,
    gl_finding,
    habitat_finding,
    vendor_files,
)

ROOT = Path(__file__).resolve().parents[2]
MESA = "/usr/share/glvnd/egl_vendor.d/50_mesa.json"
NVIDIA = "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"


@pytest.fixture(scope="module")
def printed() -> str:
    """Return doctor's table for this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "doctor"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_default_path_works_here(printed: str):
    for what in ("Python", "packages", "torch, torchvision", "renderer embree", "Ray"):
        assert re.search(rf"^{what} +ok ", printed, re.MULTILINE), what
    assert "rendering with Embree and pre-training will work here" in printed


def test_every_check_has_a_row(printed: str):
    rows = {line.split("  ")[0] for line in printed.splitlines()}
    assert {check.what for check in CHECKS} <= rows


def test_what_is_not_ok_comes_with_advice(printed: str):
    rows = [re.split(r" {2,}", line) for line in printed.splitlines()]
    for row in rows:
        if len(row) > 1 and row[1] in (WARN, MISSING, BROKEN):
            assert len(row) == 4, row


def test_a_package_that_does_not_import_is_named(tmp_path: Path):
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('libjpeg is hidden')")
    (tmp_path / "trimesh.py").write_text("import os; os.kill(os.getpid(), 11)")
    names = ["simplejpeg", "trimesh", "tqdm"]
    code = f"from pipelines.doctor.packages import failed_imports; print(failed_imports({names}))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    ).stdout
    assert "'simplejpeg': 'does not import (ImportError: libjpeg is hidden)'" in output
    assert "'trimesh': 'does not import (crashed (SIGSEGV))'" in output
    assert "tqdm" not in output


def test_doctor_starts_where_nothing_but_the_standard_library_is_there():
    hides_site_packages = "-S"
    done = subprocess.run(
        [sys.executable, hides_site_packages, "-m", "pipelines.doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert re.search(r"^packages +(broken|missing) .*not installed", done.stdout, re.MULTILINE)
    assert "pip install -c constraints.txt -e ." in done.stdout


def test_requirements_are_compared_with_what_is_installed():
    wrong, names = unmet(
        [
            "numpy>=2.0",
            "Pillow>=11",
            "ray>=2.40",
            'tomli; python_version < "3"',
            'x; extra == "gl"',
        ],
        {"numpy": "1.26.4", "pillow": "12.0"},
    )
    assert wrong == {"numpy": "is 1.26.4, expected >=2.0", "ray": "is missing"}
    assert names == {"numpy", "pillow", "ray"}


@pytest.mark.parametrize(
    ("version", "state"), [((3, 9, 1), BROKEN), ((3, 12, 0), OK), ((3, 14, 0), WARN)]
)
def test_python_versions(version: tuple[int, ...], state: str):
    assert python_finding(version, "/usr/bin/python").state == state


class TestMachine:
    def test_a_container_with_less_than_its_host(self):
        finding = cores_finding(16, limit=2.5)
        assert (finding.state, finding.advice[-11:]) == (WARN, "--workers 2")
        assert cores_finding(2, limit=4.0).state == OK
        assert cores_finding(2, limit=None).state == OK

    def test_a_memory_limit_bounds_the_workers(self):
        finding = memory_finding(64e9, limit_bytes=4e9, cores=8)
        assert finding.state == WARN
        assert "the container gets 4.0 GB" in finding.found
        assert "--workers 2" in finding.advice
        assert memory_finding(64e9, limit_bytes=64e9, cores=8).state == OK
        assert memory_finding(64e9, limit_bytes=0.0, cores=8).found.endswith("gets 0.0 GB")

    def test_the_least_limit_of_nested_groups_counts(self, tmp_path: Path):
        inner = tmp_path / "pod" / "container"
        inner.mkdir(parents=True)
        (inner / "memory.max").write_text("max\n")
        (inner.parent / "memory.max").write_text("2000000\n")
        (inner / "cpu.max").write_text("150000 100000\n")
        groups = "0::/pod/container\n"
        assert least_limit("memory.max", groups, tmp_path) == 2e6
        assert least_limit("cpu.max", groups, tmp_path) == 1.5
        assert least_limit("cpu.max", groups, tmp_path / "nowhere") is None

    def test_small_shared_memory_and_a_full_disk(self, tmp_path: Path):
        assert shared_memory_finding(None, gpu_there=False).found == "no /dev/shm"
        assert "--shm-size=1g" in shared_memory_finding(64e6, gpu_there=False).advice
        assert "--shm-size=8g" in shared_memory_finding(1e9, gpu_there=True).advice
        assert shared_memory_finding(1e9, gpu_there=False).state == OK
        assert disk_finding(tmp_path, free_bytes=1e9).state == WARN


class TestGpu:
    def test_none_is_no_error(self):
        finding = gpu_finding("", Answer('["2.9", null, []]'))
        assert (finding.state, finding.found) == (MISSING, "none")

    def test_one_that_torch_uses(self):
        finding = gpu_finding("H200, ...", Answer('["2.9", "13.0", ["NVIDIA H200"]]'))
        assert finding == Finding(OK, "NVIDIA H200; CUDA 13.0")

    @pytest.mark.parametrize(("cuda", "why"), [("null", "without CUDA"), ('"13.0"', "too old")])
    def test_one_that_torch_does_not_see(self, cuda: str, why: str):
        finding = gpu_finding("H200, 141 GB, 550", Answer(f'["2.9", {cuda}, []]'))
        assert finding.state == WARN
        assert why in finding.advice


class TestEgl:
    def test_no_library_says_which_package_brings_it(self):
        finding = egl_finding(Answer("", "libEGL.so.1: cannot open"), [], "")
        assert finding.state == MISSING
        assert "libegl1" in finding.advice

    def test_a_vendor_file_that_is_not_there(self, tmp_path: Path):
        gone = str(tmp_path / "gone.json")
        finding = egl_finding(Answer(""), [], gone)
        assert finding.state == WARN
        assert gone in finding.found

    def test_vendor_files_are_those_that_the_environment_names(self, tmp_path: Path):
        (tmp_path / "one.json").touch()
        named = f"{tmp_path / 'one.json'}:{tmp_path / 'gone.json'}"
        assert vendor_files(named) == [str(tmp_path / "one.json")]

    def test_a_gpu_whose_driver_is_not_asked(self):
        finding = gl_finding(Answer("llvmpipe (LLVM 15)"), True, [NVIDIA, MESA])
        assert finding.state == WARN
        assert f"__EGL_VENDOR_LIBRARY_FILENAMES={NVIDIA}" in finding.advice
        finding = gl_finding(Answer("llvmpipe (LLVM 15)"), True, [MESA])
        assert "no vendor file names another driver" in finding.advice

    def test_software_without_a_gpu_and_a_gpu_are_well(self):
        assert gl_finding(Answer("llvmpipe (LLVM 15)"), False, [MESA]).state == OK
        assert gl_finding(Answer("NVIDIA H200/PCIe/SSE2"), True, []).state == OK

    def test_a_crash_of_the_driver_is_a_finding(self):
        finding = gl_finding(Answer("", "crashed (SIGSEGV)"), True, [NVIDIA])
        assert (finding.state, finding.found) == (BROKEN, "crashed (SIGSEGV)")

    def test_egl_pointed_at_nothing_gives_no_context(self, tmp_path: Path, monkeypatch):
        pytest.importorskip("moderngl", reason="needs the extra gl")
        if check_gl().state == BROKEN:
            pytest.skip("needs EGL and a driver")
        monkeypatch.setenv(VENDOR_FILES, str(tmp_path / "gone.json"))
        finding = check_gl()
        assert finding.state == BROKEN
        assert "driver" in finding.advice
        assert "which is not there" in check_egl().found


class TestHabitat:
    @pytest.mark.parametrize(
        ("error", "advice"),
        [
            ("ImportError: libEGL.so.1: cannot open shared object file", "libegl1"),
            ("ImportError: numpy.core.multiarray failed to import", "another numpy"),
            ("ModuleNotFoundError: No module named 'quaternion'", "pip install quaternion"),
            (
                "ModuleNotFoundError: No module named 'habitat_sim._ext.habitat_sim_bindings'",
                "build it again with this one",
            ),
            ("crashed (SIGILL)", "from its sources with this Python, as docs/pairs.md says"),
        ],
    )
    def test_an_import_that_fails_says_what_to_do(self, error: str, advice: str):
        finding = habitat_finding(Answer("", error))
        assert (finding.state, finding.found) == (BROKEN, error)
        assert advice in finding.advice

    def test_another_version_is_a_warning(self):
        assert habitat_finding(Answer("0.3.3")).state == OK
        assert habitat_finding(Answer("0.2.5")).state == WARN


class TestProbes:
    def test_one_that_hangs_is_ended(self):
        answer = run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
        assert answer == Answer("", "no answer within 0.5 s")

    def test_one_that_crashes_is_named_by_its_signal(self):
        answer = run([sys.executable, "-c", "import os; os.abort()"], 60)
        assert answer.failure == "crashed (SIGABRT)"

    def test_the_error_of_one_that_raises_is_told(self):
        answer = run([sys.executable, "-c", "raise ValueError('no such thing')"], 60)
        assert answer.failure == "ValueError: no such thing"

    def test_a_check_that_fails_itself_is_broken_and_the_others_go_on(self):
        checks = [
            Check("bad", lambda: Finding(**{}), required=True),
            Check("good", lambda: Finding(OK, "")),
        ]
        (_, bad), (_, good) = results = examine(checks)
        assert (bad.state, good.state) == (BROKEN, OK)
        assert failures(results) == ["bad"]


def test_what_is_optional_does_not_fail():
    optional = Check("gl", lambda: Finding(BROKEN, "no context"))
    assert failures(examine([optional])) == []
