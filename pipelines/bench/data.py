"""Measure the data path: pairs a second from shards to batches, a large index, and shuffling."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from generation.bounds import require
from generation.machine import processor
from generation.shards.reader import ShardIndex
from generation.shards.schema import VIEWS, ShardEntry
from pipelines.bench.training import write_repeated_pairs
from pipelines.tables import format_table
from training.data import DataConfig, open_split
from training.loader import Requests, batches
from training.order import Batches, Int64, Schedule, Share, epoch_order
from training.pair_reader import PairReader
from training.validation import ValidationConfig, choose_pairs, samples_of_scenes

CROP = 224
BATCH = 64
LARGE = (256,) * 7032
"""Shard sizes of the index of 1.8 M pairs."""
EPOCHS = 400
"""As long as the published schedule."""


def bench_data(data: Path | None, num_pairs: int) -> str:
    """Read pairs in training order, ours and the usual way, and return tables.

    One process decodes in both, on one core. Each way first reads a batch that does not count.
    """
    require(num_pairs >= BATCH, "--num-pairs", num_pairs, f"at least {BATCH}")
    torch.set_num_threads(1)
    with ExitStack() as stack:
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_repeated_pairs(data, 512, 256)
        index = ShardIndex.open(data)
        sizes = tuple(entry.count for entry in index.shards)
        schedule = Schedule(
            shares=(Share(shard_sizes=sizes),),
            batch_size=min(BATCH, index.num_pairs),
            seed=0,
            window=DataConfig(path=data).window,
        )
        num_steps = num_pairs // schedule.batch_size + 1
        ours = _pairs_per_s(
            batches(
                index,
                CROP,
                Requests(schedule, 0, num_steps, 0, 1),
                DataConfig(path=data),
                on_gpu=False,
            )
        )
        order = Batches(schedule, num_steps)
        samples = np.concatenate([order.samples(step) for step in range(num_steps)])
        usual, cropping = (
            _pairs_per_s(_usual_loader(index, samples, schedule.batch_size, jitters=jitters))
            for jitters in (True, False)
        )
        return "\n\n".join(
            (
                f"one core of {processor()}, {CROP} x {CROP} crops",
                format_table(
                    [
                        ("crossview, which jitters on the device", f"{ours:.0f}", ""),
                        _row("Pillow, crop, jitter, normalise, DataLoader", usual, ours),
                        _row("Pillow, crop, DataLoader: the same work", cropping, ours),
                    ],
                    ("from shards to batches", "pairs/s", "ours is"),
                ),
                _large_index(),
                f"shuffling of {sum(LARGE)} pairs\n{describe_shuffling(LARGE, schedule.window)}",
            )
        )


def _row(name: str, rate: float, ours: float) -> tuple[str, str, str]:
    return name, f"{rate:.0f}", f"{ours / rate:.1f} x"


def _pairs_per_s(loader: Iterable[Tensor]) -> float:
    incoming = iter(loader)
    next(incoming)
    start, pairs = time.perf_counter(), 0
    for batch in incoming:
        pairs += batch.shape[1]
    return pairs / (time.perf_counter() - start)


class _UsualPairs(Dataset[Tensor]):
    """What most code does: Pillow decodes, torchvision transforms image by image."""

    def __init__(
        self, index: ShardIndex, samples: np.ndarray, transform: transforms.Compose
    ) -> None:
        self._pairs, self._samples = PairReader(index, CROP), samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Tensor:
        members = self._pairs.members(int(self._samples[number]), VIEWS)
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in members]
        return torch.stack([self._transform(image) for image in images])


def _usual_loader(
    index: ShardIndex, samples: np.ndarray, batch_size: int, *, jitters: bool
) -> Iterable[Tensor]:
    """Yield (2, b, 3, S, S): bytes, or what a model takes where the loader jitters as well."""
    crop, to_bytes = transforms.RandomCrop(CROP), transforms.PILToTensor()
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
    normalise = transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    steps = [crop, jitter, transforms.ToTensor(), normalise] if jitters else [crop, to_bytes]
    pairs = _UsualPairs(index, samples, transforms.Compose(steps))
    loader: DataLoader[Tensor] = DataLoader(pairs, batch_size=batch_size)
    return (batch.transpose(0, 1) for batch in loader)


def _large_index() -> str:
    """Start runs on a small and a large dataset, each in a new process, up to a first batch."""
    rows = []
    for sizes in ((256,) * 8, LARGE):
        with tempfile.TemporaryDirectory() as folder:
            _write_hollow_dataset(Path(folder), sizes)
            done = subprocess.run(
                [sys.executable, "-c", _OPEN, folder], capture_output=True, text=True, check=True
            )
        seconds, memory_mb = done.stdout.split()
        rows.append((f"{sum(sizes)}", f"{len(sizes)}", seconds, memory_mb))
    return format_table(rows, ("pairs", "shards", "s to check and order", "peak MB of the process"))


_OPEN = "import sys; from pipelines.bench.data import open_and_order; open_and_order(sys.argv[1])"


def open_and_order(folder: str) -> None:
    """Print the seconds until a run knows its first batch's samples, and this process's peak MB.

    That is to read and hash the index, to look at every shard's size, to hold scenes out, to choose
    what to validate on, and to order an epoch.
    """
    start = time.perf_counter()
    config = DataConfig(path=Path(folder))
    split = open_split(config)
    choose_pairs(samples_of_scenes(split.val), ValidationConfig().num_pairs)
    schedule = Schedule(shares=split.shares, batch_size=256, seed=0, window=config.window)
    Batches(schedule, math.ceil(EPOCHS * schedule.steps_per_epoch)).samples(0)
    seconds = time.perf_counter() - start
    # Not getrusage: its maximum begins with what the parent process held.
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"{seconds:.2f} {peak_mb:.0f}")


def _write_hollow_dataset(folder: Path, sizes: tuple[int, ...]) -> None:
    """Write an index and its shards, files that are all hole: nothing here reads them."""
    entries = tuple(
        ShardEntry(
            name=f"scene{i // 4:05d}-{i % 4:04d}.tar",
            scene=f"scene{i // 4:05d}",
            count=count,
            size_bytes=count * 60000,
            sha256=f"{i:064x}",
        )
        for i, count in enumerate(sizes)
    )
    for entry in entries:
        with open(folder / entry.name, "wb") as tar:
            tar.truncate(entry.size_bytes)
    ShardIndex(folder=folder, config={}, shards=entries).write()


def describe_shuffling(shard_sizes: Sequence[int], window: int) -> str:
    """Say how far apart an epoch puts neighbours of one scene, and a true permutation beside it.

    Also how many shards a batch of 256 shows, which is what a gradient notices.
    """
    lines = []
    for name, width in (("window", window), ("permutation", sum(shard_sizes))):
        order = epoch_order(shard_sizes, 0, 0, width)
        distances = neighbour_distances(order, shard_sizes)
        shard = np.searchsorted(np.cumsum(shard_sizes), order, side="right")
        batches = shard[: len(shard) // 256 * 256].reshape(-1, 256)
        shown = np.mean([len(np.unique(batch)) for batch in batches[:1000]]) if len(batches) else 0
        lines.append(
            f"{name} of {width}: neighbours {np.median(distances):.0f} places apart (median), "
            f"{np.mean(distances < 256):.2%} within 256; {shown:.1f} shards in a batch of 256"
        )
    return "\n".join(lines)


def neighbour_distances(order: Int64, shard_sizes: Sequence[int]) -> Int64:
    """Return how many places apart consecutive samples of a shard are visited, for all of them."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    distances = np.abs(np.diff(place))
    last_of_shard = np.cumsum(shard_sizes)[:-1] - 1
    return np.delete(distances, last_of_shard)
