"""What this machine has, what is wrong with it and what to do about that.

Every check is a function in the table CHECKS. Only the standard library is imported here, so
that `python -m pipelines.doctor` runs where packages are missing. What may crash, as drivers do, or
hang, is tried in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from generation import machine
from generation.renderers.gpu import has_gpu, is_gpu
from pipelines.tables import format_table
from pipelines.worker import OWN_PATH, import_path

OK, WARN, MISSING, BROKEN = "ok", "warn", "missing", "broken"

PROBE_SECONDS = 120
"""A probe that has not answered by then hangs; the slowest, importing everything, takes 10 s."""
WORKER_BYTES = 1.5e9
"""Memory that a rendering worker takes for the largest scans."""
LEAST_SHM_BYTES = 256e6
"""Ray keeps its object store there: 128 MiB of ours, and its own."""
SHM_BYTES_OF_A_GPU = 2.5e9
"""There 8 processes keep the batches that they have read for croco_v1."""
LEAST_DISK_BYTES = 5e9
PAIR_BYTES = 100e3
"""Of a pair of 256 x 256 pixels with depth; about half of it without."""
LEAST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 10), (3, 14)

INSTALL = "pip install -c constraints.txt -e ."
VENDOR_FILES = "__EGL_VENDOR_LIBRARY_FILENAMES"
_VENDOR_FOLDERS = ("/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d")
_MODULE_OF = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "universal-pathlib": "upath",
}
_IMPORTED = "imported:"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    state: str
    """ok, warn (works, but not as it should), missing or broken."""
    found: str
    """What there is."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""


@dataclass(frozen=True)
class Answer:
    """What a probe in another process said."""

    output: str
    """What it printed, without white space around."""
    failure: str = ""
    """Why it did not finish: its error, the signal that ended it, or that it hung."""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    what: str
    examine: Callable[[], Finding]
    required: bool = False
    """Whether rendering with Embree and pre-training, the default path, need it."""


# Python and packages


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Check the version of Python."""
    found = f"{'.'.join(map(str, version))} at {sys.executable}"
    first, last = (f"3.{v}" for v in (LEAST_PYTHON[1], FIRST_UNTRIED_PYTHON[1] - 1))
    if version[:2] < LEAST_PYTHON:
        return Finding(BROKEN, found, f"install Python {first} to {last}")
    if version[:2] >= FIRST_UNTRIED_PYTHON:
        return Finding(WARN, found, f"not tried with this one; take Python {first} to {last}")
    return Finding(OK, found)


def check_packages() -> Finding:
    """Check that every package that crossview asks for is there, new enough, and imports."""
    try:
        requirements = metadata.requires("crossview") or []
    except metadata.PackageNotFoundError:
        return Finding(BROKEN, "crossview is not installed for this Python", INSTALL)
    try:
        wrong, names = unmet(requirements, _versions())
    except ImportError:
        return Finding(MISSING, "packaging is not installed", INSTALL)
    wrong |= failed_imports(names - set(wrong))
    if wrong:
        found = "; ".join(f"{name} {what}" for name, what in sorted(wrong.items()))
        return Finding(BROKEN, found, INSTALL)
    return Finding(OK, f"{len(names)} packages, as new as they must be, and they import")


def unmet(
    requirements: Iterable[str], versions: Mapping[str, str]
) -> tuple[dict[str, str], set[str]]:
    """Return what is wrong (name -> what), and the names of all requirements that hold here.

    versions: of the installed distributions, by name as PyPI spells it.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wrong: dict[str, str] = {}
    names: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        version = versions.get(name)
        if version is None:
            wrong[name] = "is missing"
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong[name] = f"is {version}, expected {requirement.specifier}"
    return wrong, names


def failed_imports(names: Iterable[str]) -> dict[str, str]:
    """Import distributions in another process; return what went wrong, by name."""
    left = sorted(names)
    failed: dict[str, str] = {}
    while left:
        answer = ask("import_each", *(_MODULE_OF.get(name, name) for name in left))
        done = [line for line in answer.output.splitlines() if line.startswith(_IMPORTED)]
        for name, line in zip(left, done):
            if line != _IMPORTED:
                failed[name] = f"does not import ({line.removeprefix(_IMPORTED)})"
        if len(done) == len(left):
            break
        failed[left[len(done)]] = f"does not import ({answer.failure})"
        left = left[len(done) + 1 :]
    return failed


def check_torchvision() -> Finding:
    """Check that torchvision was built for this torch."""
    versions = _versions()
    found = ", ".join(f"{n} {versions.get(n, 'missing')}" for n in ("torch", "torchvision"))
    answer = ask("register_torchvision")
    if answer.failure:
        return Finding(
            BROKEN,
            f"{found}: {answer.failure}",
            "install both from the same place, so that their builds match: "
            "pip install --force-reinstall torch torchvision",
        )
    return Finding(OK, found)


# The machine


def check_cpu(cores: int | None = None, quota: float | None = None) -> Finding:
    """Check the cores of this process, and the share of them that its container gets."""
    cores = cores or machine.num_cores()
    quota = quota or cgroup_limit("cpu.max")
    if quota and quota < cores:
        return Finding(
            WARN,
            f"{cores} cores, but the container gets the time of {quota:g}",
            f"one worker a core is too many: --workers {max(1, int(quota))}",
        )
    return Finding(OK, f"{cores} cores")


def check_memory(
    memory_bytes: float | None = None, limit_bytes: float | None = None, cores: int | None = None
) -> Finding:
    """Check that the memory is enough for a worker a core."""
    memory_bytes = memory_bytes or machine.memory_bytes()
    limit_bytes = limit_bytes or cgroup_limit("memory.max")
    cores = cores or machine.num_cores()
    found = f"{memory_bytes / 1e9:.1f} GB"
    if limit_bytes and limit_bytes < memory_bytes:
        found += f", but the container gets {limit_bytes / 1e9:.1f} GB"
        memory_bytes = limit_bytes
    workers = int(memory_bytes / WORKER_BYTES)
    if workers < 1:
        return Finding(WARN, found, f"large scans need {WORKER_BYTES / 1e9} GB a worker")
    if workers < cores:
        advice = f"large scans need {WORKER_BYTES / 1e9} GB a worker: --workers {workers}"
        return Finding(WARN, found, advice)
    return Finding(OK, found)


def cgroup_limit(name: str, root: Path = Path("/sys/fs/cgroup"), own: str = "") -> float | None:
    """Return the least limit of this process's control groups: cpu.max, memory.max, or None.

    In cores or bytes. own: the process's group, as /proc/self/cgroup names it.
    """
    if not own:
        try:
            own = Path("/proc/self/cgroup").read_text()
        except OSError:
            return None
    match = re.search(r"^0::/(.*)$", own, re.MULTILINE)
    folder = root / match[1] if match else root
    limits = []
    for group in [folder, *folder.parents]:
        if group.is_relative_to(root):
            try:
                words = (group / name).read_text().split()
            except OSError:
                continue
            if words and words[0] != "max":
                limits.append(float(words[0]) / float(words[1] if len(words) > 1 else 1))
    return min(limits, default=None)


def check_shared_memory(size_bytes: float | None = None, gpu: bool | None = None) -> Finding:
    """Check the size of /dev/shm, where Ray's object store lies, and batches for a GPU."""
    if size_bytes is None:
        if not Path("/dev/shm").is_dir():
            return Finding(WARN, "no /dev/shm", "mount one, or use --executor serial")
        size_bytes = shutil.disk_usage("/dev/shm").total
    found = f"{size_bytes / 1e9:.1f} GB"
    if size_bytes < LEAST_SHM_BYTES:
        return Finding(
            WARN, found, "Ray wants more: docker run --shm-size=1g, or --executor serial"
        )
    if size_bytes < SHM_BYTES_OF_A_GPU and (has_gpu() if gpu is None else gpu):
        return Finding(
            WARN,
            found,
            "batches for a GPU want more: docker run --shm-size=8g, or fewer data.num_workers",
        )
    return Finding(OK, found)


def check_disk(folder: Path = Path(), free_bytes: float | None = None) -> Finding:
    """Check the space that is left in the current folder."""
    free_bytes = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    pairs = f"{int(free_bytes / PAIR_BYTES):,}"
    found = f"{free_bytes / 1e9:.1f} GB free in {folder.resolve()}"
    if free_bytes < LEAST_DISK_BYTES:
        return Finding(WARN, found, f"about {pairs} pairs with depth; choose --out elsewhere")
    return Finding(OK, f"{found}: about {pairs} pairs with depth")


# Devices and renderers


def check_gpu() -> Finding:
    """Check whether torch sees the GPU that the driver sees."""
    driver = ""
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        driver = _run(["nvidia-smi", query, "--format=csv,noheader"], 20).output
    return gpu_finding(driver, ask("cuda_devices"))


def gpu_finding(driver: str, torch: Answer) -> Finding:
    """Judge what nvidia-smi lists, a line a GPU, and what torch said of CUDA."""
    if torch.failure:
        return Finding(BROKEN, f"torch does not say: {torch.failure}", INSTALL)
    version, cuda, names = json.loads(torch.output)
    if names:
        return Finding(OK, f"{', '.join(names)}; CUDA {cuda}")
    if not driver:
        advice = "not needed: Embree renders on the CPU; pre-training takes long without one"
        return Finding(MISSING, "none", advice)
    why = (
        f"is built for CUDA {cuda}, the driver may be too old" if cuda else "is built without CUDA"
    )
    return Finding(
        WARN,
        f"{driver.splitlines()[0]}, but torch does not see it",
        f"torch {version} {why}: update the driver, or install the torch that its CUDA needs",
    )


def check_embree() -> Finding:
    """Check that the default renderer hits a triangle."""
    answer = ask("cast_one_ray")
    if answer.failure:
        return Finding(BROKEN, answer.failure, INSTALL)
    return Finding(OK, answer.output)


def check_egl() -> Finding:
    """Check that EGL loads, and which drivers it will ask."""
    return egl_finding(ask("load_egl"), vendor_files(), os.environ.get(VENDOR_FILES, ""))


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


def vendor_files(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the files that tell EGL of drivers, those that the environment names if it does."""
    if environment.get(VENDOR_FILES):
        return [name for name in environment[VENDOR_FILES].split(":") if Path(name).is_file()]
    return [str(path) for folder in _VENDOR_FOLDERS for path in sorted(Path(folder).glob("*.json"))]


def check_gl() -> Finding:
    """Check that OpenGL gives a context without a screen, and on what it renders."""
    if util.find_spec("moderngl") is None:
        return Finding(
            MISSING, "moderngl is not installed", "optional: pip install 'crossview[gl]'"
        )
    return gl_finding(ask("name_gl_device"), has_gpu(), vendor_files({}))


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
        advice = "optional; pip has no package of it: the README says how to build it"
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
    return "build habitat-sim 0.3.3 from its sources with this Python, as the README says"


def check_ray() -> Finding:
    """Check that a Ray cluster starts here and does a task."""
    answer = ask("start_ray")
    if answer.failure:
        return Finding(BROKEN, answer.failure, "until it starts: --executor serial")
    return Finding(OK, answer.output)


CHECKS = (
    Check("Python", check_python, required=True),
    Check("packages", check_packages, required=True),
    Check("torch, torchvision", check_torchvision, required=True),
    Check("cores", check_cpu),
    Check("memory", check_memory),
    Check("shared memory", check_shared_memory),
    Check("disk", check_disk),
    Check("GPU", check_gpu),
    Check("EGL", check_egl),
    Check("renderer embree", check_embree, required=True),
    Check("renderer gl", check_gl),
    Check("renderer habitat", check_habitat),
    Check("Ray", check_ray, required=True),
)
"""In the order of the table."""


# Probes: each runs in a process of its own, prints what it found, and may die of it.


def import_each(*modules: str) -> None:
    """Print a line for each module, with the error that importing it gave, if any."""
    for module in modules:
        error = ""
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as raised:
            error = f"{type(raised).__name__}: {raised}".splitlines()[0]
        print(f"{_IMPORTED}{error}", flush=True)


def register_torchvision() -> None:
    """Import torchvision, whose compiled part fits one build of torch alone."""
    importlib.import_module("torchvision.ops").nms  # noqa: B018


def cuda_devices() -> None:
    """Print torch's version, its CUDA and the names of the devices that it sees."""
    torch = importlib.import_module("torch")
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(device) for device in range(number)]
    print(json.dumps([torch.__version__, torch.version.cuda, names]))


def load_egl() -> None:
    """Load the system's EGL."""
    ctypes.CDLL("libEGL.so.1")


def cast_one_ray() -> None:
    """Cast a ray at a triangle two metres away."""
    import numpy as np

    from generation.raycast import RayCaster
    from generation.scenes.scene import Scene

    scene = Scene(
        scene_id="triangle",
        vertices=np.array([[-1, -1, -2], [1, -1, -2], [0, 1, -2]], np.float32),
        faces=np.array([[0, 1, 2]], np.int32),
        uvs=np.zeros((3, 2), np.float32),
        vertex_colors=np.full((3, 3), 255, np.uint8),
        face_materials=np.zeros(1, np.int32),
    )
    ray = np.zeros((1, 3), np.float32), np.array([[0, 0, -1]], np.float32)
    (distance,) = RayCaster(scene).cast(*ray).distances
    if distance != 2.0:
        raise RuntimeError(f"a ray went {distance} m, expected 2")
    print("a ray meets a triangle")


def name_gl_device() -> None:
    """Print what OpenGL renders on."""
    from generation.renderers.gl import device_name

    print(device_name())


def habitat_version() -> None:
    """Print habitat-sim's version."""
    print(importlib.import_module("habitat_sim").__version__)


def start_ray() -> None:
    """Start a local Ray cluster of one worker and run a task on it."""
    from pipelines.executors import make_executor

    with make_executor("ray", num_workers=1) as executor:
        (outcome,) = executor.run(abs, [-1])
    if outcome.report != 1:
        raise RuntimeError(outcome.error)
    print("a local cluster starts and does a task")


def ask(probe: str, *arguments: str) -> Answer:
    """Run one of this module's probes in another process."""
    code = f"{OWN_PATH}from pipelines.doctor import {probe}; {probe}(*sys.argv[1:])"
    return _run([sys.executable, "-c", code, *arguments], PROBE_SECONDS)


def _run(command: list[str], seconds: float) -> Answer:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=os.environ | import_path(),
        )
    except OSError as error:
        return Answer("", f"{command[0]}: {error}")
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer within {seconds:g} s")
    output = done.stdout.strip()
    if done.returncode < 0:
        return Answer(output, f"crashed ({signal.Signals(-done.returncode).name})")
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Answer(output, re.sub(r"^(\w+\.)*(\w+: )", r"\2", last))
    return Answer(output)


def _versions() -> dict[str, str]:
    """Return the versions of all installed distributions, by name as PyPI spells it."""
    from packaging.utils import canonicalize_name

    return {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


# The table


def examine(checks: Iterable[Check]) -> list[tuple[Check, Finding]]:
    """Do checks, several at a time; one that fails itself is broken."""
    with ThreadPoolExecutor(4) as pool:
        checks = list(checks)
        return list(zip(checks, pool.map(_examine, checks)))


def _examine(check: Check) -> Finding:
    try:
        return check.examine()
    except Exception as error:  # doctor tells of what is broken, also where it did not expect it
        return Finding(BROKEN, f"{type(error).__name__}: {error}", "report this")


def failures(results: Iterable[tuple[Check, Finding]]) -> list[str]:
    """Return what the default path needs and has not."""
    return [
        check.what
        for check, finding in results
        if check.required and finding.state in (MISSING, BROKEN)
    ]


def findings_table(results: Iterable[tuple[Check, Finding]]) -> str:
    """Return the table of all findings."""
    rows = [
        (check.what, finding.state, finding.found, finding.advice) for check, finding in results
    ]
    return format_table(rows, ("what", "state", "found", "what to do"))


def main() -> int:
    """Print the table; return 2 where the default path is broken, else 0."""
    results = examine(CHECKS)
    print(f"crossview doctor on {platform.platform()}\n")
    print(findings_table(results))
    wrong = failures(results)
    if wrong:
        print(f"\nwhat rendering and pre-training need is not there: {', '.join(wrong)}")
        return 2
    print("\nrendering with Embree and pre-training will work here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
