"""crossview pretrain: shards to checkpoints."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from generation.bounds import require
from generation.errors import CrossviewError
from pipelines.commands import options as shared
from training.presets import PRESETS

if TYPE_CHECKING:
    from training.config import PretrainConfig


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "pretrain",
        help="pre-train CroCo on shards of pairs",
        description="Pre-train CroCo on shards of pairs. The same command goes on from the last "
        "checkpoint. SIGTERM, or Ctrl-C once, saves after the step at hand and exits with 0; with "
        "--launcher ray SIGTERM alone does.",
        epilog="example: crossview pretrain --data out/pairs --preset tiny --out out/pretrain",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="folder or URL of the dataset; of more, with --set 'data.mixture=[{path: DIR}]'",
    )
    parser.add_argument("--val-data", metavar="DIR", help="another one to validate on")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(PRESETS)} (default croco_v1, which is base; tiny and small are for CPUs)",
    )
    parser.add_argument(
        "--init",
        type=shared.on_disk,
        metavar="PATH",
        help=f"weights to begin with, of the same model: {shared.WEIGHTS}",
    )
    shared.add_common(parser, "PretrainConfig")
    parser.add_argument(
        "--out", type=shared.on_disk, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument(
        "--launcher",
        choices=("torchrun", "ray"),
        help="train in several processes: of this and other machines, or of a Ray cluster",
    )
    parser.add_argument(
        "--nproc",
        type=int,
        metavar="N",
        help="processes on each machine (torchrun) or in all (ray); default: one a GPU",
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        metavar="N",
        help="how often all start again after one died, from the last checkpoint (default 3)",
    )
    parser.add_argument("--nnodes", type=int, metavar="N", help="machines (torchrun; default 1)")
    parser.add_argument(
        "--rendezvous",
        metavar="HOST:PORT",
        help="the first machine's address, the same on all machines (torchrun)",
    )
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="a running Ray cluster ('auto': find it)"
    )


_OF_LAUNCHER = {
    "torchrun": {
        "nproc": "num_processes",
        "nnodes": "num_machines",
        "rendezvous": "rendezvous",
        "max_restarts": "max_restarts",
    },
    "ray": {
        "nproc": "num_workers",
        "ray_address": "address",
        "max_restarts": "max_restarts",
    },
}
"""The options that each launcher knows, and what its function calls them."""


_LEAST = {"nproc": 1, "nnodes": 1, "max_restarts": 0}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _for_launcher(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was given for the launcher. Raises CrossviewError where it is another's."""
    known = {name for names in _OF_LAUNCHER.values() for name in names}
    given = {name: getattr(options, name) for name in sorted(known)}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() & _LEAST.keys():
        require(given[name] >= _LEAST[name], _option(name), given[name], f"at least {_LEAST[name]}")
    names = _OF_LAUNCHER.get(options.launcher, {})
    for name in given.keys() - names.keys():
        launchers = " or ".join(each for each, its in _OF_LAUNCHER.items() if name in its)
        raise CrossviewError(
            f"{_option(name)} {given[name]}: expected --launcher {launchers} with it, "
            f"got {options.launcher or 'no launcher, which is one process'}"
        )
    return {names[name]: value for name, value in given.items()}


def config_of(options: argparse.Namespace) -> PretrainConfig:
    """Return the configuration that the options give. Raises CrossviewError."""
    from pipelines.pretraining.configuration import pretrain_config

    first, *others = options.data or [None]
    if others:
        parts = ", ".join(f"{{path: {each}, weight: 1.0}}" for each in others)
        words = ["--data", first, "--set", f"data.mixture=[{parts}]"]
        raise CrossviewError(
            f"--data: expected one dataset, got {', '.join(options.data)}; to train on all of "
            f"them, give {shlex.join(words)}"
        )
    values = shared.config_values(
        options,
        {
            "preset": options.preset,
            "data.path": first,
            "data.val_path": options.val_data,
            "init": options.init,
            "seed": options.seed,
        },
    )
    shared.required(values, "data.path", "--data")
    return pretrain_config(values, source=str(options.config or "pretrain"))


def run(options: argparse.Namespace) -> int:
    """Train, print the last metrics."""
    from pipelines.pretraining.launch import print_result, train_here, train_in_processes

    config = config_of(options)
    for_launcher = _for_launcher(options)
    if options.launcher == "ray":
        from pipelines.pretraining.ray_train import train_on_ray

        print_result(train_on_ray(config, options.out, **for_launcher))
    elif options.launcher == "torchrun":
        train_in_processes(config, options.out, **for_launcher)
    else:
        train_here(config, options.out)
    return 0
