"""The crossview command."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from generation.errors import CrossviewError
from generation.plain import merge
from pipelines.config import build, load_yaml, parse_overrides

EXIT_BAD_INPUT = 2
_CLEARED = object()


def main(arguments: list[str] | None = None) -> int:
    """Run a crossview command; return its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, force=True
    )
    try:
        status: int = options.command(options)
        return status
    except CrossviewError as error:
        print(f"crossview: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.filename is None:
            raise
        print(f"crossview: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("crossview: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossview",
        description="Co-visible view pairs from indoor scans, and CroCo pre-training on them.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_render_pairs(commands)
    _add_pretrain(commands)
    _add_run(commands)
    _add_bench(commands)
    return parser


def _add_render_pairs(commands: Any) -> None:
    parser = commands.add_parser(
        "render-pairs",
        help="render pairs of co-visible views into WebDataset shards",
        description="Render pairs of views that overlap by about half into WebDataset shards. The "
        "same command goes on where an earlier run stopped.",
        epilog="example: crossview render-pairs --scenes 'scans/*.glb' procedural:0-9 "
        "--num-pairs 1000 --overlap 0.4-0.6 --out out/pairs",
    )
    parser.set_defaults(command=_render_pairs)
    parser.add_argument(
        "--scenes",
        nargs="+",
        metavar="GLOB",
        help="mesh files (.glb .gltf .ply .obj, NAME.stage_config.json), folders, globs, or "
        "procedural:FIRST-LAST for rooms that we generate",
    )
    parser.add_argument(
        "--up", help="up axis of meshes without a stage configuration: x y z -x -y -z (default y)"
    )
    parser.add_argument(
        "--num-pairs", type=int, metavar="N", help="pairs in all (default: 1000 a scene)"
    )
    parser.add_argument(
        "--overlap",
        metavar="LO-HI",
        help="band of co-visibility, or 'official' for CroCo's published rule (default 0.4-0.6)",
    )
    parser.add_argument("--depth", action="store_true", default=None, help="also store depth maps")
    parser.add_argument(
        "--image-size", type=int, metavar="PX", help="height and width (default 256)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="also read finished shards and make damaged ones anew"
    )
    _add_common(parser, "RenderPairsConfig")
    _add_executor(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the dataset"
    )


def _render_pairs(options: argparse.Namespace) -> int:
    from pipelines.executors import make_executor
    from pipelines.render_pairs import RenderPairsConfig, render_pairs, summary_table

    size = options.image_size
    values = _config_values(
        options,
        {
            "scenes": options.scenes,
            "up": options.up,
            "num_pairs": options.num_pairs,
            "pairs_per_scene": _cleared_by(options.num_pairs),
            "seed": options.seed,
            "pairs.overlap": options.overlap,
            "pairs.image_size": None if size is None else [size, size],
            "shards.depth": options.depth,
        },
    )
    config = build(RenderPairsConfig, values, source=options.config or "render-pairs")
    with make_executor(
        options.executor, address=options.ray_address, num_workers=options.workers
    ) as executor:
        result = render_pairs(config, options.out, executor, verify=options.verify)
    print(summary_table(result))
    print(f"{result.index.num_pairs} pairs in {len(result.index.shards)} shards: {options.out}")
    return _report_failures(result.failures)


def _add_pretrain(commands: Any) -> None:
    parser = commands.add_parser(
        "pretrain",
        help="pre-train CroCo on shards of pairs",
        description="Pre-train CroCo on shards of pairs. The same command goes on from the last "
        "checkpoint. Several processes: torchrun --nproc-per-node N -m pipelines.cli pretrain ...",
        epilog="example: crossview pretrain --data out/pairs --preset tiny --out out/pretrain",
    )
    parser.set_defaults(command=_pretrain)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--val-data", type=Path, metavar="DIR", help="another one to validate on")
    parser.add_argument("--preset", help="tiny, small (CPU), base (the paper's); default base")
    _add_common(parser, "PretrainConfig")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")


def _pretrain(options: argparse.Namespace) -> int:
    from pipelines.recipe import pretrain_config
    from training.trainer import pretrain

    values = _config_values(
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


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a recipe: pairs, pre-training, report",
        description="Run a recipe (a YAML file, or one of ours by name: demo, paper): render "
        "pairs, pre-train, report. What is up to date is not done again.",
        epilog="example: crossview run demo --scenes 'scans/*.glb'",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("recipe", help="YAML file, or the name of one of our recipes")
    parser.add_argument(
        "--scenes", nargs="+", metavar="GLOB", help="other scenes than the recipe's"
    )
    parser.add_argument(
        "--up", help="up axis of meshes without a stage configuration: x y z -x -y -z (default y)"
    )
    parser.add_argument("--num-pairs", type=int, metavar="N", help="pairs in all")
    parser.add_argument("--overlap", metavar="LO-HI", help="band of co-visibility")
    parser.add_argument(
        "--until",
        choices=("render", "pretrain", "report"),
        default="report",
        help="last stage to do",
    )
    _add_common(parser, "Recipe", config_file=False)
    _add_executor(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of all results")


def _run(options: argparse.Namespace) -> int:
    from pipelines.executors import make_executor
    from pipelines.recipe import load_recipe, run_recipe

    overrides = _nested(
        {
            "render.scenes": options.scenes,
            "render.up": options.up,
            "render.num_pairs": options.num_pairs,
            "render.pairs_per_scene": _cleared_by(options.num_pairs),
            "render.pairs.overlap": options.overlap,
            "render.seed": options.seed,
            "pretrain.seed": options.seed,
            "out": options.out and str(options.out),
        }
    )
    recipe = load_recipe(options.recipe, merge(overrides, parse_overrides(options.set)))
    with make_executor(
        options.executor, address=options.ray_address, num_workers=options.workers
    ) as executor:
        failures = run_recipe(recipe, executor, until=options.until)
    return _report_failures(failures)


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure pair generation",
        description="Measure pair generation on one core and print a table of rates and shares.",
    )
    parser.set_defaults(command=_bench)
    parser.add_argument(
        "--scenes",
        nargs="+",
        metavar="GLOB",
        help="scenes to measure (default: procedural:0, a made scan of 1.7 M triangles, and the "
        "real scenes in ../shared/scenes where there are any)",
    )
    parser.add_argument("--num-pairs", type=int, default=100, metavar="N", help="pairs a scene")


def _bench(options: argparse.Namespace) -> int:
    from pipelines.bench import bench

    print(bench(options.scenes, options.num_pairs))
    return 0


def _add_common(
    parser: argparse.ArgumentParser, config_class: str, *, config_file: bool = True
) -> None:
    if config_file:
        parser.add_argument(
            "--config", type=Path, metavar="FILE", help="YAML file; options go first"
        )
    parser.add_argument("--seed", type=int, metavar="S", help="same seed, same result (default 0)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"any field of {config_class}, by its dotted name",
    )


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=("ray", "serial"),
        default="ray",
        help="who does the work (default ray)",
    )
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="a running Ray cluster ('auto': find it)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="most tasks at once (default: all cores)"
    )


def _cleared_by(option: Any) -> Any:
    """Return what makes a field of the file None where an option stands in its place."""
    return None if option is None else _CLEARED


def _config_values(options: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's values: the file's, then the options', then those of --set."""
    values = load_yaml(options.config) if options.config else {}
    return merge(merge(values, _nested(given)), parse_overrides(options.set))


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    """Turn {"a.b": value} into nested dictionaries, without the options that were not given."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            value = None if value is _CLEARED else value
            for name in reversed(key.split(".")):
                value = {name: value}
            values = merge(values, value)
    return values


def _report_failures(failures: list[str]) -> int:
    if not failures:
        return 0
    print(f"crossview: {len(failures)} of the scenes failed:", file=sys.stderr)
    for line in failures:
        print(f"  {line}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
