"""Options that several commands share, and how options become a configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.plain import merge
from generation.renderers.choice import KINDS
from pipelines.config import MANIFESTS, load_yaml, parse_overrides
from pipelines.executors.choice import EXECUTORS

WEIGHTS = (
    "a run's folder or one of its checkpoints, a published checkpoint, or a folder of "
    "model.safetensors and config.json"
)
RENDERERS = f"{', '.join(KINDS)} or auto: gl on a GPU, else embree"
EXIT_BAD_INPUT = 2
_CLEARED = object()


def add_pairs(parser: argparse.ArgumentParser, scenes: str, *, of_recipe: bool = False) -> None:
    """Add what says which pairs are made.

    scenes: help of --scenes. of_recipe: what is not given is a recipe's.
    """

    def default(text: str) -> str:
        return "default: the recipe's" if of_recipe else f"default: {text}"

    parser.add_argument("--scenes", nargs="+", action="extend", metavar="GLOB", help=scenes)
    parser.add_argument(
        "--up",
        help=f"up axis of meshes without a stage configuration: x y z -x -y -z ({default('y')})",
    )
    levels = load_yaml(MANIFESTS / "overlap_levels.yaml")
    of_each = "" if of_recipe else ", of each level with --levels"
    parser.add_argument(
        "--num-pairs",
        type=int,
        metavar="N",
        help=f"pairs in all{of_each} ({default('1000 per scene')})",
    )
    parser.add_argument(
        "--overlap",
        metavar="LO-HI",
        help=f"band of co-visibility ({default('0.4-0.6')}); LO-HI:flat spreads pairs evenly over "
        f"it; or a level's name: {', '.join(levels)} (official: CroCo's published rule)",
    )
    parser.add_argument(
        "--renderer",
        metavar="NAME",
        help=f"{RENDERERS} ({default('auto')})",
    )


def pairs_values(options: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration values that add_pairs' options give, by dotted name."""
    return {
        "scenes": options.scenes,
        "up": options.up,
        "num_pairs": options.num_pairs,
        # What the file says of the other way to count gives way.
        "pairs_per_scene": None if options.num_pairs is None else _CLEARED,
        "pairs.overlap": options.overlap,
        "renderer": options.renderer,
    }


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add --weights, of one model."""
    parser.add_argument("--weights", type=on_disk, required=True, metavar="PATH", help=WEIGHTS)


def on_disk(text: str) -> Path:
    """Return the path of what lies on this machine's disks, for argparse's type."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"expected a folder or file of this machine, got {text}; copy it from there first, "
            "or there afterwards"
        )
    return Path(text)


def add_common(
    parser: argparse.ArgumentParser, config_class: str, *, config_file: bool = True
) -> None:
    """Add --config, --seed and --set; without a file, the configuration is a recipe."""
    if config_file:
        parser.add_argument(
            "--config", type=Path, metavar="FILE", help="YAML file; options go first"
        )
    default = "0" if config_file else "the recipe's"
    parser.add_argument(
        "--seed", type=int, metavar="S", help=f"same seed, same result (default: {default})"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"any field of {config_class}, by its dotted name",
    )


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add --executor, --ray-address, --workers and what a task may cost."""
    parser.add_argument(
        "--executor",
        choices=tuple(EXECUTORS),
        default="ray",
        help="who does the work (default ray)",
    )
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="a running Ray cluster ('auto': find it)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="most tasks at once (default: all cores)"
    )
    parser.add_argument(
        "--task-timeout",
        type=float,
        metavar="SECONDS",
        help="longest time for one shard; then its scene is given up (default 1800)",
    )
    parser.add_argument(
        "--worker-memory",
        type=float,
        metavar="GIB",
        help="most memory of a worker; a scene that needs more is given up (default 8)",
    )


def executor_of(options: argparse.Namespace) -> Any:
    """Return the context manager of the executor that add_executor's options ask for."""
    from pipelines.executors.choice import make_executor
    from pipelines.executors.worker import Limits

    given = {"seconds": options.task_timeout, "memory_gib": options.worker_memory}
    return make_executor(
        options.executor,
        address=options.ray_address,
        num_workers=options.workers,
        limits=Limits(**{name: value for name, value in given.items() if value is not None}),
    )


def required(values: dict[str, Any], key: str, option: str) -> None:
    """Raise CrossviewError, naming the option, unless values have its dotted key."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if found is None:
        raise CrossviewError(f"{option}: missing; give it, or {key} in the file of --config")


def config_values(options: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's values: the file's, then the options', then those of --set."""
    values = load_yaml(options.config) if options.config else {}
    return merge(merge(values, nested(given)), parse_overrides(options.set))


def nested(given: dict[str, Any]) -> dict[str, Any]:
    """Turn {"a.b": value} into nested dictionaries, without the options that were not given."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            value = None if value is _CLEARED else value
            for name in reversed(key.split(".")):
                value = {name: value}
            values = merge(values, value)
    return values


def report_failures(failures: Sequence[str], of: str = "scenes") -> int:
    """Print the scenes, or other things, that failed, a line each; return the exit status."""
    if not failures:
        return 0
    print(f"crossview: {len(failures)} of the {of} failed:", file=sys.stderr)
    for line in failures:
        print(f"  {line}", file=sys.stderr)
    return EXIT_BAD_INPUT
