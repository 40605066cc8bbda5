"""crossview evaluate: what pre-trained weights are worth on downstream tasks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from generation.bounds import require
from generation.errors import CrossviewError
from pipelines.commands import options as shared
from pipelines.config import build, parse_overrides

if TYPE_CHECKING:
    from pipelines.evaluation.benchmarks import Benchmark


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "evaluate",
        help="fine-tune and judge models on downstream tasks",
        description="Fine-tune each model on each task with several seeds, judge it, and write one "
        "table (results.md, .json, .png) and pictures of predictions. The same command goes on "
        "from what is there.",
        epilog="example: crossview evaluate --weights out/pretrain --scratch --task depth,flow "
        "--data pairs --seeds 3 --out out/evaluation",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[LABEL=]PATH",
        help=f"{shared.WEIGHTS}; once for each model; {{seed}} in PATH stands for 0, 1, ... of "
        "--seeds",
    )
    parser.add_argument(
        "--scratch",
        nargs="?",
        const=True,
        default=False,
        metavar="SHAPE",
        help="judge random weights too, of the first --weights' shape or, where SHAPE is given, of "
        "that preset's or of what lies at that path",
    )
    parser.add_argument(
        "--task", required=True, metavar="NAME,...", help="tasks; an unknown name lists all of them"
    )
    parser.add_argument("--data", metavar="DIR", help="folder or URL of our shards, with depth")
    parser.add_argument(
        "--val-data",
        action="append",
        default=[],
        metavar="[LABEL=]DIR",
        help="other shards to judge on, all of them; their scenes are not trained on; once for "
        "each, one without a label",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="LAYOUT=DIR",
        help="a public dataset, by its layout; once for each",
    )
    parser.add_argument(
        "--val-dataset",
        action="append",
        default=[],
        metavar="LAYOUT=DIR",
        help="a public dataset to judge on, where another one is trained on; once for each",
    )
    parser.add_argument(
        "--recipe",
        default="short",
        help="how to fine-tune: short (default) or published; classification also linear",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="times each is fine-tuned (default 1)"
    )
    parser.add_argument("--num-train", type=int, metavar="N", help="most training examples")
    parser.add_argument("--num-val", type=int, metavar="N", help="most examples to judge on")
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes that read examples (default: beside a GPU 8, as far as there are cores; "
        "else 0)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any field of the recipe, for all tasks",
    )
    parser.add_argument(
        "--out", type=shared.on_disk, required=True, metavar="DIR", help="for the results"
    )


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the table."""
    from pipelines.evaluation.cells import evaluate_all
    from pipelines.evaluation.contenders import contenders
    from pipelines.evaluation.report import write_report

    for name, least in (("seeds", 1), ("num_train", 1), ("num_val", 1), ("num_workers", 0)):
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        require(value is None or value >= least, option, value, f"at least {least}")
    chosen = chosen_benchmarks(options)
    models = contenders(options.weights, seeds=options.seeds, scratch=options.scratch)
    cells, failures = evaluate_all(
        chosen,
        models,
        seeds=options.seeds,
        out=options.out,
        device=options.device,
        num_train=options.num_train,
        num_val=options.num_val,
        num_workers=options.num_workers,
    )
    print(write_report(options.out, "Evaluation", chosen, models, cells, failures))
    print(f"\n{options.out / 'results.md'}, .json, .png")
    return shared.report_failures(list(map(str, failures)), of="results")


def chosen_benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    """Return what the command's options ask for; nothing is opened."""
    from generation.locations import location
    from generation.plain import merge, to_plain
    from pipelines.evaluation.benchmarks import (
        SHARDS,
        Source,
        benchmarks,
        named_sources,
        shard_sources,
    )
    from training.downstream.recipe import Recipe
    from training.downstream.task import Task
    from training.downstream.tasks import named_tasks

    overrides = parse_overrides(options.set)

    def recipe(task: Task) -> Recipe:
        if options.recipe not in task.recipes:
            raise CrossviewError(
                f"--recipe {options.recipe}: {task.name} has {', '.join(task.recipes)}"
            )
        values = merge(to_plain(task.recipes[options.recipe]), overrides)
        return build(Recipe, values, source=f"recipe of {task.name}")

    ours = [Source(layout=SHARDS, root=location(options.data))] if options.data else []
    return benchmarks(
        named_tasks(options.task),
        ours + named_sources("--dataset", options.dataset),
        shard_sources("--val-data", options.val_data)
        + named_sources("--val-dataset", options.val_dataset),
        recipe,
    )
