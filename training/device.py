"""What a device is called, which precision suits it, and how much memory it has held."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Literal

import torch

from generation.machine import processor


def device_name(device: torch.device) -> str:
    """Return what a device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of {processor()}"


def resolved_precision(
    precision: Literal["auto", "float32", "tf32", "bfloat16"], device: torch.device
) -> Literal["float32", "tf32", "bfloat16"]:
    """Return what auto means on this device; tf32 is float32 where nothing multiplies it."""
    if precision == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.is_tf32_supported()):
        return "float32"
    return precision


def allow_tf32(allowed: bool) -> None:
    """Have GPUs round what they multiply of float32 to TF32, in products and convolutions, or not.

    PyTorch has convolutions do so unless it is told otherwise.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply bfloat16; else it is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory held so far: of tensors on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30  # bytes there, KiB elsewhere
