"""crossview index: make tars of two images a sample readable."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "index",
        help="make tars of image pairs from elsewhere trainable",
        description="Write a sidecar beside each tar of a folder, and index.json: then `crossview "
        "pretrain` takes it as data. Each sample is two JPEG images of one key: KEY.view1.jpg and "
        "KEY.view2.jpg, or KEY.1.jpg and KEY.2.jpg. A tar counts as one scene, of which training "
        "holds some out: make two at least, or validate on another folder. Tars of rendered pairs, "
        "such as those of several datasets in one folder without their other files, keep their "
        "scenes and depth.",
        epilog="example: crossview index video-pairs",
    )
    parser.set_defaults(command=run)
    parser.add_argument("folder", type=shared.on_disk, metavar="DIR", help="folder of the tars")


def run(options: argparse.Namespace) -> int:
    """Write the index and say what it holds."""
    from generation.shards.plain_tars import index_plain_tars

    index = index_plain_tars(options.folder)
    print(
        f"{options.folder}: {index.num_pairs} pairs of {len(index.scenes)} scenes in "
        f"{len(index.shards)} tars"
    )
    return 0
