"""crossview bench: how fast pairs are made."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands.options import RENDERERS


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "bench",
        help="measure pair generation",
        description="Measure pair generation and print tables: rates and shares on one core, "
        "cost by level of overlap, one and two workers, start-up.",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--scenes",
        nargs="+",
        action="extend",
        metavar="GLOB",
        help="scenes to measure (default: procedural:0, a made scan of 1.7 M triangles, and the "
        "real scenes in ../shared/scenes where there are any)",
    )
    parser.add_argument(
        "--num-pairs", type=int, default=100, metavar="N", help="pairs of each scene (default 100)"
    )
    parser.add_argument(
        "--renderer", default="embree", metavar="NAME", help=f"{RENDERERS} (default embree)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from pipelines.bench.pairs import bench

    print(bench(options.scenes, options.num_pairs, options.renderer))
    return 0
