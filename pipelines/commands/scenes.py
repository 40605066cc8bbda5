"""crossview scenes: which scenes there are to render."""

from __future__ import annotations

import argparse
from typing import Any

from generation.errors import CrossviewError
from generation.locations import location
from pipelines.commands.options import EXIT_BAD_INPUT


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "scenes",
        help="list scene sets, or what a folder holds of one",
        description="List the scene sets there are; with --set and --root, the scenes of one that "
        "lie below a folder, those that are missing or not usable, and how to get them. Exit "
        "status 2 where there is none to use.",
        epilog="example: crossview scenes --set hm3d --root /data/hm3d --split train",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--set", metavar="NAME", help="the scene set")
    parser.add_argument("--root", type=location, metavar="DIR", help="folder or URL of the set")
    parser.add_argument("--split", metavar="NAME", help="one of its splits (default: all)")


def run(options: argparse.Namespace) -> int:
    """Print the sets, or one set's scenes."""
    from generation.scenes.sets import discover
    from pipelines.scene_sets import report, scene_sets, sets_table

    sets = scene_sets()
    if options.set is None:
        if options.root or options.split:
            raise CrossviewError("--root and --split need --set NAME; crossview scenes lists them")
        print(sets_table())
        return 0
    if options.set not in sets:
        raise CrossviewError(f"--set {options.set}: expected one of {', '.join(sets)}")
    scene_set = sets[options.set]
    print(f"{scene_set.title}; licence: {scene_set.licence}\n")
    if not scene_set.splits:
        print(scene_set.access)
        return 0
    if options.root is None:
        print(f"{scene_set.access} {scene_set.url or ''}".rstrip())
        print("\nwhat is there and usable: --root DIR, the folder where it lies")
        return 0
    root = options.root
    splits = [options.split] if options.split else list(scene_set.splits)
    found = discover(scene_set, root, splits)
    print(report(scene_set, found, root, splits))
    if not any(not scene.problem for scene in found):
        return EXIT_BAD_INPUT
    chosen = f"{options.set}/{options.split}" if options.split else options.set
    print(f"\nto use them: --scenes {chosen}:{options.root}")
    return 0
