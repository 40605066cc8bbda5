"""One completion as pictures: what was hidden, what came of it, and where each patch looked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from generation.bounds import require
from generation.geometry import UInt8
from pipelines.figures.charts import LIGHT, save_figure, save_png
from pipelines.figures.square_view import SquareView
from training.augment import to_unit_range
from training.cross_attention import cross_attention_map
from training.losses import completion_losses
from training.model.croco import CroCo
from training.model.positions import grid_places
from training.optim import num_masked
from training.order import random_masks
from training.pictures import as_bytes, colours_of_places, complete, masked, painted

NUM_EXAMPLES = 6
"""Hidden patches whose attention is shown each by itself."""
_EXAMPLE_COLOURS = ("#e6194b", "#1f6fe0", "#f58231", "#12a150", "#911eb4", "#00a3b4")
_INCHES, _GAP, _HEADING = 3.0, 0.14, 0.62
"""Side of a panel, space between panels, and above each row for its headings."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model made of a target."""

    masked_target: UInt8
    """(S, S, 3), as all pictures: the target, its hidden patches grey."""
    reference: UInt8
    completion: UInt8
    truth: UInt8
    loss: float
    """Mean squared error of the hidden patches, each normalised: what pre-training minimises."""
    mask: Tensor
    """(N,) True where hidden."""
    attention: Tensor | None
    """(N, N) of target patches to reference patches; None of a model that sees no reference."""


def complete_views(
    model: CroCo, target: SquareView, reference: SquareView, *, mask_ratio: float, seed: int
) -> Completion:
    """Hide a share of the target's patches and complete them.

    Raises CrossviewError where the ratio leaves no patch visible, or none hidden.
    """
    num_patches, patch_size = model.config.num_patches, model.config.patch_size
    require(0 < mask_ratio < 1, "mask", mask_ratio, "above 0 and below 1")
    require(seed >= 0, "seed", seed, "at least 0")
    hidden = num_masked(mask_ratio, num_patches)
    mask = torch.from_numpy(random_masks(seed, 0, 1, num_patches, hidden))
    views = target.normalised(), reference.normalised(), mask
    with torch.no_grad():
        loss = completion_losses(model(*views), views[0], mask, patch_size)
    picture = to_unit_range(torch.from_numpy(target.pixels.copy())[None], torch.device("cpu"))
    return Completion(
        masked_target=as_bytes(masked(picture, mask, patch_size)[0]),
        reference=reference.pixels,
        completion=as_bytes(complete(model, *views)[0]),
        truth=target.pixels,
        loss=float(loss),
        mask=mask[0],
        attention=cross_attention_map(model, *views)[0] if model.config.sees_reference else None,
    )


def write_completion(completion: Completion, patch_size: int, out: Path) -> list[Path]:
    """Write completion.png, the figure, and each of its pictures by itself; return their paths.

    Of a model that sees no reference there is nothing to show of where it looked.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "masked_target": completion.masked_target,
        "reference": completion.reference,
        "completed": completion.completion,
        "target": completion.truth,
    }
    if completion.attention is not None:
        pictures |= _attention_pictures(completion, completion.attention, patch_size)
    paths = [out / f"{name}.png" for name in ("completion", *pictures)]
    save_figure(paths[0], _figure(completion, pictures, patch_size))
    for path, picture in zip(paths[1:], pictures.values()):
        save_png(path, picture)
    return paths


def _attention_pictures(
    completion: Completion, attention: Tensor, patch_size: int
) -> dict[str, UInt8]:
    side = len(completion.truth) // patch_size
    places = grid_places((side, side))
    key = colours_of_places(places, side)
    found = colours_of_places(places[attention.argmax(-1)], side)
    return {
        "places": _painted(completion.reference, key, patch_size),
        "looked_at": _painted(completion.truth, found, patch_size),
    }


def _painted(pixels: UInt8, colours: Tensor, patch_size: int) -> UInt8:
    picture = to_unit_range(torch.from_numpy(pixels.copy())[None], torch.device("cpu"))
    return as_bytes(painted(picture, colours, patch_size)[0])


def _figure(completion: Completion, pictures: dict[str, UInt8], patch_size: int) -> Figure:
    hidden = int(completion.mask.sum())
    titles = {
        "masked_target": ("masked target", f"{hidden} of {len(completion.mask)} patches hidden"),
        "reference": ("reference", "the other view, whole"),
        "completed": ("completion", f"loss of the hidden patches {completion.loss:.3f}"),
        "target": ("truth", "the target as it was"),
        "places": ("reference", "a colour for each place"),
        "looked_at": ("where each patch looked", "the place in the reference, by its colour"),
    }
    rows = 1 if completion.attention is None else 2
    width, height = 4 * _INCHES + 5 * _GAP, rows * (_INCHES + _HEADING) + _GAP
    figure = Figure(figsize=(width, height))
    axes = []
    for row, column in np.ndindex(rows, 4):
        left, bottom = _GAP + column * (_INCHES + _GAP), height - (row + 1) * (_INCHES + _HEADING)
        box = (left / width, bottom / height, _INCHES / width, _INCHES / height)
        axes.append(figure.add_axes(box))
    for ax, (name, picture) in zip(axes, pictures.items()):
        _show(ax, picture, *titles[name])
    if completion.attention is not None:
        _show_examples(axes[6], axes[7], completion, completion.attention, patch_size)
    return figure


def _show(axes: Any, picture: UInt8, title: str, note: str) -> None:
    axes.imshow(picture, interpolation="nearest", extent=_extent(picture))
    for height, text, style in (
        (1.095, title, {"fontsize": 12, "fontweight": "bold", "color": LIGHT.ink}),
        (1.025, note, {"fontsize": 9.5, "color": LIGHT.soft}),
    ):
        axes.text(0, height, text, transform=axes.transAxes, **style)
    axes.set_axis_off()


def _extent(picture: UInt8) -> tuple[float, float, float, float]:
    """Have the centre of pixel (i, j) at (j + 0.5, i + 0.5)."""
    return (0, picture.shape[1], picture.shape[0], 0)


def _show_examples(
    left: Any, right: Any, completion: Completion, attention: Tensor, patch_size: int
) -> None:
    """Outline some hidden patches, and paint the reference where they looked, each its colour."""
    side = len(completion.truth) // patch_size
    chosen = _examples(completion.mask, attention, side)
    faded = [0.55 * picture + 0.45 * 255 for picture in (completion.truth, completion.reference)]
    for ax, picture, title, note in (
        (left, faded[0], "some hidden patches", "those most certain of where to look"),
        (right, faded[1], "what they looked at", "all of their attention, and its peak"),
    ):
        _show(ax, picture.astype(np.uint8), title, note)
    for patch, colour in zip(chosen, _EXAMPLE_COLOURS):
        _outline(left, patch, side, patch_size, colour)
        _outline(right, int(attention[patch].argmax()), side, patch_size, colour)
        share = (attention[patch] / attention[patch].max()).view(side, side).numpy()
        tint = np.empty((side, side, 4))
        tint[..., :3] = to_rgb(colour)
        tint[..., 3] = 0.75 * share
        right.imshow(tint, interpolation="nearest", extent=_extent(completion.reference))


def _outline(axes: Any, patch: int, side: int, patch_size: int, colour: str) -> None:
    corner = (patch % side * patch_size, patch // side * patch_size)
    for edge, width in (("white", 4.0), (colour, 2.4)):
        frame = Rectangle(corner, patch_size, patch_size, fill=False, clip_on=False)
        frame.set(edgecolor=edge, linewidth=width)
        axes.add_patch(frame)


def _examples(mask: Tensor, attention: Tensor, side: int) -> list[int]:
    """Choose hidden patches whose attention has the highest peak, and not too close together."""
    least = side / 4
    places = grid_places((side, side))
    chosen: list[int] = []
    for patch in attention.max(1).values.argsort(descending=True).tolist():
        apart = [(places[patch] - places[other]).norm() >= least for other in chosen]
        if mask[patch] and all(apart):
            chosen.append(patch)
    return chosen[:NUM_EXAMPLES]
