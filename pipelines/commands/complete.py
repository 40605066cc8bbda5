"""crossview complete: what a model makes of a masked image and a reference."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "complete",
        help="complete a masked image with the help of a reference, as pictures",
        description="Hide most of the target, complete it with the help of the reference, and "
        "write one figure, completion.png: masked target, reference, completion, truth, and where "
        "each patch looked; and each of its pictures as a PNG file. Of an image larger than "
        "the model's, the middle square is taken and resized; a smaller one is refused.",
        epilog="example: crossview complete --weights out/pretrain --target a.jpg "
        "--reference b.jpg --out out/completion",
    )
    parser.set_defaults(command=run)
    shared.add_weights(parser)
    parser.add_argument(
        "--target", type=shared.on_disk, required=True, metavar="IMAGE", help="to complete"
    )
    parser.add_argument(
        "--reference",
        type=shared.on_disk,
        required=True,
        metavar="IMAGE",
        help="another view of its scene",
    )
    parser.add_argument(
        "--mask",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of the target's patches that are hidden (default 0.9)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides which are hidden (default 0)"
    )
    parser.add_argument(
        "--out", type=shared.on_disk, required=True, metavar="DIR", help="folder of the pictures"
    )


def run(options: argparse.Namespace) -> int:
    """Write the pictures, say how the images were cut and where the figure is."""
    from pipelines.figures.completion import complete_views, write_completion
    from pipelines.figures.square_view import SquareView
    from training.checkpoint import load_model

    model = load_model(options.weights)
    size = model.config.image_size
    views = [SquareView.read(path, size) for path in (options.target, options.reference)]
    completion = complete_views(model, *views, mask_ratio=options.mask, seed=options.seed)
    paths = write_completion(completion, model.config.patch_size, options.out)
    for view in views:
        print(view)
    hidden = int(completion.mask.sum())
    print(f"loss of {hidden} of {len(completion.mask)} patches, hidden: {completion.loss:.4f}")
    if completion.attention is None:
        print("this model sees no reference: there is nothing to show of where it looked")
    print(f"{paths[0]}, and its pictures: {', '.join(path.name for path in paths[1:])}")
    return 0
