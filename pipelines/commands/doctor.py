"""crossview doctor: what this machine has, and what to do about what it has not."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "doctor",
        help="check Python, packages, GPU, renderers, memory, disk; say what to do",
        description="Check Python, packages, cores, memory, disk, GPU, EGL, the renderers and Ray, "
        "and say what to do. The exit status is 2 where rendering with Embree on Ray or "
        "pre-training cannot work. Where crossview itself does not start: "
        "python -m pipelines.doctor",
        epilog="example: crossview doctor",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the table of findings."""
    from pipelines.doctor.checks import main

    return main()
