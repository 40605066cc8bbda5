"""crossview bench-data: how fast pairs come from shards to batches."""

from __future__ import annotations

import argparse
from typing import Any

from generation.locations import location


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "bench-data",
        help="measure the loading of pairs",
        description="Print pairs/s of one core from shards to cropped batches, beside Pillow, "
        "torchvision and a DataLoader on the same shards; how long a run on 1.8 M pairs takes "
        "until it knows its first batch, and the memory that it costs; and how well an epoch of "
        "them is shuffled.",
        epilog="example: crossview bench-data --data pairs",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--data",
        type=location,
        metavar="DIR",
        help="folder or URL of the dataset (default: generated pairs of 256 x 256)",
    )
    parser.add_argument(
        "--num-pairs", type=int, default=4096, metavar="N", help="pairs to read (default 4096)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the tables."""
    from pipelines.bench.data import bench_data

    print(bench_data(options.data, options.num_pairs))
    return 0
