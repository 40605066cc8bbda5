"""Pre-train CroCo: the loop, from shards to checkpoints."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from generation.errors import CrossviewError
from generation.plain import diff_plain, to_plain
from generation.shards.files import write_text_whole
from training import checkpoint
from training.augment import apply_jitter, draw_jitter, normalise, to_unit_range
from training.config import PretrainConfig, differences
from training.data import PairReader, Requests, batches, open_split
from training.distributed import Process, join, resolved_precision
from training.losses import completion_losses
from training.metrics import MetricsLog, StepWindow
from training.model.croco import CroCo, initialise
from training.optim import make_optimizer, num_masked
from training.order import Schedule, random_masks, rank_part, weights_seed
from training.parts import part
from training.provenance import describe_run
from training.run_folder import writing
from training.validation import ValidationPairs, load_validation_pairs, validate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a finished run leaves."""

    metrics: dict[str, float]
    """The last validation's, and steps."""
    checkpoint: Path
    """The last checkpoint."""


def pretrain(config: PretrainConfig, out: Path) -> PretrainResult:
    """Train until the end of the run, going on from the last checkpoint in out if there is one.

    Writes run.json, metrics.jsonl, tensorboard/ and checkpoints/ into out. In a process that
    torchrun started, trains together with the others. Raises CrossviewError, before anything is
    written, on data or an earlier run that does not fit; and later on a shard that is damaged, a
    folder that cannot be written, or a loss or weights that are not finite.
    """
    with join(config.device) as process:
        return _Run(config, Path(out), process).train()


class _Run:
    """One process's share of a run."""

    def __init__(self, config: PretrainConfig, out: Path, process: Process) -> None:
        self.config, self.out, self.process = config, out, process
        batch_size = config.optim.batch_size
        if batch_size % process.world_size:
            raise CrossviewError(
                f"optim.batch_size = {batch_size}: expected a multiple of the "
                f"{process.world_size} processes"
            )
        self.split = open_split(config.data)
        self.schedule = Schedule(
            shard_sizes=tuple(entry.count for entry in self.split.train.shards),
            batch_size=batch_size,
            seed=config.seed,
            window=config.data.window,
        )
        self.num_steps = config.optim.num_steps(self.schedule.steps_per_epoch)
        PairReader(self.split.train, config.model.image_size).views(0)  # large enough?
        self.pairs = self._validation_pairs()

        self.model = CroCo(config.model)
        initialise(self.model, torch.Generator().manual_seed(weights_seed(config.seed)))
        self.model.to(process.device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.precision_name = resolved_precision(config.precision, process.device)
        self.step = 0
        self.window = StepWindow(process)
        self.last_metrics: dict[str, float] = {}
        self._resume()

    def _validation_pairs(self) -> ValidationPairs:
        config = self.config
        hidden = num_masked(config.mask.ratio, config.model.num_patches)
        count = config.validation.num_pairs
        return load_validation_pairs(self.split.val, config.model, count, hidden)

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.out)
        if state is None:
            return
        lines = differences(state["config"], to_plain(self.config))
        lines += diff_plain(state["digests"], self.split.digests, "SHA-256 of the index of ")
        if lines:
            raise CrossviewError(
                f"{self.out} holds a run that was configured otherwise; take another folder or the "
                "same configuration:\n  " + "\n  ".join(lines)
            )
        checkpoint.load_weights(self.model, state["model"], self.out)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.window.loss_sum += state["window"]["loss_sum"]
        self.window.steps = state["window"]["steps"]
        self.last_metrics = state["metrics"]
        if self.process.is_first:
            logger.info("going on from step %d of %d", self.step, self.num_steps)

    def precision(self) -> torch.autocast:
        """Return the context in which the model runs."""
        enabled = self.precision_name == "bfloat16"
        return torch.autocast(self.process.device.type, torch.bfloat16, enabled=enabled)

    def train(self) -> PretrainResult:
        """Run all steps that are left."""
        log = self._open_log() if self.process.is_first else None
        try:
            if self.step < self.num_steps:
                self._loop(log)
        finally:
            if log is not None:
                log.close()
        self.process.wait_for_all()
        last = checkpoint.stored(self.out)[0]
        return PretrainResult(metrics={"step": self.step, **self.last_metrics}, checkpoint=last)

    def _open_log(self) -> MetricsLog:
        run = describe_run(
            self.config, self.split, self.model, self.num_steps, self.process, self.precision_name
        )
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            write_text_whole(self.out / "run.json", json.dumps(run, indent=1) + "\n")
        logger.info(
            "%d steps of %d pairs; %d pairs of %d scenes train, %d of %d validate; %s, %s",
            self.num_steps,
            self.config.optim.batch_size,
            self.split.train.num_pairs,
            len(self.split.train.scenes),
            len(self.pairs),
            len(self.split.val.scenes),
            self.process.device,
            self.precision_name,
        )
        return MetricsLog(self.out, self.step)

    def _loop(self, log: MetricsLog | None) -> None:
        config = self.config
        module = self._trained_module()
        self.model.train()
        incoming = self._batches()
        while self.step < self.num_steps:
            asked = time.perf_counter()
            images = next(incoming)
            got = time.perf_counter()
            loss, rate, ratio = self._step(module, images)
            self.step += 1
            self.window.add(loss, got - asked, time.perf_counter() - asked)
            finished = self.step == self.num_steps
            if self.step % config.log_every_steps == 0 or finished:
                self._log(log, rate, ratio)
            every = config.validation.every_steps
            if finished or (every and self.step % every == 0):
                self._validate(log)
            if finished or self.step % config.checkpoint_every_steps == 0:
                self._save()

    def _trained_module(self) -> nn.Module:
        module: nn.Module = self.model
        if self.config.compile:
            module = torch.compile(module)  # type: ignore[assignment]
        if self.process.world_size > 1:
            devices = [self.process.device] if self.process.device.type == "cuda" else None
            module = DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
        return module

    def _batches(self) -> Iterator[Tensor]:
        process = self.process
        requests = Requests(
            self.schedule, self.step, self.num_steps, process.rank, process.world_size
        )
        pin_memory = process.device.type == "cuda"
        size, workers = self.config.model.image_size, self.config.data.num_workers
        return batches(self.split.train, size, requests, workers, pin_memory)

    def _step(self, module: nn.Module, images: Tensor) -> tuple[Tensor, float, float]:
        """Train on a rank's (2, b, S, S, 3) bytes; return the loss, learning rate, mask ratio."""
        config, step, process = self.config, self.step, self.process
        batch_size, num_patches = config.optim.batch_size, config.model.num_patches
        rows = rank_part(batch_size, process.rank, process.world_size)
        ratio = config.mask.ratio_at(step, self.num_steps)
        hidden = num_masked(ratio, num_patches)
        masks = random_masks(config.seed, step, batch_size, num_patches, hidden)
        mask = torch.from_numpy(masks[rows])
        with part("augment"):
            target, reference = (
                normalise(apply_jitter(to_unit_range(view, process.device), jitter, rows))
                for view, jitter in zip(
                    images, draw_jitter(config.augment, config.seed, step, batch_size)
                )
            )
        rate = config.optim.learning_rate(step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with part("forward"):
            with self.precision():
                prediction = module(target, reference, mask)
            loss = completion_losses(prediction, target, mask, config.model.patch_size).mean()
        self.optimizer.zero_grad(set_to_none=True)
        with part("backward"):
            loss.backward()
        with part("optimizer"):
            if config.optim.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
            self.optimizer.step()
        return loss.detach(), rate, ratio

    def _log(self, log: MetricsLog | None, rate: float, ratio: float) -> None:
        loss, pairs_per_s, wait_share = self.window.close(self.config.optim.batch_size)
        self._require_finite("the loss is", loss)
        if log is None:
            return
        values = {
            "epoch": self.step / self.schedule.steps_per_epoch,
            "loss": loss,
            "lr": rate,
            "mask_ratio": ratio,
            "pairs_per_s": pairs_per_s,
            "data_wait_share": wait_share,
        }
        log.write("train", self.step, values)
        left_s = (self.num_steps - self.step) * self.config.optim.batch_size / pairs_per_s
        logger.info(
            "step %d/%d  loss %.4f  lr %.2e  mask %.2f  %.0f pairs/s  data wait %.0f %%  %s left",
            self.step,
            self.num_steps,
            loss,
            rate,
            ratio,
            pairs_per_s,
            100 * wait_share,
            f"{left_s / 60:.1f} min" if left_s < 7200 else f"{left_s / 3600:.1f} h",
        )

    def _validate(self, log: MetricsLog | None) -> None:
        self.last_metrics = validate(self.model, self.pairs, self.process, self.precision)
        if log is None:
            return
        epoch = self.step / self.schedule.steps_per_epoch
        log.write("val", self.step, {"epoch": epoch, **self.last_metrics})
        shown = ("val_loss", "cross_view_gain", "geometry_all", "geometry_moved")
        numbers = [f"{n} {self.last_metrics[n]:.4f}" for n in shown if n in self.last_metrics]
        logger.info("step %d/%d  %s", self.step, self.num_steps, "  ".join(numbers))

    def _require_finite(self, what: str, value: float) -> None:
        """Stop a run that diverged, before its weights are written over good ones."""
        if not math.isfinite(value):
            raise CrossviewError(
                f"{what} {value} at step {self.step}; start again with a lower optim.base_lr "
                f"(now {self.config.optim.base_lr}) or with optim.clip_norm = 1.0"
            )

    def _save(self) -> None:
        loss_sum = float(self.process.mean(self.window.loss_sum))
        self._require_finite("the sum of losses is", loss_sum)
        # A step whose loss was finite can break the weights, which only the next loss would show.
        norms = torch.stack([weight.detach().norm() for weight in self.model.parameters()])
        self._require_finite("the norm of the weights is", float(norms.norm()))
        if self.process.is_first:
            state = {
                "config": to_plain(self.config),
                "digests": self.split.digests,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "metrics": self.last_metrics,
                "window": {"loss_sum": loss_sum, "steps": self.window.steps},
            }
            checkpoint.save(self.out, self.step, state)
