"""A dataset's README.md: what it holds, whose the scenes are, how to read it and make it again.

Its front matter is that of Hugging Face dataset cards, so that the folder, uploaded as it stands,
is a dataset with a viewer, and `datasets.load_dataset` reads it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from generation.files import write_text_whole
from generation.overlap import OverlapBand
from generation.scenes.sources import PROCEDURAL
from generation.shards.reader import ShardIndex, ShardReader
from pipelines.config import dump_yaml
from pipelines.datasets.pair_table import PairTable
from pipelines.scene_sets import scene_sets
from pipelines.tables import facts_table

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
MARK = "<!-- Written by crossview, and anew by every run; without this line it stays as it is. -->"
MAX_ROWS = 10_000
"""Of more pairs, the statistics are of as many, evenly spread: every run writes the card."""
SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"),
         (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))  # fmt: skip
"""Number of pairs -> the hub's name of everything below."""


def write_card(index: ShardIndex, *, scenes: Sequence[str], command: str) -> None:
    """Write README.md beside the shards; one that is not ours stays.

    scenes: as given to --scenes, for their licences. command: makes the dataset again. The same
    dataset has the same card, to the byte. Raises ShardError where a shard is damaged.
    """
    path = index.folder / CARD_NAME
    if path.exists() and MARK not in path.read_text(errors="replace"):
        logger.info("%s is not crossview's and stays as it is", path)
    elif index.shards:
        write_text_whole(path, card_text(index, scenes=scenes, command=command))


def card_text(index: ShardIndex, *, scenes: Sequence[str], command: str) -> str:
    """Return the card's text: see write_card."""
    table = PairTable.read(index, MAX_ROWS)
    first = ShardReader(index).record(0)
    has_depth = index.has_depth
    licences = scene_licences(scenes)
    parts = [
        "---\n" + dump_yaml(_front_matter(index, licences, has_depth)) + "---",
        MARK,
        f"# {_title(index)}",
        "Pairs of views of one scene that see in part the same surfaces, for cross-view completion "
        "(CroCo) and other learning from two views.",
        facts_table(_statistics(index, table, first, has_depth)),
        _sample_note(table) + "Co-visibility is the smaller of both directions: of the pixels of "
        "one view with depth, the share whose surface point the other view sees. The official "
        "number is that of CroCo's generator.",
        "## Reading it",
        "```python\nfrom datasets import load_dataset\n\n"
        'pairs = load_dataset("path/of/this/folder", split="train", streaming=True)\n'
        "pair = next(iter(pairs))\n"
        'pair["view1.jpg"], pair["view2.jpg"], pair["meta.json"]["covisibility"]\n```',
        "Every tar is a WebDataset shard too. `meta.json` has `intrinsics` (3x3, pixels), "
        "`world_from_camera1` and `world_from_camera2` (4x4, OpenCV axes, metres, Y up), and all "
        "co-visibility numbers."
        + (" `depth1.png` and `depth2.png` are 16-bit millimetres." if has_depth else ""),
        "## Licence",
        "\n".join(f"- {line}" for line in licences),
        "## Making it again",
        f"With crossview {metadata.version('crossview')}, where the scenes lie as they did:",
        f"```sh\n{command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def scene_licences(scenes: Sequence[str]) -> list[str]:
    """Return a line for each kind of scene, of what --scenes was given."""
    lines = []
    for pattern in scenes:
        known = re.match(r"(\w+)(?:/\w+)?:", pattern)
        scene_set = scene_sets().get(known[1]) if known else None
        if pattern.startswith(PROCEDURAL):
            lines.append(GENERATED)
        elif scene_set and scene_set.url:
            licence = scene_set.licence.rstrip(".")
            lines.append(f"[{scene_set.title}]({scene_set.url}): {licence}.")
        else:
            lines.append("Mesh files: pictures of a scene are under the licence of that scene.")
    return list(dict.fromkeys(lines))


GENERATED = "Rooms that crossview generates: Apache-2.0, as crossview itself."


def _title(index: ShardIndex) -> str:
    band = OverlapBand.of_config(index.config)
    seen = f", co-visibility {band}" if band else ""
    return f"{index.num_pairs:,} pairs of co-visible indoor views{seen}"


def _front_matter(index: ShardIndex, licences: list[str], has_depth: bool) -> dict[str, Any]:
    ours = licences == [GENERATED]
    return {
        "pretty_name": _title(index),
        **({"license": "apache-2.0"} if ours else {"license": "other"}),
        **({} if ours else {"license_name": "licences-of-the-scenes"}),
        "task_categories": [
            "image-feature-extraction",
            *(["depth-estimation"] if has_depth else []),
        ],
        "tags": ["webdataset", "croco", "cross-view-completion", "image-pairs", "indoor", "3d"],
        "size_categories": [
            next((name for limit, name in SIZES if index.num_pairs < limit), "n>1T")
        ],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}
        ],
    }


def _statistics(
    index: ShardIndex, table: PairTable, first: dict[str, Any], has_depth: bool
) -> Iterator[tuple[str, str]]:
    height, width = first["image_size"]
    size_bytes = sum(entry.size_bytes for entry in index.shards)
    yield "pairs", f"{index.num_pairs:,}"
    yield "scenes", f"{len(index.scenes):,}"
    yield "size", f"{size_bytes / 1e6:,.1f} MB in {len(index.shards):,} shards"
    yield "image size", f"{width} x {height} pixels"
    yield "field of view", f"{first['hfov_deg']:g} degrees, horizontal"
    yield "depth maps", "yes" if has_depth else "no"
    yield "renderer", first["renderer"]
    for name, values, unit in (
        ("co-visibility", table.covisibility, ""),
        ("co-visibility, official", table.official, ""),
        ("baseline", table.baseline_m, " m"),
        ("angle between optical axes", table.angle_deg, " degrees"),
    ):
        low, median, high = np.percentile(values, [25, 50, 75])
        yield name, f"mean {values.mean():.3g}, quartiles {low:.3g}, {median:.3g}, {high:.3g}{unit}"


def _sample_note(table: PairTable) -> str:
    if not table.is_sample:
        return ""
    return f"Means and quartiles are of {len(table):,} pairs, evenly spread over all. "
