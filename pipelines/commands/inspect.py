"""crossview inspect: a page to look at a dataset."""

from __future__ import annotations

import argparse
from typing import Any

from generation.errors import CrossviewError
from generation.locations import is_listed, location


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "inspect",
        help="write a page to look at a dataset: pairs, histograms, maps, failures",
        description="Write one HTML page that needs nothing else: pairs to sort and filter with "
        "what each view sees of the other, histograms, proposals by reason, every scene from above "
        "with the cameras. Its pictures lie beside it as PNG files too.",
        epilog="example: crossview inspect out/pairs",
    )
    parser.set_defaults(command=run)
    parser.add_argument("data", type=location, metavar="DIR", help="folder or URL of the dataset")
    parser.add_argument(
        "--max-pairs", type=int, metavar="N", help="most pairs shown as pictures (default 240)"
    )
    parser.add_argument(
        "--max-scenes", type=int, metavar="N", help="most scenes they are from (default 24)"
    )
    parser.add_argument(
        "--out", type=location, metavar="FILE", help="the page (default DIR/inspect.html)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page, say where it is."""
    from pipelines.inspection.page import InspectConfig, write_inspection

    given = {"max_pairs": options.max_pairs, "max_scenes": options.max_scenes}
    config = InspectConfig(**{name: value for name, value in given.items() if value is not None})
    if options.out is None and not is_listed(options.data):
        raise CrossviewError(f"{options.data}: nothing can be written there; say where with --out")
    path = write_inspection(options.data, options.out or options.data / "inspect.html", config)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
