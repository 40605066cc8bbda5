"""crossview regenerate: recorded poses to shards."""

from __future__ import annotations

import argparse
from typing import Any

from generation.locations import location
from pipelines.commands import options as shared
from pipelines.config import build


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "regenerate",
        help="render recorded pairs again, at any resolution and field of view",
        description="Render pairs again whose poses were recorded, by crossview or by CroCo's "
        "authors, and say how their co-visibility agrees with the recorded one. The same command "
        "goes on where an earlier run stopped.",
        epilog="example: crossview regenerate --metadata metadata.tar.gz --root /data/hm3d "
        "--resolution 448 --out out/again",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--metadata",
        required=True,
        metavar="PATH",
        help="folder or index.json of a dataset of ours; or CroCo's metadata.json: one, a folder "
        "or a tar of them",
    )
    parser.add_argument(
        "--root",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="folders that the scenes lie in (default for ours: where they were)",
    )
    parser.add_argument(
        "--up",
        help="up axis of CroCo's scenes without a stage configuration (default: as habitat-sim "
        "takes them: z for .glb but ReplicaCAD, y for others)",
    )
    parser.add_argument(
        "--resolution", type=int, metavar="PX", help="height and width (default: as recorded)"
    )
    parser.add_argument(
        "--hfov",
        type=float,
        metavar="DEG",
        help="horizontal field of view (default: as recorded)",
    )
    parser.add_argument(
        "--renderer",
        metavar="NAME",
        help=f"{shared.RENDERERS} (default: as recorded; for CroCo's pairs auto)",
    )
    parser.add_argument(
        "--jpeg-quality",
        type=int,
        metavar="Q",
        help="1 to 100 (default: as recorded; for CroCo's pairs 75, as theirs)",
    )
    parser.add_argument("--depth", action="store_true", help="also store depth maps")
    parser.add_argument(
        "--verify", action="store_true", help="also read finished shards and make damaged ones anew"
    )
    shared.add_executor(parser)
    parser.add_argument(
        "--out", type=location, required=True, metavar="DIR", help="folder or URL of the dataset"
    )


def run(options: argparse.Namespace) -> int:
    """Render what is missing, print how every scene agrees with the record."""
    from pipelines.datasets.regenerate import RegenerateConfig, agreement_table, regenerate

    values = shared.nested(
        {
            "metadata": options.metadata,
            "roots": options.root,
            "up": options.up,
            "resolution": options.resolution,
            "hfov_deg": options.hfov,
            "renderer": options.renderer,
            "jpeg_quality": options.jpeg_quality,
            "depth": options.depth,
        }
    )
    config = build(RegenerateConfig, values, source="regenerate")
    with shared.executor_of(options) as executor:
        result = regenerate(config, options.out, executor, verify=options.verify)
    print(agreement_table(result))
    index = result.index
    print(f"{index.num_pairs} pairs in {len(index.shards)} shards: {index.folder}")
    return shared.report_failures(result.failures)
