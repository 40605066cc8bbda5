"""crossview match: the correspondences of two images."""

from __future__ import annotations

import argparse
from typing import Any

from generation.errors import CrossviewError
from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "match",
        help="draw the correspondences of two images, from cross-attention",
        description="Find the patches of two images that look at each other more than at any "
        "other, hidden or not; draw them, and write them beside the drawing as JSON, in pixels "
        "of the images, upright as their EXIF says. Of an image larger than the model's, the "
        "middle square is taken and resized; a smaller one is refused.",
        epilog="example: crossview match --weights out/pretrain a.jpg b.jpg --out out/match.png",
    )
    parser.set_defaults(command=run)
    shared.add_weights(parser)
    parser.add_argument("images", type=shared.on_disk, nargs=2, metavar="IMAGE", help="two images")
    parser.add_argument(
        "--out",
        type=shared.on_disk,
        required=True,
        metavar="FILE.png",
        help="the drawing; FILE.json too",
    )


def run(options: argparse.Namespace) -> int:
    """Write the drawing and the JSON, say how the images were cut and how many were found."""
    from pipelines.figures.matches import match_views, write_matches
    from pipelines.figures.square_view import SquareView
    from training.checkpoint import load_model

    if options.out.suffix != ".png":
        raise CrossviewError(f"--out {options.out}: expected a name that ends in .png")
    model = load_model(options.weights)
    size = model.config.image_size
    view1, view2 = (SquareView.read(path, size) for path in options.images)
    matches = match_views(model, view1, view2)
    json_path = write_matches(view1, view2, matches, options.out)
    for view in (view1, view2):
        print(view)
    print(f"{len(matches.confidence)} patches that look at each other")
    print(f"{options.out}; {json_path}")
    return 0
