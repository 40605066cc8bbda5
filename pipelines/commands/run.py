"""crossview run: a whole recipe."""

from __future__ import annotations

import argparse
from typing import Any

from generation.plain import merge
from pipelines.commands import options as shared
from pipelines.config import parse_overrides


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "run",
        help="run a recipe: pairs, pre-training, report",
        description="Run a recipe (a YAML file, or one of ours by name: demo, paper): render "
        "pairs, pre-train, report. What is up to date is not done again. SIGTERM, or Ctrl-C once, "
        "saves training after the step at hand and exits with 0.",
        epilog="example: crossview run demo --scenes 'scans/*.glb'",
    )
    parser.set_defaults(command=run)
    parser.add_argument("recipe", help="YAML file, or the name of one of our recipes")
    shared.add_pairs(parser, scenes="other scenes than the recipe's", of_recipe=True)
    parser.add_argument(
        "--until",
        choices=("render", "pretrain", "report"),
        default="report",
        help="last stage to do",
    )
    shared.add_common(parser, "Recipe", config_file=False)
    shared.add_executor(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of all results")


def run(options: argparse.Namespace) -> int:
    """Do the stages that are not up to date."""
    from pipelines.recipe import load_recipe, run_recipe

    overrides = shared.nested(
        {
            **{f"render.{name}": value for name, value in shared.pairs_values(options).items()},
            "render.seed": options.seed,
            "pretrain.seed": options.seed,
            "out": options.out,
        }
    )
    recipe = load_recipe(options.recipe, merge(overrides, parse_overrides(options.set)))
    failures = run_recipe(recipe, shared.executor_of(options), until=options.until)
    return shared.report_failures(failures)
