"""crossview study: many commands and one report."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands import options as shared
from pipelines.config import parse_overrides


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "study",
        help="run a study: many commands, each once, and a report",
        description="Run a study (a YAML file, or one of ours by name: evidence, follow-up, "
        "smaller, equal-compute): its stages of crossview commands, as many at a time as there are "
        "cores, then its report. What is done is not done again. SIGTERM, or Ctrl-C once, ends the "
        "commands that run, to be gone on with, and exits with 0 where none has failed.",
        epilog="example: crossview study evidence --out out/evidence",
    )
    parser.set_defaults(command=run)
    parser.add_argument("study", help="YAML file, or the name of one of our studies")
    parser.add_argument("--cores", type=int, metavar="N", help="cores to use (default: all)")
    parser.add_argument("--out", type=shared.on_disk, metavar="DIR", help="folder of all results")
    parser.add_argument(
        "--report",
        type=shared.on_disk,
        metavar="DIR",
        help="folder of RESULTS.md (default: that of --out)",
    )
    parser.add_argument(
        "--report-only", action="store_true", help="only report what has been done so far"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any field of Study, by its dotted name",
    )


def run(options: argparse.Namespace) -> int:
    """Do what is left, write the report."""
    from generation.plain import merge
    from pipelines.commands.study_checks import check_study
    from pipelines.study.plan import load_study
    from pipelines.study.report import write_study_report
    from pipelines.study.run import run_study

    out = None if options.out is None else str(options.out)
    overrides = merge(shared.nested({"out": out}), parse_overrides(options.set))
    study = load_study(options.study, overrides)
    check_study(study)
    failures = [] if options.report_only else run_study(study, options.cores)
    print(write_study_report(study, options.report or study.out))
    return shared.report_failures(failures, "commands")
