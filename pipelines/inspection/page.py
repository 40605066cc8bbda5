"""A self-contained page of a dataset: its pairs, their numbers, its scenes from above."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from generation.bounds import require
from generation.errors import CrossviewError
from generation.files import write_text_whole
from generation.geometry import Bool, Float64, UInt8
from generation.locations import is_remote
from generation.overlap import OverlapBand
from generation.shards.images import encode_jpeg
from generation.shards.reader import ShardIndex, read_each
from generation.shards.schema import ShardError, Sidecar, sidecar_path, sidecars_in
from pipelines.datasets.pair_table import PairTable
from pipelines.datasets.run_log import SceneWork, read_runs, work_by_scene
from pipelines.figures.charts import DARK, LIGHT, histogram_of, save_figure, save_png, tinted
from pipelines.inspection.scenes import InspectedPair, InspectedScene, RecordedScenes, inspect_scene
from pipelines.pages import data_url, render_page
from pipelines.progress import Progress

THUMBNAIL = 256
"""Longest side in pixels of a view on the page."""
JPEG_QUALITY = 80
SHEET_ROWS = 6
"""Pairs on the sheet that lies beside the page."""
SEEN, UNSEEN = (182, 255, 216), (105, 105, 115)
"""What the views are multiplied with."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """How much the page shows; its counts are of the whole dataset."""

    max_pairs: int = 240
    """Pairs as pictures, even over the scenes and over co-visibility; about 40 kB each."""
    max_scenes: int = 24
    """Scenes that these pairs are from, even over the dataset; each is loaded for its map."""
    max_rows: int = 100_000
    """Pairs whose numbers are read, even over the dataset; quartiles are then good to 0.2 %."""

    def __post_init__(self) -> None:
        for name in ("max_pairs", "max_scenes", "max_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass
class SceneAccount:
    """What the sidecars say of a scene's proposals."""

    pairs: int = 0
    kept: int = 0
    """Pairs of all levels that were made together: each proposal serves all of them."""
    size_bytes: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Why there are fewer pairs than asked for."""

    @property
    def proposals(self) -> int:
        """Pairs kept and proposals rejected."""
        return self.kept + self.rejections.total()


def write_inspection(folder: Path, out: Path, config: InspectConfig) -> Path:
    """Write the page of a dataset's folder, and its charts and maps beside it as PNG files.

    out: the page; the pictures go into a folder of its name without the ending. Raises ShardError
    where the folder holds no dataset, or a shard is not what its index lists; CrossviewError where
    it holds tars from elsewhere.
    """
    index = ShardIndex.open(folder)
    if index.is_plain:
        raise CrossviewError(
            f"{folder}: expected rendered pairs, found tars that `crossview index` made readable; "
            "nothing is known of what made them; inspect datasets as they were rendered"
        )
    pictures = out.with_suffix("")
    if pictures == out:
        raise CrossviewError(f"{out}: expected the name of a page, for example {out}.html")
    pictures.mkdir(parents=True, exist_ok=True)
    table = PairTable.read(index, config.max_rows)
    band = OverlapBand.of_config(index.config)
    accounts = read_accounts(index)
    runs = read_runs(folder)
    shown = _inspected(table, config)
    # Every scene's first pair, then every scene's second, ...
    in_turn = zip_longest(*(sorted(scene.pairs, key=lambda pair: pair.row) for scene in shown))
    pairs = [pair for turn in in_turn for pair in turn if pair]
    _save_sheet(pictures / "pairs.png", pairs)
    page = render_page(
        "inspection/page.html",
        title=f"Pairs in {(folder if is_remote(folder) else folder.resolve()).name}",
        index=index,
        table=table,
        first=pairs[0].record,
        band=band,
        gallery=[_card(table, pair) for pair in pairs],
        tints=sum(pair.depths_m is not None for pair in pairs),
        charts=_charts(table, pairs, pictures, band),
        totals=sum((account.rejections for account in accounts.values()), Counter()).most_common(),
        kept=sum(account.kept for account in accounts.values()),
        proposals=sum(account.proposals for account in accounts.values()),
        size_bytes=sum(entry.size_bytes for entry in index.shards),
        scenes=[_scene_on_page(scene, pictures) for scene in shown],
        rows=_scene_rows(table, accounts, work_by_scene(runs)),
        runs=runs,
        pictures=pictures.name,
    )
    write_text_whole(out, page)
    return out


def read_accounts(index: ShardIndex) -> dict[str, SceneAccount]:
    """Return scene -> account of its shards, also of scenes that gave no pair.

    Raises ShardError where a listed shard's sidecar cannot be read.
    """
    accounts: defaultdict[str, SceneAccount] = defaultdict(SceneAccount)
    listed = [sidecar_path(index.folder / entry.name) for entry in index.shards]
    for entry, sidecar in zip(index.shards, read_each(Sidecar.read, listed)):
        _add(accounts[entry.scene], sidecar)
    for path in sorted({*sidecars_in(index.folder)} - {*listed}):
        try:
            sidecar = Sidecar.read(path)
            if sidecar.entry is None:  # a task that found no pair
                _add(accounts[sidecar.task["scene"]["scene_id"]], sidecar)
        except (ShardError, KeyError, TypeError):
            continue  # not of this dataset; `crossview verify` names it
    return dict(accounts)


def _add(account: SceneAccount, sidecar: Sidecar) -> None:
    if sidecar.entry:
        account.pairs += sidecar.entry.count
        account.kept += sidecar.entry.count * len(sidecar.task.get("outputs", (None,)))
        account.size_bytes += sidecar.entry.size_bytes
    account.rejections.update(sidecar.rejections)
    if sidecar.shortfall:
        account.notes.append(sidecar.shortfall)


def evenly(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most `count` of (N,) values, evenly spread, the first and the last among them."""
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]


def choose_rows(table: PairTable, config: InspectConfig) -> list[NDArray[np.int64]]:
    """Return the table's rows of each scene that is shown, by rising co-visibility."""
    count = min(config.max_scenes, config.max_pairs)
    numbers = evenly(np.unique(table.scenes), count)
    rows = [table.rows_of_scene(int(number)) for number in numbers]
    left, chosen = config.max_pairs, {}
    # From the scene with fewest pairs on, so that the others share what it leaves.
    for place, number in enumerate(sorted(range(len(rows)), key=lambda n: len(rows[n]))):
        share = left // (len(rows) - place)
        chosen[number] = evenly(rows[number], share)
        left -= len(chosen[number])
    return [chosen[number] for number in range(len(rows))]


def _inspected(table: PairTable, config: InspectConfig) -> list[InspectedScene]:
    recorded = RecordedScenes(table.index)
    shown = []
    chosen = choose_rows(table, config)
    with Progress(len(chosen), "scenes") as progress:
        for rows in chosen:
            shown.append(inspect_scene(table, rows, recorded))
            progress.advance()
    return shown


def _card(table: PairTable, pair: InspectedPair) -> dict[str, Any]:
    seen = pair.seen
    return {
        "key": pair.key,
        "place": pair.row,
        "record": pair.record,
        "baseline_m": float(table.baseline_m[pair.row]),
        "angle_deg": float(table.angle_deg[pair.row]),
        "views": [
            {"color": _jpeg_url(color), "seen": _mask_url(seen[number]) if seen else ""}
            for number, color in enumerate(pair.colors)
        ],
    }


def _jpeg_url(color: UInt8) -> str:
    image = Image.fromarray(color)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(encode_jpeg(np.asarray(image), JPEG_QUALITY), "jpeg")


def _mask_url(seen: Bool) -> str:
    mask = Image.fromarray(seen.astype(np.uint8))
    mask.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST)
    mask.putpalette([*UNSEEN, *SEEN])
    stream = io.BytesIO()
    mask.save(stream, "png", optimize=True, bits=1)
    return data_url(stream.getvalue())


def _save_sheet(path: Path, pairs: Sequence[InspectedPair]) -> None:
    """Write a sheet of pairs with equal sizes: both views, then both tinted."""
    shape = pairs[0].colors[0].shape
    alike = [pair for pair in pairs if pair.colors[0].shape == shape]
    rows = []
    for number in evenly(np.arange(len(alike)), SHEET_ROWS):
        pair = alike[int(number)]
        views = [*pair.colors]
        if seen := pair.seen:
            views += [tinted(color, mask) for color, mask in zip(pair.colors, seen)]
        rows.append(np.concatenate(views, axis=1))
    width = min(row.shape[1] for row in rows)
    save_png(path, np.concatenate([row[:, :width] for row in rows]))


def _charts(
    table: PairTable, pairs: Sequence[InspectedPair], pictures: Path, band: OverlapBand | None
) -> list[dict[str, str]]:
    depths = [
        float(np.median(depth_m[depth_m > 0]))
        for pair in pairs
        for depth_m in pair.depths_m or ()
        if depth_m.any()
    ]
    unit = np.linspace(0, 1, 51)
    judged = (band.low, band.high) if band else None
    charts = [
        ("covisibility", table.covisibility, unit, "co-visibility"),
        ("official", table.official, unit, "official co-visibility"),
        ("baseline", table.baseline_m, _bins(table.baseline_m), "baseline (m)"),
        ("angle", table.angle_deg, _bins(table.angle_deg), "angle between optical axes (degrees)"),
    ]
    if depths:
        charts.append(("depth", np.array(depths), _bins(np.array(depths)), "median depth (m)"))
    made = []
    for name, values, bins, label in charts:
        is_judged = name == ("official" if band and band.official else "covisibility")
        urls = {}
        for theme_name, theme in (("light", LIGHT), ("dark", DARK)):
            figure = histogram_of(values, bins, label, theme, judged if is_judged else None)
            urls[theme_name] = data_url(_png(figure))
            if theme is LIGHT:
                save_figure(pictures / f"{name}.png", figure)
        quartiles = ", ".join(f"{q:.3g}" for q in np.percentile(values, [25, 50, 75]))
        made.append({"label": label, "text": f"{label}: quartiles {quartiles}", **urls})
    return made


def _bins(values: Float64) -> Float64:
    return np.linspace(0, float(values.max()) * 1.02 or 1.0, 41)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, transparent=True)
    return stream.getvalue()


def _scene_on_page(scene: InspectedScene, pictures: Path) -> dict[str, Any]:
    urls = []
    for number, figure in enumerate(scene.maps):
        storey = f"_{number + 1}" if len(scene.maps) > 1 else ""
        save_figure(pictures / f"map_{scene.name}{storey}.png", figure)
        stream = io.BytesIO()
        with Image.open(io.BytesIO(_png(figure))) as image:
            image.save(stream, "webp", quality=80)
        urls.append(data_url(stream.getvalue(), "webp"))
    return {"name": scene.name, "num_pairs": len(scene.pairs), "maps": urls, "note": scene.note}


def _scene_rows(
    table: PairTable, accounts: dict[str, SceneAccount], works: dict[str, SceneWork]
) -> list[dict[str, Any]]:
    """Return a row a scene, those that failed or fell short first."""
    numbers = {scene: number for number, scene in enumerate(table.index.scenes)}
    rows = []
    for name in sorted({*accounts, *works}, key=lambda name: numbers.get(name, len(numbers))):
        account, work = accounts.get(name, SceneAccount()), works.get(name, SceneWork())
        values = table.covisibility[table.scenes == numbers.get(name, -1)]
        failed, short = bool(work.failures) or not account.pairs, bool(account.notes)
        rows.append(
            {
                "name": name,
                "pairs": account.pairs,
                "proposals": account.proposals,
                "kept": account.kept / account.proposals if account.proposals else None,
                "covisibility": float(values.mean()) if len(values) else None,
                "rate": work.pairs_per_second,
                "size_bytes": account.size_bytes,
                "state": "failed" if failed else "short" if short else "ok",
                "why": "; ".join(work.failures or account.notes[:1]),
            }
        )
    order = {"failed": 0, "short": 1, "ok": 2}
    return sorted(rows, key=lambda row: order[row["state"]])
