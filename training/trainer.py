"""Pre-train CroCo: the loop, from shards to checkpoints."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from generation.errors import CrossviewError, first_few
from generation.files import write_text_whole
from generation.plain import to_plain
from training import checkpoint
from training.augment import Jitter, augment, draw_jitter, normalise, to_unit_range
from training.bad_step import (
    bad_step_error,
    diverged,
    forget_bad_step,
    refuse_to_repeat,
    write_bad_step,
)
from training.config import PretrainConfig
from training.data import open_split, require_cache, require_large_enough
from training.device import allow_tf32, peak_memory_gib, resolved_precision
from training.distributed import Process, join
from training.ema import WeightAverage
from training.host_memory import keep_freed_memory
from training.loader import Requests, batches
from training.losses import completion_losses
from training.metrics_log import MetricsLog, StepWindow
from training.model.croco import CroCo, initialise
from training.model.weights import load_weights
from training.optim import make_optimizer, num_masked
from training.order import (
    Batches,
    SamplesTaken,
    Schedule,
    random_masks,
    rank_part,
    swapped_views,
    weights_seed,
)
from training.parallel import (
    load_optimizer,
    sharing_gradients,
    total_norm,
    trained_module,
    whole,
    whole_state,
)
from training.provenance import RUN_NAME, describe_run, described_run
from training.run_card import write_run_card
from training.run_folder import writing
from training.start import begin_with, earlier_run, held, require_agreement, require_common_folder
from training.step_timing import timed
from training.validation import (
    ValidationPairs,
    load_validation_pairs,
    validate,
    validation_pictures,
)
from training.verdicts import Verdict, Verdicts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a run leaves."""

    metrics: dict[str, float]
    """The last validation's, and steps."""
    checkpoint: Path | None
    """The last checkpoint; None in processes that did not write it."""
    num_steps: int
    """Length of the whole run; metrics has fewer steps where it was asked to stop."""


def pretrain(
    config: PretrainConfig, out: Path, stop: Callable[[], bool] = lambda: False
) -> PretrainResult:
    """Train until the end of the run, going on from the last checkpoint in out if there is one.

    Writes README.md, run.json, metrics.jsonl, tensorboard/ and checkpoints/ into out. In a process
    that torchrun or Ray started, trains together with the others. Once stop says so in any of them,
    all save and return after the same step. Raises CrossviewError, before anything is written, on
    data or an earlier run that does not fit; and later on a shard that is damaged, a folder that
    cannot be written, a GPU of too little memory, or a loss, gradient or weights that are not
    finite.
    """
    with join(config.device) as process:
        try:
            return _Run(config, Path(out), process, stop).train()
        except torch.OutOfMemoryError as error:
            raise CrossviewError(
                f"{config.optim.batch_size} pairs a step on {process.world_size} processes do not "
                "fit into the device's memory; raise optim.accumulate, or set "
                "activation_checkpointing=true or, with several GPUs, parallel=fsdp"
            ) from error


class _Run:
    """One process's share of a run."""

    def __init__(
        self, config: PretrainConfig, out: Path, process: Process, stop: Callable[[], bool]
    ) -> None:
        self.config, self.out, self.process, self.stop = config, out, process, stop
        if process.restarts:
            refuse_to_repeat(out, config.optim.base_lr)
        batch_size = config.optim.batch_size
        if process.world_size > batch_size:
            raise CrossviewError(
                f"optim.batch_size = {batch_size}: expected at least a pair for each of the "
                f"{process.world_size} processes"
            )
        if (
            config.augment.unrelated
            and batch_size < 2 * process.world_size * config.optim.accumulate
        ):
            raise CrossviewError(
                f"augment.unrelated: expected an optim.batch_size (now {batch_size}) of two pairs "
                "for each part of each process"
            )
        self.split = open_split(config.data)
        self.schedule = Schedule(
            shares=self.split.shares,
            batch_size=batch_size,
            seed=config.seed,
            window=config.data.window,
        )
        self.num_steps = config.optim.num_steps(self.schedule.steps_per_epoch)
        require_cache(config.data, self.split.train)
        require_large_enough(self.split, config.model.image_size, config.data)
        self.pairs = self._validation_pairs()

        self.model = CroCo(config.model)
        initialise(self.model, torch.Generator().manual_seed(weights_seed(config.seed)))
        self.found = checkpoint.stored(out)
        earlier = earlier_run(config, self.split, self.num_steps, out)
        self.init_sha256 = begin_with(self.model, config.init, earlier)
        step = earlier["step"] if earlier else 0
        require_agreement(process, step, config, self.split.digests, self.init_sha256)
        if earlier:
            load_weights(self.model, earlier["model"], out)
        self.model.to(process.device)
        self.module = trained_module(
            self.model,
            process,
            config.parallel,
            compiled=config.compile,
            recomputed=config.activation_checkpointing,
        )
        self.optimizer = make_optimizer(self.model, config.optim)
        decay = config.optim.ema
        self.average = None if decay is None else WeightAverage(self.model, decay)
        self.precision_name = resolved_precision(config.precision, process.device)
        allow_tf32(self.precision_name == "tf32")
        self.step = 0
        self.window = StepWindow(process)
        self.verdicts = Verdicts(process)
        self.stopping = False
        self.last_metrics: dict[str, float] = {}
        """Of the last validation, val_step its step."""
        self.best_val_loss = math.inf
        if earlier:
            self._go_on_from(earlier)

    def _validation_pairs(self) -> ValidationPairs:
        config = self.config
        hidden = num_masked(config.mask.ratio, config.model.num_patches)
        count = config.validation.num_pairs
        return load_validation_pairs(self.split.val, config.model, count, hidden, config.data)

    def _go_on_from(self, state: dict[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load(state["ema"])
        self.step = state["step"]
        self.window.loss_sum += state["window"]["loss_sum"]
        self.window.steps = state["window"]["steps"]
        self.last_metrics = state["metrics"]
        best = checkpoint.best_val_loss(self.out) if self.process.is_first else math.inf
        # All must find the same steps to be the best: they save together.
        known = torch.tensor([best], dtype=torch.float64, device=self.process.device)
        self.best_val_loss = float(self.process.gather(known)[0])
        if self.process.is_first:
            logger.info("going on from step %d of %d", self.step, self.num_steps)

    def precision(self) -> torch.autocast:
        """Return the context in which the model runs."""
        enabled = self.precision_name == "bfloat16"
        return torch.autocast(self.process.device.type, torch.bfloat16, enabled=enabled)

    def train(self) -> PretrainResult:
        """Run all steps that are left."""
        with held(self.out, self.found) if self.process.is_first else nullcontext():
            require_common_folder(self.process, self.out)
            return self._train()

    def _train(self) -> PretrainResult:
        first = self.process.is_first
        log = None
        if first and self.step < self.num_steps:
            self._describe()
            log = self._open_log()
        elif first and described_run(self.out) is None:
            logger.warning(
                "%s: written anew, with the versions and device of this start", self.out / RUN_NAME
            )
            self._describe()
        try:
            keep = self.config.keep_checkpoints
            with checkpoint.Writer(self.out, keep) if first else nullcontext() as self.writer:
                if self.step < self.num_steps:
                    self._loop(log)
            if self.stopping and log is not None:
                logger.info("asked to stop: saved after step %d of %d", self.step, self.num_steps)
        finally:
            if log is not None:
                log.close()
        self.process.wait_for_all()
        last = checkpoint.stored(self.out)[0] if first else None  # others may see it later
        metrics = {"step": self.step, **self.last_metrics}
        return PretrainResult(metrics=metrics, checkpoint=last, num_steps=self.num_steps)

    def _describe(self) -> None:
        """Write run.json and README.md."""
        run = describe_run(
            self.config,
            self.split,
            self.init_sha256,
            self.model,
            self.num_steps,
            self.process,
            self.precision_name,
        )
        with writing(self.out):
            write_text_whole(self.out / RUN_NAME, json.dumps(run, indent=1) + "\n")
            write_run_card(self.out, run)

    def _open_log(self) -> MetricsLog:
        with writing(self.out):
            forget_bad_step(self.out)
        if shared := self.split.trained_on_too:
            logger.warning(
                "%d of %d scenes to validate on are trained on too: %s",
                len(shared),
                len(self.split.val.scenes),
                first_few(shared),
            )
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
        if len(self.split.datasets) > 1:
            self._tell_of_mixture()
        return MetricsLog(self.out, self.step)

    def _tell_of_mixture(self) -> None:
        taken = SamplesTaken(self.schedule, self.num_steps).before(self.num_steps)
        for index, count in zip(self.split.datasets, taken):
            logger.info(
                "of %s %d pairs of %d scenes train: %.3g %% of the run, each %.3g times",
                index.folder,
                index.num_pairs,
                len(index.scenes),
                100 * count / taken.sum(),
                count / index.num_pairs,
            )

    def _loop(self, log: MetricsLog | None) -> None:
        if self.process.device.type == "cpu":
            keep_freed_memory()
        self.model.train()
        with closing(self._batches()) as incoming:  # else its processes end some time later
            while self.step < self.num_steps and not self.stopping:
                self._turn(incoming, log)

    def _turn(self, incoming: Iterator[Tensor], log: MetricsLog | None) -> None:
        """Do a step, and what is due after it."""
        config = self.config
        asked = time.perf_counter()
        images = next(incoming)
        got = time.perf_counter()
        loss, rate, ratio = self._step(images)
        self.step += 1
        finished = self.step == self.num_steps
        logs = self.step % config.log_every_steps == 0 or finished
        every = config.validation.every_steps
        validates = finished or (every > 0 and self.step % every == 0)
        saves = finished or self.step % config.checkpoint_every_steps == 0
        self._heed(wait=logs or validates or saves)
        self.window.add(loss, got - asked, time.perf_counter() - asked)
        if logs:
            self._log(log, rate, ratio)
        best = validates and self._validate(log)
        if saves or best or self.stopping:
            self._save(best=best)

    def _heed(self, *, wait: bool) -> None:
        """Stop, all processes at the same step, where the device has found a reason to."""
        for verdict in self.verdicts.due(all_of_them=wait):
            if verdict.bad:
                raise self._bad_step(verdict)
            self.stopping |= verdict.stop
        if self.stopping and not wait:
            self._heed(wait=True)  # what is saved must be known to be good

    def _bad_step(self, verdict: Verdict) -> CrossviewError:
        config, step, process = self.config, verdict.step, self.process
        losses = torch.zeros(config.optim.batch_size, device=process.device)
        mine = rank_part(len(losses), process.rank, process.world_size)
        losses[mine] = verdict.losses
        losses = process.sum(losses)
        if self.process.is_first:
            samples = Batches(self.schedule, self.num_steps).samples(step)
            reader = config.data.reader(self.split.train, config.model.image_size)
            places = [reader.where(int(sample)) for sample in samples]
            rate = config.optim.learning_rate(step, self.num_steps)
            write_bad_step(self.out, step + 1, rate, dict(zip(places, losses.tolist())))
        return bad_step_error(self.out, step + 1, config.optim.base_lr)

    def _batches(self) -> Generator[Tensor, None, None]:
        process = self.process
        requests = Requests(
            self.schedule, self.step, self.num_steps, process.rank, process.world_size
        )
        return batches(
            self.split.train,
            self.config.model.image_size,
            requests,
            self.config.data,
            on_gpu=process.device.type == "cuda",
            whole=self.config.augment.bends,
        )

    def _step(self, images: Tensor) -> tuple[Tensor, float, float]:
        """Train on a rank's (2, b, S, S, 3) bytes; return the loss, learning rate, mask ratio."""
        config, step, process = self.config, self.step, self.process
        batch_size, num_patches = config.optim.batch_size, config.model.num_patches
        ratio = config.mask.ratio_at(step, self.num_steps)
        hidden = num_masked(ratio, num_patches)
        mine = rank_part(batch_size, process.rank, process.world_size)
        masks = random_masks(config.seed, step, batch_size, num_patches, hidden, mine)
        jitters = draw_jitter(config.augment, config.seed, step, batch_size)
        rate = config.optim.learning_rate(step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        # As many on every rank, because FSDP's gather the weights together.
        parts = min(config.optim.accumulate, batch_size // process.world_size)
        losses = []
        for number in range(parts):
            own = rank_part(mine.stop - mine.start, number, parts)
            rows = slice(mine.start + own.start, mine.start + own.stop)
            mask = torch.from_numpy(masks[own])
            with sharing_gradients(self.module, number == parts - 1):
                each = self._losses(images[:, own], mask, jitters, rows)
                with timed("backward"):
                    self._share_of_mean(each).backward()
            losses.append(each.detach())
        with timed("optimizer"):
            self._update(torch.cat(losses))
        return self._share_of_mean(torch.cat(losses)), rate, ratio

    def _share_of_mean(self, losses: Tensor) -> Tensor:
        """Return what, in the mean over all processes, is the mean over the global batch.

        Processes may have one row more or less than others, and gradients are their mean.
        """
        return losses.sum() / (self.config.optim.batch_size / self.process.world_size)

    def _losses(self, images: Tensor, mask: Tensor, jitters: list[Jitter], rows: slice) -> Tensor:
        """Return the (b,) losses of (2, b, S, S, 3) bytes, which are these rows of the batch."""
        device, crop = self.process.device, self.config.model.image_size
        with timed("augment"):
            target, reference = (
                normalise(augment(to_unit_range(view, device), jitter, rows, crop))
                for view, jitter in zip(images, jitters)
            )
            if self.config.augment.unrelated:
                reference = reference.roll(1, 0)
            if not self.config.model.sees_reference:  # it learns from both pictures of a pair
                config = self.config
                swapped = swapped_views(config.seed, self.step, config.optim.batch_size)[rows]
                second = torch.from_numpy(swapped).to(device, non_blocking=True)
                target = torch.where(second.view(-1, 1, 1, 1), reference, target)
        num_visible = int((~mask[0]).sum())  # while the mask is on the CPU
        mask = mask.to(device, non_blocking=True)
        with timed("forward"):
            with self.precision():
                prediction = self.module(target, reference, mask, num_visible)
            return completion_losses(prediction, target, mask, self.config.model.patch_size)

    def _update(self, losses: Tensor) -> None:
        """Change the weights by their gradients, unless these or the losses are not finite."""
        parameters = list(self.model.parameters())
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_norm, norm)
        # Read by the fused kernel, on the device, as torch.amp's GradScaler has it do.
        self.optimizer.found_inf = self.verdicts.judge(  # type: ignore[attr-defined]
            self.step, losses, norm, self.stop()
        )
        self.optimizer.step()
        if self.average:
            self.average.update(self.step)

    def _log(self, log: MetricsLog | None, rate: float, ratio: float) -> None:
        loss, pairs_per_s, wait_share = self.window.close(self.config.optim.batch_size)
        if log is None:
            return
        values = {
            "epoch": self.step / self.schedule.steps_per_epoch,
            "loss": loss,
            "lr": rate,
            "mask_ratio": ratio,
            "pairs_per_s": pairs_per_s,
            "data_wait_share": wait_share,
            "memory_gib": peak_memory_gib(self.process.device),
        }
        log.write("train", self.step, values)
        left_s = (self.num_steps - self.step) * self.config.optim.batch_size / pairs_per_s
        logger.info(
            "step %d/%d  loss %.4f  lr %.2e  mask %.2f  %.0f pairs/s  data wait %.0f %%  "
            "memory %.1f GiB  %s left",
            self.step,
            self.num_steps,
            loss,
            rate,
            ratio,
            pairs_per_s,
            100 * wait_share,
            values["memory_gib"],
            f"{left_s / 60:.1f} min" if left_s < 7200 else f"{left_s / 3600:.1f} h",
        )

    def _validate(self, log: MetricsLog | None) -> bool:
        """Validate; return whether this is the best so far."""
        model = self._judged_model()
        metrics = validate(model, self.pairs, self.process, self.precision)
        self.last_metrics = {"val_step": self.step, **metrics}
        best = metrics["val_loss"] < self.best_val_loss
        self.best_val_loss = min(self.best_val_loss, metrics["val_loss"])
        if log is None:
            return best
        epoch = self.step / self.schedule.steps_per_epoch
        log.write("val", self.step, {"epoch": epoch, **metrics})
        pictures = validation_pictures(model, self.pairs, self.process.device, self.precision)
        log.show(self.step, pictures)
        shown = ("val_loss", "cross_view_gain", "geometry_all", "geometry_moved")
        numbers = [f"{n} {metrics[n]:.4f}" for n in shown if n in metrics]
        logger.info("step %d/%d  %s", self.step, self.num_steps, "  ".join(numbers))
        return best

    def _judged_model(self) -> CroCo:
        """Return the model to validate: whole, and with the averaged weights if there are any."""
        if not self.average and not isinstance(self.module, FSDPModule):
            return self.model
        weights = {name: whole(tensor) for name, tensor in self._judged_weights().items()}
        model = CroCo(self.config.model).to(self.process.device)
        model.load_state_dict(weights)
        return model

    def _save(self, *, best: bool) -> None:
        # A step whose gradient was finite can break the weights, which only the next loss shows.
        norm = float(total_norm(weight.detach() for weight in self.model.parameters()))
        if not math.isfinite(norm):
            what = f"the norm of the weights is {norm} at step {self.step}"
            raise diverged(what, self.config.optim.base_lr)
        state = {
            "config": to_plain(self.config),
            "digests": self.split.digests,
            "init_sha256": self.init_sha256,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "metrics": self.last_metrics,
            "window": {
                "loss_sum": float(self.process.mean(self.window.loss_sum)),
                "steps": self.window.steps,
            },
        }
        if self.average:
            state["ema"] = self._judged_weights()
        state = whole_state(state, keep=self.process.is_first)
        if self.writer:
            self.writer.save(self.step, state, best=best)

    def _judged_weights(self) -> dict[str, Tensor]:
        averages = self.average.averages if self.average else {}
        return {**self.model.state_dict(), **averages}
