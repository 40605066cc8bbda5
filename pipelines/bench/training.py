"""Measure pre-training: pairs a second, how much of the chip they use, and where the time goes."""

from __future__ import annotations

import logging
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from generation.bounds import require
from generation.pairs import PairConfig
from generation.plain import merge
from generation.shards.reader import ShardIndex, ShardReader
from generation.shards.schema import META, VIEWS, Sidecar
from generation.shards.writer import open_shard
from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs
from pipelines.executors.choice import make_executor
from pipelines.pretraining.configuration import pretrain_config
from pipelines.tables import format_table
from training.config import PretrainConfig
from training.device import device_name, peak_memory_gib, resolved_precision
from training.distributed import join
from training.metrics_log import METRICS_NAME, read_lines
from training.model.croco import CroCo
from training.optim import num_masked
from training.step_timing import StepTimes, listen
from training.trainer import pretrain

WINDOWS = 4
"""The run is cut into so many; the first warms up, the median of the others counts."""
CPU_BATCH = 16
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}
"""Dense bfloat16 products by the vendors' data sheets, by a part of the device's name."""
_LESS_THAN_ITS_NAME = re.compile(r"\b(MIG|Laptop|D)\b")
"""Slices of a device, and weaker ones called after it."""


def bench_train(values: dict[str, Any], num_steps: int) -> str:
    """Train for some steps, and return tables of what that took.

    values: of a PretrainConfig, as pretrain_config takes them; without data.path, a few generated
    pairs are trained on again and again. The mask stays at its last ratio, and nothing is
    validated on the way.
    """
    require(num_steps >= WINDOWS, "steps", num_steps, f"at least {WINDOWS}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(values, num_steps, folder)
        with join(config.device) as process:
            device, precision = process.device, resolved_precision(config.precision, process.device)
        if not values.get("data", {}).get("path"):
            size = round(config.model.image_size * 256 / 224)
            write_repeated_pairs(config.data.path, 2 * config.optim.batch_size, size)
        times = StepTimes(device)
        with listen(times), _quiet("training"):
            pretrain(config, folder / "run")
        records = read_lines(folder / "run" / METRICS_NAME)
    windows = [line for line in records if line["kind"] == "train"][1:]
    rate = statistics.median(line["pairs_per_s"] for line in windows)
    waited = statistics.median(line["data_wait_share"] for line in windows)
    flops = flops_a_pair(config)
    peak, source = peak_tflops(device, precision)
    step_ms = 1000 * config.optim.batch_size / rate
    row = (
        f"{rate:.4g}", f"{step_ms:.4g}", f"{rate * flops / 1e12:.3g}",
        f"{rate * flops / 1e12 / peak:.1%}", f"{waited:.1%}", f"{peak_memory_gib(device):.1f}",
    )  # fmt: skip
    headers = ("pairs/s", "ms/step", "TFLOP/s", "of peak", "data wait", "peak GiB")
    seconds = times.a_step(num_steps)
    total = sum(seconds.values())
    parts = [(part, f"{1000 * each:.4g}", f"{each / total:.1%}") for part, each in seconds.items()]
    return "\n\n".join(
        (
            f"{values.get('preset', 'base')}: batch {config.optim.batch_size}, {precision}"
            f"{', compiled' if config.compile else ''}, {flops / 1e9:.4g} GFLOP a pair\n"
            f"{device_name(device)}, torch {torch.__version__}; peak {peak:.4g} TFLOP/s ({source})",
            format_table([row], headers),
            format_table(parts, ("part of a step", "ms", "share")),
        )
    )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Log nothing below warnings."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _config(values: dict[str, Any], num_steps: int, folder: Path) -> PretrainConfig:
    measured = {
        "optim": {"max_steps": num_steps},
        "mask": {"ratio_start": None},
        "validation": {"every_steps": 0, "num_pairs": 2},
        "log_every_steps": num_steps // WINDOWS,
        "checkpoint_every_steps": num_steps,
    }
    values = merge(values, measured)
    if not values.get("data", {}).get("path"):
        values = merge(values, {"data": {"path": str(folder / "pairs")}})
    config = pretrain_config(values, source="bench-train")
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and "batch_size" not in values.get("optim", {}):
        few = {"optim": {"batch_size": min(CPU_BATCH, config.optim.batch_size)}}
        config = pretrain_config(merge(values, few), source="bench-train")
    return config


def write_repeated_pairs(folder: Path, num_pairs: int, image_size: int) -> None:
    """Write a dataset of two generated rooms, num_pairs each, of which only 8 are different."""
    endings = (*VIEWS, META)
    config = RenderPairsConfig(
        scenes=("procedural:0-1",),
        pairs_per_scene=8,
        pairs=PairConfig(image_size=(image_size, image_size)),
        renderer="embree",
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as few, make_executor("serial") as executor:
        index = render_pairs(config, Path(few), executor).index
        reader = ShardReader(index)
        entries = []
        for number, entry in enumerate(index.shards):
            path = folder / entry.name
            with open_shard(path, entry.scene) as writer:
                for sample in range(num_pairs):
                    _, members = reader.read(number, sample % entry.count, endings)
                    writer.add(f"{entry.scene}-{sample:06d}", dict(zip(endings, members)))
            assert writer.entry
            sidecar = Sidecar(
                entry=writer.entry, task={}, samples=writer.samples, attempts=0, rejections={}
            )
            sidecar.write(path)
            entries.append(writer.entry)
    ShardIndex(folder=folder, config=index.config, shards=tuple(entries)).write()


def flops_a_pair(config: PretrainConfig) -> float:
    """Return the floating-point operations of a pair's forward and backward pass.

    Matrix products only, counted by torch, a multiplication and an addition as two.
    """
    model = CroCo(config.model)
    size, num_patches = config.model.image_size, config.model.num_patches
    image = torch.zeros(1, 3, size, size)
    mask = torch.arange(num_patches)[None] < num_masked(config.mask.ratio, num_patches)
    with FlopCounterMode(display=False) as counter:
        model(image, image, mask).sum().backward()
    return float(counter.get_total_flops())


def peak_tflops(device: torch.device, precision: str) -> tuple[float, str]:
    """Return the most TFLOP/s of a device, and how they are known.

    By its data sheet where we have it, else the best of ten large matrix products.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if precision == "bfloat16" and not _LESS_THAN_ITS_NAME.search(name):
        for part, peak in PEAK_TFLOPS.items():
            if all(word in name for word in part.split()):
                return peak, "data sheet"
    size = 8192 if device.type == "cuda" else 2048
    # float32 is multiplied as the run that was measured has left it: in TF32 where that was asked.
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e12, f"product of {size} x {size} matrices"
