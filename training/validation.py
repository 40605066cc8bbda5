"""What a model learnt, on held-out scenes: fixed pairs, centre crops, fixed masks, no jitter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from generation.bounds import require
from generation.errors import CrossviewError
from generation.geometry import Float32, UInt8
from generation.shards.reader import SampleError, ShardIndex
from generation.shards.schema import DEPTHS, ShardError
from generation.view import View
from training.augment import denormalise, normalise, to_unit_range
from training.correspondence import geometry_counts, geometry_metrics, true_places
from training.cross_attention import cross_attention_map
from training.data import DataConfig, room_of
from training.distributed import Process
from training.losses import completion_losses
from training.model.croco import CroCo, ModelConfig
from training.model.positions import grid_places
from training.order import Int64, validation_masks
from training.pair_reader import PairReader, centre_crop, centre_cropped, too_many_damaged
from training.pictures import colours_of_places, complete, masked, painted, sheet
from training.prefetch import THREADS

logger = logging.getLogger(__name__)

_BATCH = 64
REFERENCES = ("true", "shuffled", "none")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """When and on how much to validate; the last step of a run always does."""

    num_pairs: int = 512
    """Pairs, as equally many of each held-out scene as there are; kept decoded in memory."""
    every_steps: int = 2000
    """Steps between validations; 0: only after the last."""

    def __post_init__(self) -> None:
        require(self.num_pairs >= 2, "validation.num_pairs", self.num_pairs, "at least 2")
        require(self.every_steps >= 0, "validation.every_steps", self.every_steps, "at least 0")


@dataclass(frozen=True, kw_only=True)
class ValidationPairs:
    """n pairs, decoded, and what is known of them."""

    images: Tensor
    """(2, n, S, S, 3) bytes: targets (view 1) and references (view 2), centre crops."""
    masks: Tensor
    """(n, N) True where the target is hidden."""
    shuffled: Tensor
    """(n,) whose reference stands in for each pair's own: of another room where there are two."""
    truth: Tensor | None
    """(n, N, 2) true_places of each target patch in its reference, NaN for a pair without depth;
    None where the first has none, and for a model that sees no reference."""
    samples: Int64
    """(n,) sample numbers in the index."""

    def __len__(self) -> int:
        return len(self.samples)


def load_validation_pairs(
    index: ShardIndex, model: ModelConfig, num_pairs: int, num_masked: int, data: DataConfig
) -> ValidationPairs:
    """Read the pairs of an index to validate on: always the same for the same index.

    In place of a damaged pair, which a warning names, stands the next good one of its scene that
    is not among them; where there is none, they are one fewer. Raises CrossviewError where more
    than data.max_damaged are damaged, fewer than two are left, or a shard cannot be read.
    """
    images = data.reader(index, model.image_size)
    reader = _ValidationReader(images, model)
    of_scene = samples_of_scenes(index)
    good = _good_pairs(reader, of_scene, choose_pairs(of_scene, num_pairs), data.max_damaged)
    samples = np.array(list(good), np.int64)
    if len(samples) < 2:
        raise CrossviewError(
            f"{index.folder}: {len(samples)} good pair of held-out scenes "
            f"{', '.join(of_scene)}; validation needs at least 2: render more pairs or hold out "
            "more scenes"
        )
    pairs = list(good.values())
    rooms = [room_of(index.shards[index.place_of(sample)[0]].scene) for sample in good]
    masks = validation_masks(len(samples), model.num_patches, num_masked)
    return ValidationPairs(
        images=torch.from_numpy(np.stack([pair.images for pair in pairs], axis=1)),
        masks=torch.from_numpy(masks),
        shuffled=torch.from_numpy(other_rows(rooms)),
        truth=torch.from_numpy(np.stack([pair.truth for pair in pairs])) if reader.truth else None,
        samples=samples,
    )


def samples_of_scenes(index: ShardIndex) -> dict[str, Int64]:
    """Return the sample numbers of each scene, in the index's order."""
    parts: dict[str, list[Int64]] = {}
    first = 0
    for entry in index.shards:
        parts.setdefault(entry.scene, []).append(np.arange(first, first + entry.count))
        first += entry.count
    return {scene: np.concatenate(numbers) for scene, numbers in parts.items()}


def choose_pairs(of_scene: dict[str, Int64], num_pairs: int) -> dict[int, str]:
    """Return sample numbers, and the scene of each.

    Every scene gives the same number, spread evenly over its own, or all it has.
    """
    share = max(1, num_pairs // len(of_scene))
    chosen: dict[int, str] = {}
    for scene, own in list(of_scene.items())[:num_pairs]:
        count = min(share, len(own))
        chosen |= dict.fromkeys(own[np.arange(count) * len(own) // count].tolist(), scene)
    return chosen


def other_rows(rooms: list[str]) -> Int64:
    """Return for each row, of these rooms, the row whose reference stands in for its own.

    One of another room; with a single room, half of the rows away.
    """
    rows = np.arange(len(rooms))
    if len(set(rooms)) == 1:
        return (rows + len(rows) // 2) % len(rows)
    others = np.empty_like(rows)
    for room in set(rooms):
        own = np.array([other == room for other in rooms])
        others[own] = rows[~own][rows[own] % np.sum(~own)]
    return others


class _Pair(NamedTuple):
    images: UInt8
    """(2, S, S, 3) centre crops."""
    truth: Float32
    """(N, 2) true_places; (0, 2) where they are not asked for."""


class _ValidationReader:
    """Reads pairs with what validation asks of them."""

    def __init__(self, reader: PairReader, model: ModelConfig) -> None:
        self._reader, self._model = reader, model
        self.truth = model.sees_reference and self._has_depth()
        """Whether the pairs come with their true_places."""

    def _has_depth(self) -> bool:
        try:
            self._reader.members(0, DEPTHS)
        except SampleError:  # it is there, and damaged
            return True
        except ShardError as error:
            logger.warning("no geometry score: %s", error)
            return False
        return True

    def read(self, sample: int) -> _Pair | SampleError:
        """Return a pair or, as a value too, in what it is damaged."""
        size = self._model.image_size
        try:
            images = [centre_crop(image, size) for image in self._reader.views(sample)]
            truth = (
                self._true_places(sample, images) if self.truth else np.empty((0, 2), np.float32)
            )
            return _Pair(np.stack(images), truth)
        except SampleError as error:
            return error

    def _true_places(self, sample: int, images: list[UInt8]) -> Float32:
        size = self._model.image_size
        try:
            depths = self._reader.depths(sample)
        except SampleError:
            raise
        except ShardError:  # among tars of several datasets, some may have no depth
            return np.full((self._model.num_patches, 2), np.nan, np.float32)
        view1, view2 = (
            View(
                camera=centre_cropped(camera, size), color=image, depth_m=centre_crop(depth_m, size)
            )
            for camera, image, depth_m in zip(self._reader.cameras(sample), images, depths)
        )
        return true_places(view1, view2, self._model.patch_size)


def _good_pairs(
    reader: _ValidationReader, of_scene: dict[str, Int64], chosen: dict[int, str], max_damaged: int
) -> dict[int, _Pair]:
    """Read the chosen pairs, several at a time, and others for those that are damaged."""
    good: dict[int, _Pair] = {}
    damaged: dict[int, str] = {}
    tried = set(chosen)
    with ThreadPoolExecutor(THREADS) as pool:
        first_tries = dict(zip(chosen, pool.map(reader.read, chosen)))
    for sample, scene in chosen.items():
        pair = first_tries[sample]
        untried = (n for n in _following(of_scene[scene], sample) if n not in tried)
        while isinstance(pair, SampleError):
            damaged[sample] = str(pair)
            logger.warning("damaged held-out pair %d, left out: %s", len(damaged), pair)
            if len(damaged) > max_damaged:
                raise too_many_damaged(damaged, max_damaged) from pair
            following = next(untried, None)
            if following is None:
                break
            sample = following
            tried.add(sample)
            pair = reader.read(sample)
        else:
            good[sample] = pair
    return good


def _following(samples: Int64, sample: int) -> Iterator[int]:
    """Yield the others of these samples, which are in order, from this one on and round."""
    place = int(np.searchsorted(samples, sample))
    for step in range(1, len(samples)):
        yield int(samples[(place + step) % len(samples)])


@torch.no_grad()
def validate(
    model: CroCo,
    pairs: ValidationPairs,
    process: Process,
    precision: Callable[[], torch.autocast],
) -> dict[str, float]:
    """Return the validation metrics by their names in metrics.jsonl; all processes share the work.

    val_loss, val_loss_shuffled and val_loss_none are with the true reference, with that of another
    pair, and with a uniform image of ImageNet's mean colour, which the normalisation makes zero.
    cross_view_gain = 1 - val_loss / val_loss_shuffled. geometry_* as in geometry_counts. A model
    that sees no reference has val_loss alone.
    """
    was_training = model.training
    model.eval()
    num_references = len(REFERENCES) if model.config.sees_reference else 1
    losses = torch.zeros(len(REFERENCES), dtype=torch.float64, device=process.device)
    geometry = torch.zeros(2, 4, dtype=torch.float64, device=process.device)
    starts = range(0, len(pairs), _BATCH)
    for start in starts[process.rank :: process.world_size]:
        rows = slice(start, start + _BATCH)
        mask = pairs.masks[rows]
        target = normalise(to_unit_range(pairs.images[0, rows], process.device))
        true = normalise(to_unit_range(pairs.images[1, rows], process.device))
        other = normalise(to_unit_range(pairs.images[1, pairs.shuffled[rows]], process.device))
        with precision():
            references = (true, other, torch.zeros_like(true))[:num_references]
            for kind, reference in enumerate(references):
                prediction = model(target, reference, mask)
                patch_size = model.config.patch_size
                losses[kind] += completion_losses(prediction, target, mask, patch_size).sum()
            if pairs.truth is not None:
                attention = cross_attention_map(model, target, true, mask)
                truth = pairs.truth[rows].to(process.device)
                geometry += geometry_counts(attention, truth, mask.to(process.device))
    model.train(was_training)
    loss, shuffled, none = (process.sum(losses) / len(pairs)).tolist()
    metrics = {"val_loss": loss, "val_pairs": float(len(pairs))}
    if model.config.sees_reference:
        metrics["val_loss_shuffled"] = shuffled
        metrics["val_loss_none"] = none
        metrics["cross_view_gain"] = 1 - loss / shuffled
    if pairs.truth is not None:
        metrics |= geometry_metrics(process.sum(geometry))
    return metrics


@torch.no_grad()
def validation_pictures(
    model: CroCo,
    pairs: ValidationPairs,
    device: torch.device,
    precision: Callable[[], torch.autocast],
) -> dict[str, UInt8]:
    """Return sheets, (H, W, 3), of the first pairs, one a row.

    completions: masked target, reference, completion, truth. cross_attention, of a model that sees
    a reference: the reference with a colour for each place; the target with the colours of where
    its patches looked; and, of pairs with depth, of where they should have looked.
    """
    was_training = model.training
    model.eval()
    size, side, rows = model.config.patch_size, model.config.grid[0], slice(0, 8)
    mask = pairs.masks[rows]
    views = [to_unit_range(pairs.images[view, rows], device) for view in (0, 1)]
    target, reference = (normalise(view) for view in views)
    attention = None
    with precision():
        completed = complete(model, target, reference, mask)
        if model.config.sees_reference:
            attention = cross_attention_map(model, target, reference, mask)
    model.train(was_training)
    truth = denormalise(target).clamp(0, 1)
    sheets = {"completions": sheet([masked(truth, mask, size), views[1], completed, truth])}
    if attention is not None:
        places = grid_places(model.config.grid)
        columns = [painted(views[1], colours_of_places(places, side), size)]
        found = [places[attention.argmax(-1).cpu()]]
        if pairs.truth is not None:
            found.append(pairs.truth[rows])
        columns += [painted(truth, colours_of_places(each, side), size) for each in found]
        sheets["cross_attention"] = sheet(columns)
    return sheets
