"""crossview verify: whether a dataset is whole and makes sense."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from generation.errors import first_few
from generation.locations import location
from generation.machine import num_cores
from pipelines.commands.options import EXIT_BAD_INPUT

if TYPE_CHECKING:
    from generation.shards.schema import ShardEntry
    from generation.shards.verify import ShardFindings, Verdict

NAMED = 3
"""Problems of one file that are spelt out."""


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "verify",
        help="check a dataset: hashes, counts, images, cameras, bands, duplicates",
        description="Check a dataset against its index and sidecars, and look into every pair: "
        "images and depth, cameras, co-visibility and its band, duplicates. Prints a table of what "
        "is wrong and what to do; the exit status is 2 where anything is.",
        epilog="example: crossview verify out/pairs",
    )
    parser.set_defaults(command=run)
    parser.add_argument("data", type=location, metavar="DIR", help="folder or URL of the dataset")
    parser.add_argument(
        "--quick", action="store_true", help="sizes, sidecars and hashes only; opens no image"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that share the shards (default: all cores)",
    )


def run(options: argparse.Namespace) -> int:
    """Verify, print the table and what to do."""
    from generation.shards.verify import verify_dataset

    workers = num_cores() if options.workers is None else options.workers
    verdict = verify_dataset(
        options.data, quick=options.quick, workers=workers, track=_with_progress
    )
    print(verdict_table(verdict))
    if not verdict.problems:
        return 0
    files = {problem.file for problem in verdict.problems}
    print(
        f"\n{len(verdict.problems)} problems in {len(files)} files of {options.data}; what to do:"
    )
    for mend in dict.fromkeys(problem.mend for problem in verdict.problems):
        print(f"- {mend}")
    return EXIT_BAD_INPUT


def verdict_table(verdict: Verdict) -> str:
    """Return a row a file with problems; where there are none, a row a scene."""
    from pipelines.tables import format_table

    if verdict.problems:
        problems: dict[str, list[str]] = {}
        for problem in verdict.problems:
            problems.setdefault(problem.file, []).append(problem.what)
        return format_table(
            [(file, len(what), first_few(what, NAMED, "; ")) for file, what in problems.items()],
            ("file", "problems", "what is wrong"),
        )
    scenes: dict[str, list[ShardEntry]] = {}
    for entry in verdict.shards:
        scenes.setdefault(entry.scene, []).append(entry)
    rows = [(scene, *_sums(entries), "ok") for scene, entries in scenes.items()]
    rows.append(("all", *_sums(verdict.shards), "ok"))
    return format_table(rows, ("scene", "shards", "pairs", "bytes", "state"))


def _sums(entries: Sequence[ShardEntry]) -> tuple[int, int, int]:
    """Return the numbers of shards, pairs and bytes."""
    return (
        len(entries),
        sum(entry.count for entry in entries),
        sum(entry.size_bytes for entry in entries),
    )


def _with_progress(findings: Iterator[ShardFindings], total: int) -> Iterator[ShardFindings]:
    from pipelines.progress import Progress

    with Progress(total, "shards") as progress:
        for found in findings:
            progress.advance(1)
            yield found
