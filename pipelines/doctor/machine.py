"""Cores, memory, disk and GPU: whether they are enough, and all there for this process."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from generation.machine import memory_bytes, num_cores
from generation.renderers.gpu import has_gpu
from pipelines.doctor.finding import BROKEN, INSTALL, MISSING, OK, WARN, Finding
from pipelines.doctor.probes import Answer, ask, run

WORKER_BYTES = 1.5e9
"""Memory that a rendering worker takes for the largest scans."""
LEAST_SHM_BYTES = 256e6
"""Ray keeps its object store there: 128 MiB of ours, and its own."""
SHM_BYTES_OF_A_GPU = 2.5e9
"""There 8 processes keep the batches that they have read for croco_v1."""
LEAST_DISK_BYTES = 5e9
PAIR_BYTES = 100e3
"""Of a pair of 256 x 256 pixels with depth; about half of it without."""


def check_cores() -> Finding:
    """Check the cores of this process, and the share of their time that its container gets."""
    return cores_finding(num_cores(), cgroup_limit("cpu.max"))


def cores_finding(cores: int, limit: float | None) -> Finding:
    """Judge a number of cores; limit: of how many the container gets the time, None: of all."""
    if limit is not None and limit < cores:
        return Finding(
            WARN,
            f"{cores} cores, but the container gets the time of {limit:g}",
            f"one worker a core is too many: --workers {max(1, int(limit))}",
        )
    return Finding(OK, f"{cores} cores")


def check_memory() -> Finding:
    """Check that the memory is enough for a worker a core."""
    return memory_finding(memory_bytes(), cgroup_limit("memory.max"), num_cores())


def memory_finding(size_bytes: float, limit_bytes: float | None, cores: int) -> Finding:
    """Judge the memory for a worker a core; limit_bytes: what the container gets, None: all."""
    found = f"{size_bytes / 1e9:.1f} GB"
    if limit_bytes is not None and limit_bytes < size_bytes:
        found += f", but the container gets {limit_bytes / 1e9:.1f} GB"
        size_bytes = limit_bytes
    workers = int(size_bytes / WORKER_BYTES)
    if workers >= cores:
        return Finding(OK, found)
    advice = f"large scans need {WORKER_BYTES / 1e9} GB a worker"
    return Finding(WARN, found, f"{advice}: --workers {workers}" if workers else advice)


def cgroup_limit(name: str) -> float | None:
    """Return what this process's control groups limit it to, as least_limit does."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:
        return None
    return least_limit(name, groups, Path("/sys/fs/cgroup"))


def least_limit(name: str, groups: str, root: Path) -> float | None:
    """Return the least limit of a process's control group and those above it, None without any.

    name: cpu.max, a limit in cores, or memory.max, in bytes. groups: what /proc/PID/cgroup says.
    root: the folder of all groups.
    """
    match = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
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


def check_shared_memory() -> Finding:
    """Check the size of /dev/shm, where Ray's object store lies, and batches for a GPU."""
    folder = Path("/dev/shm")
    size_bytes = shutil.disk_usage(folder).total if folder.is_dir() else None
    return shared_memory_finding(size_bytes, has_gpu())


def shared_memory_finding(size_bytes: float | None, gpu_there: bool) -> Finding:
    """Judge the size of /dev/shm; None where there is none."""
    if size_bytes is None:
        return Finding(WARN, "no /dev/shm", "mount one, or use --executor serial")
    found = f"{size_bytes / 1e9:.1f} GB"
    if size_bytes < LEAST_SHM_BYTES:
        return Finding(
            WARN, found, "Ray wants more: docker run --shm-size=1g, or --executor serial"
        )
    if gpu_there and size_bytes < SHM_BYTES_OF_A_GPU:
        return Finding(
            WARN,
            found,
            "batches for a GPU want more: docker run --shm-size=8g, or fewer data.num_workers",
        )
    return Finding(OK, found)


def check_disk() -> Finding:
    """Check the space that is left in the current folder."""
    folder = Path().resolve()
    return disk_finding(folder, shutil.disk_usage(folder).free)


def disk_finding(folder: Path, free_bytes: float) -> Finding:
    """Judge the space that is left in a folder."""
    found = f"{free_bytes / 1e9:.1f} GB free in {folder}"
    pairs = f"about {int(free_bytes / PAIR_BYTES):,} pairs with depth"
    if free_bytes < LEAST_DISK_BYTES:
        return Finding(WARN, found, f"{pairs}; choose --out elsewhere")
    return Finding(OK, f"{found}: {pairs}")


def check_gpu() -> Finding:
    """Check whether torch sees the GPU that the driver sees."""
    driver = ""
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        driver = run(["nvidia-smi", query, "--format=csv,noheader"], 20).output
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
