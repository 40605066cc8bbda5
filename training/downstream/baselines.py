"""What one says of every example without looking at it: what a network must be ahead of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from training.downstream.example import UNKNOWN_LABEL, Example, Splits, at_most
from training.downstream.labels import require_class
from training.downstream.task import Answer, Prediction

VERSION = 1
"""Raised when the answers change."""
NUM_FITTED = 100
"""Training examples that it is fitted to, evenly spread."""


def constant_map(splits: Splits, name: str) -> Answer | None:
    """Say the same of every pixel: the median of the medians of training examples, by channel.

    None where nothing is known of any.
    """
    medians = [
        np.median(known, axis=0)
        for example in fitted(splits)
        if len(known := _known(example.truth[name]))
    ]
    if not medians:
        return None
    value = np.median(medians, axis=0).astype(np.float32)

    def answer(example: Example) -> Prediction:
        return {name: np.broadcast_to(value, example.truth[name].shape)}

    return answer


def label_counts(splits: Splits, name: str) -> np.ndarray:
    """Return how often training examples show each class, (C,) int64.

    Raises CrossviewError for a label that the dataset does not name.
    """
    counts = np.zeros(len(splits.classes), np.int64)
    for example in fitted(splits):
        labels = example.truth[name]
        require_class(int(labels.max()), len(counts))
        counts += np.bincount(labels[labels != UNKNOWN_LABEL], minlength=len(counts))
    return counts


def fitted(splits: Splits) -> Iterator[Example]:
    """Yield the training examples that a baseline is fitted to."""
    examples = at_most(splits.train, NUM_FITTED)
    return (examples[number] for number in range(len(examples)))


def _known(truth: np.ndarray) -> np.ndarray:
    """Return the known (N,) or (N, C) pixels of an (H, W) or (H, W, C) map."""
    known = np.isfinite(truth)
    known = known if truth.ndim == 2 else known.all(-1)
    return truth[known]
