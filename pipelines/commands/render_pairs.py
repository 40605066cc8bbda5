"""crossview render-pairs: scenes to shards."""

from __future__ import annotations

import argparse
from typing import Any

from generation.errors import CrossviewError
from generation.locations import location
from pipelines.commands import options as shared
from pipelines.config import build


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "render-pairs",
        help="render pairs of co-visible views into WebDataset shards",
        description="Render pairs of views that overlap by about half into WebDataset shards. The "
        "same command goes on where an earlier run stopped.",
        epilog="example: crossview render-pairs --scenes 'scans/*.glb' procedural:0-9 "
        "--num-pairs 1000 --overlap 0.4-0.6 --out out/pairs",
    )
    parser.set_defaults(command=run)
    shared.add_pairs(
        parser,
        scenes="mesh files (.glb .gltf .ply .obj, NAME.stage_config.json, "
        "NAME.scene_instance.json), their s3:// or other URLs, folders, globs, SET:ROOT or "
        "SET/SPLIT:ROOT for a set that crossview scenes lists (hm3d:/data/hm3d), or "
        "procedural:FIRST-LAST for rooms that we generate",
    )
    parser.add_argument(
        "--levels",
        nargs="+",
        action="extend",
        metavar="LEVEL",
        help="make one dataset a level, DIR/LEVEL, all with the same first views and as many pairs "
        "of each scene: names or bands of --overlap, for example low near-half 0.7-0.9",
    )
    parser.add_argument("--depth", action="store_true", default=None, help="also store depth maps")
    parser.add_argument(
        "--image-size", type=int, metavar="PX", help="height and width (default 256)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="also read finished shards and make damaged ones anew"
    )
    shared.add_common(parser, "RenderPairsConfig")
    shared.add_executor(parser)
    parser.add_argument(
        "--out",
        type=location,
        required=True,
        metavar="DIR",
        help="folder of the dataset, or s3://, gs:// or another URL that fsspec opens",
    )


def run(options: argparse.Namespace) -> int:
    """Render what is missing, print the table of scenes."""
    from pipelines.datasets.render_pairs import RenderPairsConfig, render_pairs, summary_table

    size = options.image_size
    values = shared.config_values(
        options,
        {
            **shared.pairs_values(options),
            "seed": options.seed,
            # A level's name is its folder's too; a band's text serves as one.
            "levels": options.levels and {name.replace(":", "-"): name for name in options.levels},
            "pairs.image_size": None if size is None else [size, size],
            "shards.depth": options.depth,
        },
    )
    shared.required(values, "scenes", "--scenes")
    if options.overlap is not None and values.get("levels"):
        raise CrossviewError(
            f"--overlap {options.overlap}: each level has a band of its own; leave out --overlap, "
            "or the levels"
        )
    config = build(RenderPairsConfig, values, source=options.config or "render-pairs")
    with shared.executor_of(options) as executor:
        result = render_pairs(config, options.out, executor, verify=options.verify)
    print(summary_table(result))
    for index in result.indexes:
        print(f"{index.num_pairs} pairs in {len(index.shards)} shards: {index.folder}")
    return shared.report_failures(result.failures)
