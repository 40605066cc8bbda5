"""The crossview command."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import metadata

from generation.errors import CrossviewError
from pipelines.commands import (
    bench,
    bench_data,
    bench_train,
    complete,
    doctor,
    evaluate,
    export,
    index,
    inspect,
    match,
    pretrain,
    regenerate,
    render_pairs,
    run,
    scenes,
    study,
    verify,
)
from pipelines.commands.options import EXIT_BAD_INPUT

COMMANDS = (
    scenes,
    render_pairs,
    regenerate,
    index,
    pretrain,
    complete,
    match,
    evaluate,
    run,
    study,
    export,
    inspect,
    verify,
    doctor,
    bench,
    bench_data,
    bench_train,
)
"""In the order of --help."""
_STORES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google")
"""Whose errors are those of a bucket."""


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
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"crossview: {said}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORES:
            raise
        said = f"{type(error).__name__}: {error}; are there credentials, and access?"
        print(f"crossview: {said}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("crossview: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossview",
        description="Co-visible view pairs from indoor scans, and CroCo pre-training on them.",
    )
    version = metadata.version("crossview")
    parser.add_argument("--version", action="version", version=f"crossview {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
