"""What is freed is kept, in a process of its own: the setting stays."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from training.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def step():
    held = [torch.ones(2**24) for _ in range(2)]  # 64 MiB each: glibc never keeps so large ones

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):  # till each block has a place
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def faults(choice: str) -> int:
    command = [sys.executable, "-c", FAULTS, choice]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_kept():
    assert faults("keep") < 1000 < faults("leave")
