"""What tasks share that tell classes apart."""

from __future__ import annotations

from torch import Tensor

from generation.errors import CrossviewError
from training.downstream.example import Splits
from training.downstream.losses import cross_entropy


def num_classes(splits: Splits) -> int:
    """Return how many classes a dataset has. Raises CrossviewError unless there are two or more."""
    count = len(splits.classes)
    if count < 2:
        raise CrossviewError(
            f"the dataset has {count} classes ({', '.join(splits.classes)}): expected at least 2"
            if count
            else "the dataset has no classes: expected at least 2; take one that has labels"
        )
    return count


def require_class(largest: int, count: int) -> None:
    """Raise CrossviewError unless the largest class of some labels is among count classes."""
    if largest >= count:
        raise CrossviewError(
            f"a label is class {largest}: expected 0 to {count - 1}, for the dataset names {count} "
            "classes; its list of classes and its labels must go together"
        )


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of (B, C, ...) logits with (B, ...) labels, -1 unknown.

    Raises CrossviewError for a label above C - 1.
    """
    # Waits for the device, once a step: a class too many would there be an error beyond mending.
    require_class(int(labels.max()), logits.shape[1])
    return cross_entropy(logits, labels)
