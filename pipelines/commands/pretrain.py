"""crossview pretrain: shards to checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "pretrain",
        help="pre-train CroCo on shards of pairs",
        description="Pre-train CroCo on shards of pairs. The same command goes on from the last "
        "checkpoint. Several processes: torchrun --nproc-per-node N -m pipelines.cli pretrain ...",
        epilog="example: crossview pretrain --data out/pairs --preset tiny --out out/pretrain",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--val-data", type=Path, metavar="DIR", help="another one to validate on")
    parser.add_argument("--preset", help="tiny, small (CPU), base (the paper's); default base")
    shared.add_common(parser, "PretrainConfig")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")


def run(options: argparse.Namespace) -> int:
    """Train, print the last metrics."""
    from pipelines.recipe import pretrain_config
    from training.trainer import pretrain

    values = shared.config_values(
        options,
        {
            "preset": options.preset,
            "data.path": options.data and str(options.data),
            "data.val_path": options.val_data and str(options.val_data),
            "seed": options.seed,
        },
    )
    config = pretrain_config(values, source=str(options.config or "pretrain"))
    result = pretrain(config, options.out)
    for name, value in result.metrics.items():
        print(f"{name:32} {value:.6g}")
    print(f"checkpoint: {result.checkpoint}")
    return 0
