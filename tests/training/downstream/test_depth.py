"""Depth: what it learns by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_tasks import Says

from training.downstream.tasks import TASKS

NAN = np.float32("nan")


def test_depth_learns_by_berhu():
    """Errors of 0.1, 1 and 2 m: up to a fifth of the largest they count as they are."""
    truth = torch.tensor([[[1.0, 2.0, 4.0, NAN]]])
    found = torch.tensor([[[1.1, 3.0, 2.0, 9.0]]])
    raw = (found - 1e-3).expm1().log()  # of which softplus is the inverse
    batch = {"image": torch.zeros(1, 3, 1, 4), "depth_m": truth}
    loss = TASKS["depth"].loss(Says(raw.unsqueeze(1)), batch)
    squares = [(error**2 + 0.4**2) / 0.8 for error in (1.0, 2.0)]
    assert float(loss) == pytest.approx((0.1 + sum(squares)) / 3, rel=1e-4)
