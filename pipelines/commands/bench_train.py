"""crossview bench-train: how fast a model is trained."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "bench-train",
        help="measure pre-training",
        description="Train for some steps, and print pairs/s, the share of the chip's peak, the "
        "wait for data, memory, and where a step's time goes.",
        epilog="example: crossview bench-train --preset base --set compile=true",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--data", metavar="DIR", help="dataset (default: a few generated pairs)")
    parser.add_argument("--preset", help="what is trained (default base)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pairs a step (default: the preset's; CPU: 16)"
    )
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="steps (default 16)")
    shared.add_common(parser, "PretrainConfig")


def run(options: argparse.Namespace) -> int:
    """Print the tables."""
    from pipelines.bench.training import bench_train

    values = shared.config_values(
        options,
        {
            "preset": options.preset,
            "data.path": options.data,
            "optim.batch_size": options.batch_size,
            "seed": options.seed,
        },
    )
    print(bench_train(values, options.steps))
    return 0
