"""FlyingChairs: flow of rendered chairs before photographs (Dosovitskiy et al., ICCV 2015)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from generation.errors import CrossviewError
from training.downstream.datasets.folder import (
    Layout,
    files_in,
    paired,
    read_rgb,
    require_one_size,
    splits,
)
from training.downstream.datasets.formats import read_flo
from training.downstream.example import Example, Splits

SPLIT = "FlyingChairs_train_val.txt"
_ENDINGS = ("_img1.ppm", "_img2.ppm", "_flow.flo")
LAYOUT = Layout(
    title="FlyingChairs",
    url="https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html",
    licence="for research",
    drawing="""
        FlyingChairs_train_val.txt      a line for each pair, 1: train, 2: validate; from that page
        data/00001_img1.ppm
        data/00001_img2.ppm
        data/00001_flow.flo
        data/00002_img1.ppm, ...
        """,
)


def open_flying_chairs(root: Path) -> Splits:
    """Open FlyingChairs_release/, split as its owners' list says. Nobody knows what is occluded.

    Raises CrossviewError where files are missing, or the list is not one of them.
    """
    LAYOUT.require(root, "data", SPLIT)
    data = root / "data"
    kinds = {ending: _names(data, ending) for ending in _ENDINGS}
    names = paired(data, kinds)
    parts = (root / SPLIT).read_text("ascii", "replace").split()
    if len(parts) != len(names) or not {"1", "2"}.issuperset(parts):
        raise CrossviewError(
            f"{root / SPLIT}: expected a 1 (train) or a 2 (validate) for each of the {len(names)} "
            f"pairs in data/, found {len(parts)} entries of {', '.join(sorted(set(parts))[:5])}; "
            "fetch the list again, or the missing pairs"
        )
    train = [name for name, part in zip(names, parts) if part == "1"]
    val = [name for name, part in zip(names, parts) if part == "2"]
    return splits(LAYOUT, root, train, val, partial(_read, data))


def _names(data: Path, ending: str) -> list[str]:
    return [path.name.removesuffix(ending) for path in files_in(data, (ending,))]


def _read(data: Path, name: str) -> Example:
    first, second, flow = (data / f"{name}{ending}" for ending in _ENDINGS)
    maps: dict[Path, NDArray[Any]] = {first: read_rgb(first), second: read_rgb(second)}
    maps[flow] = read_flo(flow)
    require_one_size(maps)
    return Example(name=name, images=(maps[first], maps[second]), truth={"flow": maps[flow]})
