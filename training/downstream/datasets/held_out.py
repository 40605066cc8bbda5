"""Datasets whose owners keep the truth of their test set: some of the training set validates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from training.downstream.datasets.folder import FromFiles, Layout
from training.downstream.example import Example, Splits

Entry = TypeVar("Entry")


def splits(
    layout: Layout,
    root: Path,
    train: Sequence[Entry],
    val: Sequence[Entry],
    read: Callable[[Entry], Example],
) -> Splits:
    """Return both parts, read by the same function.

    Raises CrossviewError where one is empty.
    """
    for part, entries in (("train", train), ("validate", val)):
        if not entries:
            raise layout.error(root, f"nothing to {part} on")
    return Splits(train=FromFiles(train, read), val=FromFiles(val, read))
