"""The crossview command."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import select
import signal
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
from pipelines.log import log_to_stderr

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
_MANY_FILES = 1 << 16


def main(arguments: list[str] | None = None) -> int:
    """Run a crossview command; return its exit status."""
    _have_stderr()
    try:
        options = _parser().parse_args(arguments)
        log_to_stderr()
        _allow_many_files()
        status: int = options.command(options)
        print(end="", flush=True)  # so that a reader that is gone, such as head, is met below
        return status
    except CrossviewError as error:
        print(f"crossview: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        return _told(error)
    except Exception as error:
        if not _is_of_a_store(error):
            raise
        return _told(error)
    except KeyboardInterrupt:
        print("crossview: interrupted", file=sys.stderr)
        return 130


def _have_stderr() -> None:
    """Open a stderr that was closed (2>&-) on nothing: libraries, and other processes, write there.

    Else they fail, or write into the file that has its number.
    """
    if sys.stderr is None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.set_inheritable(descriptor, True)
        sys.stderr = os.fdopen(descriptor, "w")


def _allow_many_files() -> None:
    """Let this process, and those it starts, open as many files as it may: shards stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _told(error: Exception) -> int:
    """Print what a disk or a bucket says; where neither is named, also where that was."""
    if isinstance(error, OSError) and error.filename:
        said = f"{error.filename}: {error.strerror}"
    else:
        said = f"{type(error).__name__}: {error}"
        if _is_of_a_store(error):
            said += "; of a bucket: is it reachable, and are there credentials, and access?"
        else:
            logging.getLogger(__name__).error("an error without a file's name", exc_info=error)
    print(f"crossview: {said}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _is_of_a_store(error: Exception) -> bool:
    known = type(error).__module__.partition(".")[0] in _STORES
    lost = ConnectionError | PermissionError | TimeoutError
    return known or (isinstance(error, lost) and not isinstance(error, BrokenPipeError))


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe without a reader; what is left then goes nowhere."""
    output = select.poll()
    output.register(1, 0)
    broken = any(event & select.POLLERR for _, event in output.poll(0))
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return broken


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossview",
        description="Co-visible view pairs from indoor scans, and CroCo pre-training on them.",
    )
    version = metadata.version("crossview")
    parser.add_argument("--version", action="version", version=f"crossview {version}")
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Have a parser take every command, by a parser of its own kind."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)


if __name__ == "__main__":
    sys.exit(main())
