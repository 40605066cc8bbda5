"""What a model learnt, on held-out scenes: fixed pairs, centre crops, fixed masks, no jitter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generation.errors import CrossviewError
from generation.shards.reader import ShardIndex
from generation.shards.schema import DEPTHS, ShardError
from training.augment import normalise, to_unit_range
from training.bounds import require
from training.correspondence import (
    GeometryCounts,
    cameras_of,
    centre_crop,
    centre_cropped,
    geometry_counts,
    true_places,
)
from training.data import PairReader
from training.distributed import Process
from training.losses import completion_losses
from training.model.croco import CroCo, ModelConfig
from training.order import Int64, validation_masks

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
    """(n,) whose reference stands in for each pair's own: of another scene where there are two."""
    truth: Tensor | None
    """(n, N, 2) true_places of each target patch in its reference; None without depth, and for a
    model that sees no reference."""
    samples: Int64
    """(n,) sample numbers in the index."""

    def __len__(self) -> int:
        return len(self.samples)


def load_validation_pairs(
    index: ShardIndex, model: ModelConfig, num_pairs: int, num_masked: int
) -> ValidationPairs:
    """Read the pairs of an index to validate on: always the same for the same index.

    Raises CrossviewError where there are fewer than two pairs, or one cannot be read.
    """
    samples, others = choose_pairs(index, num_pairs)
    if len(samples) < 2:
        raise CrossviewError(
            f"{index.folder}: {len(samples)} pair of held-out scenes {', '.join(index.scenes)}; "
            "validation needs at least 2: render more pairs or hold out more scenes"
        )
    reader, size = PairReader(index, model.image_size), model.image_size
    images = np.empty((2, len(samples), size, size, 3), np.uint8)
    for row, sample in enumerate(samples):
        for view, image in enumerate(reader.views(int(sample))):
            images[view, row] = centre_crop(image, size)
    masks = validation_masks(len(samples), model.num_patches, num_masked)
    return ValidationPairs(
        images=torch.from_numpy(images),
        masks=torch.from_numpy(masks),
        shuffled=torch.from_numpy(others),
        truth=_read_truth(reader, samples, model),
        samples=samples,
    )


def choose_pairs(index: ShardIndex, num_pairs: int) -> tuple[Int64, Int64]:
    """Return (n,) sample numbers, and for each of them the row whose reference stands in for its.

    Every scene gives the same number, spread evenly over its own, or all it has. The other row is
    of another scene; with a single scene, half of its pairs away.
    """
    numbers = np.arange(index.num_pairs)
    of_scene = np.repeat(
        [index.scenes.index(entry.scene) for entry in index.shards],
        [entry.count for entry in index.shards],
    )
    share = max(1, num_pairs // len(index.scenes))
    chosen = []
    for scene in range(len(index.scenes)):
        own = numbers[of_scene == scene]
        chosen.append(own[np.arange(min(share, len(own))) * len(own) // min(share, len(own))])
    chosen = chosen[: max(1, num_pairs)]
    samples = np.concatenate(chosen).astype(np.int64)
    rows = np.arange(len(samples))
    if len(chosen) == 1:
        return samples, (rows + len(rows) // 2) % len(rows)
    scene_of_row = np.repeat(np.arange(len(chosen)), [len(own) for own in chosen])
    elsewhere = [rows[scene_of_row != scene] for scene in range(len(chosen))]
    others = [
        elsewhere[scene][row % len(elsewhere[scene])] for row, scene in enumerate(scene_of_row)
    ]
    return samples, np.array(others)


def _read_truth(reader: PairReader, samples: Int64, model: ModelConfig) -> Tensor | None:
    if not model.sees_reference:
        return None
    try:
        reader.members(int(samples[0]), DEPTHS)
    except ShardError as error:  # rendered without depth; depth that is damaged fails below
        logger.warning("no geometry score: %s", error)
        return None
    truth = np.empty((len(samples), model.num_patches, 2), np.float32)
    for row, sample in enumerate(samples):
        depths = reader.depths(int(sample))
        camera1, camera2 = cameras_of(reader.record(int(sample)))
        truth[row] = true_places(
            centre_crop(depths[0], model.image_size),
            centre_crop(depths[1], model.image_size),
            centre_cropped(camera1, model.image_size),
            centre_cropped(camera2, model.image_size),
            model.patch_size,
        )
    return torch.from_numpy(truth)


def attention_map(layers: Tensor) -> Tensor:
    """Return the one (B, N, N) map that is scored, of (B, layers, heads, N, N) attention.

    The mean over all heads of the last half of the decoder's layers: a fixed rule for every model.
    Chosen on two tiny models, where it found 0.297 and 0.242 of the patches that moved; the mean
    over all layers 0.269 and 0.235, the last layer alone 0.281 and 0.245.
    """
    return layers[:, layers.shape[1] // 2 :].mean((1, 2))


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
                attention = attention_map(model.cross_attention(target, true, mask))
                truth = pairs.truth[rows].to(process.device)
                geometry += geometry_counts(attention, truth, mask.to(process.device)).sums
    model.train(was_training)
    loss, shuffled, none = (process.sum(losses) / len(pairs)).tolist()
    metrics = {"val_loss": loss, "val_pairs": float(len(pairs))}
    if model.config.sees_reference:
        metrics["val_loss_shuffled"] = shuffled
        metrics["val_loss_none"] = none
        metrics["cross_view_gain"] = 1 - loss / shuffled
    if pairs.truth is not None:
        metrics |= GeometryCounts(process.sum(geometry)).metrics()
    return metrics
