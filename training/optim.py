"""AdamW and its learning rate, the length of a run, and how much is masked when."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from generation.bounds import require


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How long to train, and how. The defaults are the published CroCo v1."""

    epochs: float = 400.0
    """Length of the run in passes over the training pairs, unless max_steps says otherwise."""
    max_steps: int | None = None
    """Length of the run in steps; None: as epochs says."""
    batch_size: int = 256
    """Pairs a step, over all processes together."""
    accumulate: int = 1
    """Parts, as many as it has pairs at most, into which each process cuts its share of a step, to
    need less memory; the gradients are the same."""
    base_lr: float = 1.5e-4
    """Peak learning rate for a batch of 256; the peak is base_lr * batch_size / 256."""
    warmup: float = 0.1
    """Share of the run in which the rate rises linearly from 0. Published: 40 of 400 epochs."""
    cosine_length: float = 2.0
    """Where the cosine would reach 0, in lengths of the run. Published: 800 of 400 epochs, so that
    the run stops at half the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = 0.05
    """Decoupled; not on biases and norms."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; None: no clipping, as published."""
    ema: float | None = None
    """Decay a step of a moving average of the weights, which is then what is validated; it is kept
    in the checkpoints beside the weights. 0.9999 is usual; None: no average, as published."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, "optim.epochs", self.epochs, "above 0")
        if self.max_steps is not None:
            require(self.max_steps >= 1, "optim.max_steps", self.max_steps, "at least 1")
        require(self.batch_size >= 1, "optim.batch_size", self.batch_size, "at least 1")
        require(self.accumulate >= 1, "optim.accumulate", self.accumulate, "at least 1")
        require(self.base_lr > 0, "optim.base_lr", self.base_lr, "above 0")
        require(0 <= self.warmup < 1, "optim.warmup", self.warmup, "0 or more, below 1")
        require(self.cosine_length >= 1, "optim.cosine_length", self.cosine_length, "at least 1")
        inside = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(inside, "optim.betas", self.betas, "two numbers, 0 or more, below 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "above 0")
        if self.ema is not None:
            require(0 < self.ema < 1, "optim.ema", self.ema, "above 0, below 1")

    def num_steps(self, steps_per_epoch: float) -> int:
        """Return the length of the run in steps."""
        return self.max_steps or max(1, round(self.epochs * steps_per_epoch))

    def learning_rate(self, step: int, num_steps: int) -> float:
        """Return the rate of a step, counted from 0."""
        peak = self.base_lr * self.batch_size / 256
        warmup_steps = self.warmup * num_steps
        if step < warmup_steps:
            return peak * step / warmup_steps
        progress = (step - warmup_steps) / (self.cosine_length * num_steps - warmup_steps)
        return peak * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How much of the target is hidden."""

    ratio: float = 0.9
    """Share of hidden patches at the end of the run, and in validation; published: 0.9."""
    ratio_start: float | None = None
    """Share of hidden patches at the beginning; None: ratio throughout, as published."""
    rise_from: float = 0.5
    """Where the share begins to rise linearly, as a share of the run."""
    rise_to: float = 1.0
    """Where the share reaches ratio, as a share of the run."""

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, "mask.ratio", self.ratio, "above 0, below 1")
        if self.ratio_start is not None:
            inside = 0 < self.ratio_start < 1
            require(inside, "mask.ratio_start", self.ratio_start, "above 0, below 1")
        inside = 0 <= self.rise_from <= self.rise_to <= 1
        ends = (self.rise_from, self.rise_to)
        require(inside, "(mask.rise_from, mask.rise_to)", ends, "0 or more, ascending, at most 1")

    def ratio_at(self, step: int, num_steps: int) -> float:
        """Return the share of hidden patches of a step, counted from 0."""
        if self.ratio_start is None:
            return self.ratio
        begin, end = self.rise_from * num_steps, self.rise_to * num_steps
        risen = (step - begin) / (end - begin) if end > begin else float(step >= end)
        return self.ratio_start + (self.ratio - self.ratio_start) * min(1.0, max(0.0, risen))


def num_masked(ratio: float, num_patches: int) -> int:
    """Return how many of an image's patches are hidden: rounded down, as published, 1 or more."""
    return max(1, int(ratio * num_patches))


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW without weight decay on biases and norms (1-d tensors)."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
