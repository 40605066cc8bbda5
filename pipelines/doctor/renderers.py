"""The renderers, and EGL, which OpenGL needs to render without a screen."""

from __future__ import annotations

import os
import re
from importlib import util
from pathlib import Path

from generation.renderers.gpu import has_gpu, is_gpu
from pipelines.doctor.finding import BROKEN, INSTALL, MISSING, OK, WARN, Finding
from pipelines.doctor.probes import Answer, ask

VENDOR_FILES = "__EGL_VENDOR_LIBRARY_FILENAMES"
"""The variable that names EGL's vendor files, each of which tells of a driver."""
_VENDOR_FOLDERS = ("/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d")


def check_embree() -> Finding:
    """Check that the default renderer hits a triangle."""
    answer = ask("cast_one_ray")
    if answer.failure:
        return Finding(BROKEN, answer.failure, INSTALL)
    return Finding(OK, answer.output)


def check_egl() -> Finding:
    """Check that EGL loads, and which drivers it will ask."""
    named = os.environ.get(VENDOR_FILES, "")
    return egl_finding(ask("load_egl"), vendor_files(named), named)


def egl_finding(loading: Answer, files: list[str], named: str) -> Finding:
    """Judge whether libEGL loads, its vendor files, and those that the environment names."""
    if loading.failure:
        advice = "for --renderer gl: the GPU's driver, or Debian's libegl1 and libgl1-mesa-dri"
        return Finding(MISSING, loading.failure, advice)
    gone = [name for name in named.split(":") if name and not Path(name).is_file()]
    if gone:
        return Finding(WARN, f"{VENDOR_FILES} names {gone[0]}, which is not there", "unset it")
    if not files:
        advice = "for --renderer gl: the GPU's driver, or Debian's libgl1-mesa-dri"
        return Finding(MISSING, "libEGL loads, but it has no driver", advice)
    return Finding(OK, f"libEGL loads; drivers: {', '.join(files)}")


def vendor_files(named: str) -> list[str]:
    """Return the vendor files that are there: of those that VENDOR_FILES names, if it names any."""
    if named:
        return [name for name in named.split(":") if Path(name).is_file()]
    return [str(path) for folder in _VENDOR_FOLDERS for path in sorted(Path(folder).glob("*.json"))]


def check_gl() -> Finding:
    """Check that OpenGL gives a context without a screen, and on what it renders."""
    if util.find_spec("moderngl") is None:
        return Finding(
            MISSING, "moderngl is not installed", "optional: pip install 'crossview[gl]'"
        )
    return gl_finding(ask("name_gl_device"), has_gpu(), vendor_files(""))


def gl_finding(device: Answer, gpu_there: bool, files: list[str]) -> Finding:
    """Judge on what OpenGL renders; files: the vendor files that EGL knows without being told."""
    if device.failure:
        advice = "the GPU's driver, or Debian's libegl1 and libgl1-mesa-dri; Embree works without"
        return Finding(BROKEN, device.failure, advice)
    is_software = not is_gpu(device.output)
    if gpu_there and is_software:
        of_gpu = [file for file in files if "mesa" not in file]
        advice = (
            f"there is a GPU, but Mesa renders on the CPU: {VENDOR_FILES}={of_gpu[0]}"
            if of_gpu
            else f"there is a GPU, but Mesa renders on the CPU, and no vendor file names another "
            f"driver: install its EGL and let {VENDOR_FILES} name its file (10_nvidia.json)"
        )
        return Finding(WARN, device.output, advice)
    return Finding(OK, device.output + (" (on the CPU; Embree is faster)" if is_software else ""))


def check_habitat() -> Finding:
    """Check whether habitat-sim is there and which it is."""
    if util.find_spec("habitat_sim") is None:
        advice = "optional; pip has no package of it: docs/pairs.md says how to build it"
        return Finding(MISSING, "habitat_sim is not installed", advice)
    return habitat_finding(ask("habitat_version"))


def habitat_finding(version: Answer) -> Finding:
    """Judge what importing habitat-sim gave: its version, or an error."""
    if version.failure:
        return Finding(BROKEN, version.failure, habitat_advice(version.failure))
    if not version.output.startswith("0.3.3"):
        advice = "crossview is written for 0.3.3, and others may render otherwise"
        return Finding(WARN, f"habitat_sim {version.output}", advice)
    return Finding(OK, f"habitat_sim {version.output}")


def habitat_advice(error: str) -> str:
    """Say what to do about an import of habitat-sim that failed."""
    if re.search(r"lib(EGL|GL|OpenGL)\S*\.so", error):
        return "install OpenGL: the GPU's driver, or Debian's libegl1 libgl1 libopengl0"
    if re.search(r"numpy|_ARRAY_API", error, re.IGNORECASE):
        return "it was built for another numpy: build it again in this environment"
    missing = re.search(r"No module named '([\w.]+)'", error)
    if missing and "habitat_sim" in missing[1]:
        return "its compiled part is missing or of another Python: build it again with this one"
    if missing:
        return f"it needs {missing[1]}: pip install {missing[1].partition('.')[0]}"
    return "build habitat-sim 0.3.3 from its sources with this Python, as docs/pairs.md says"
