"""Tasks trained on a micro model for a moment, and judged."""

from __future__ import annotations

from dataclasses import replace

import torch
from micro import MICRO
from torch import Tensor, nn

from training.downstream import evaluation
from training.downstream.evaluation import Fitted, Outcome, fine_tuned, untrained
from training.downstream.example import Splits
from training.downstream.recipe import Recipe
from training.downstream.tasks import TASKS
from training.model.croco import CroCo, ModelConfig

MODEL = ModelConfig(**MICRO["model"], pos_embed="rope100")
CPU = torch.device("cpu")
MAE = replace(MODEL, decoder="self")
RECIPE = Recipe(max_steps=2, batch_size=2, lr=2e-3, head_width=16, precision="float32")


def fitted(
    task: str,
    splits: Splits,
    *,
    model: CroCo | None = None,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    device: torch.device = CPU,
    report=lambda step, loss: None,
    **changes,
) -> Fitted:
    """Fine-tune a model, by default an untrained one, by a recipe but for what changes."""
    return fine_tuned(
        TASKS[task],
        model or untrained(MODEL, 0),
        splits,
        replace(recipe, **changes),
        seed=seed,
        device=device,
        num_workers=0,
        report=report,
        snapshot=None,
    )


def judged(task: str, splits: Splits, *, config: ModelConfig = MODEL, **options) -> Outcome:
    """Judge what is fitted to a model of this shape."""
    result = fitted(task, splits, model=untrained(config, 0), **options)
    return evaluation.judged(TASKS[task], result, splits.val, num_pictures=4)


class Says(nn.Module):
    """Says the same of whatever it is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *images: Tensor) -> Tensor:
        return self.output
