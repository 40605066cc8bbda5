"""Pre-train on a Ray cluster with Ray Train: its one door."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from generation.errors import CrossviewError
from generation.locations import is_remote
from pipelines.executors.on_ray import connect
from pipelines.executors.worker import import_path
from pipelines.log import log_to_stderr
from training.bad_step import forget_bad_step, refuse_to_repeat
from training.config import PretrainConfig
from training.run_folder import writing
from training.trainer import PretrainResult, pretrain

FOLDER = "ray"
"""In the folder of a run: what Ray Train keeps."""

EXTRA = "pip install 'crossview[ray-train]'"


def train_on_ray(
    config: PretrainConfig,
    out: Path,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    max_restarts: int = 3,
) -> PretrainResult:
    """Train in several processes, wherever in a Ray cluster there is room.

    address: a running cluster's HOST:PORT, or "auto" to find it; None starts a local one.
    num_workers: None for one on every GPU, or without GPUs on every machine. All machines see the
    data and out under the same paths. When a process or its machine dies, all are started again,
    so many times, and go on from the last checkpoint. Raises CrossviewError where Ray cannot be
    reached, has no GPU although device is cuda, or training fails as pretrain does.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise CrossviewError(f"Ray Train is not installed whole ({error}); {EXTRA}") from error

    out, config = out.absolute(), _wherever_it_runs(config)
    with _cluster(address, num_workers), _stop_file(out) as stop_file:
        forget_bad_step(out)
        scaling = _scaling(config, num_workers)
        trainer = TorchTrainer(
            _member,
            train_loop_config={"config": config, "out": out, "stop_file": stop_file},
            torch_config=TorchConfig(backend="nccl" if scaling["use_gpu"] else "gloo"),
            scaling_config=ScalingConfig(**scaling),
            run_config=RunConfig(
                name=FOLDER,
                storage_path=str(out),
                failure_config=FailureConfig(
                    max_failures=max_restarts,
                    controller_failure_limit=max_restarts,  # type: ignore[call-arg]
                ),
            ),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise _mendable(error, max_restarts) from error
    outcome: PretrainResult = result.return_value  # of the first process
    return outcome


def _wherever_it_runs(config: PretrainConfig) -> PretrainConfig:
    """Return the same with absolute paths: Ray Train's processes have folders of their own."""

    def absolute(path: Path) -> Path:
        return path if is_remote(path) else path.expanduser().absolute()

    data = replace(
        config.data,
        path=absolute(config.data.path),
        val_path=config.data.val_path and absolute(config.data.val_path),
        mixture=tuple(replace(part, path=absolute(part.path)) for part in config.data.mixture),
        cache_dir=absolute(config.data.cache_dir),
    )
    return replace(config, data=data, init=config.init and absolute(config.init))


def _member(given: dict[str, Any]) -> Any:
    """Be one of the processes."""
    import ray.train.torch

    log_to_stderr()
    config, out, stop_file = given["config"], given["out"], given["stop_file"]
    refuse_to_repeat(out, config.optim.base_lr)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    first = ray.train.get_context().get_world_rank() == 0
    return pretrain(config, out, stop=lambda: first and stop_file.exists())


def _scaling(config: PretrainConfig, num_workers: int | None) -> dict[str, Any]:
    """Return how many processes there are to be, and what each takes of a machine."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if config.device != "cpu" and any("GPU" in each for each in machines) else "CPU"
    if config.device == "cuda" and kind == "CPU":
        raise CrossviewError("device = 'cuda': the Ray cluster has no GPU; expected auto or cpu")
    useful = [each for each in machines if min(each.get(kind, 0), each.get("CPU", 0)) >= 1]
    if not useful:
        raise CrossviewError(f"the Ray cluster has no machine with a {kind} and CPUs")
    if kind == "GPU":
        count = num_workers or sum(int(each["GPU"]) for each in useful)
        cpus = min(int(each["CPU"]) // min(int(each["GPU"]), count) for each in useful)
    else:
        count = num_workers or len(useful)
        cpus = min(int(each["CPU"]) for each in useful) // -(-count // len(useful))
    cpus = max(1, cpus)
    return {
        "num_workers": count,
        "use_gpu": kind == "GPU",
        "resources_per_worker": {"CPU": cpus} | ({"GPU": 1} if kind == "GPU" else {}),
    }


@contextmanager
def _cluster(address: str | None, num_workers: int | None) -> Iterator[None]:
    """Be connected to a cluster, or have one on this machine, for the length of the block."""
    import ray

    def hush() -> None:
        """Have what asks Ray's dashboard each second not complain that there is none."""
        cleaner = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
        logging.getLogger(cleaner).setLevel(logging.ERROR)

    here = {"env_vars": import_path(), "worker_process_setup_hook": hush}
    started = connect(
        address,
        num_cpus=max(num_workers or 1, os.cpu_count() or 1),
        runtime_env=None if address else here,
    )
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _stop_file(out: Path) -> Iterator[Path]:
    """Yield a path where a file appears once SIGTERM asks this command to stop."""
    with writing(out):
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        path = out / FOLDER / "stop"
        path.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: path.touch())
    try:
        yield path
    finally:
        signal.signal(signal.SIGTERM, before)
        path.unlink(missing_ok=True)


def _mendable(error: Exception, max_restarts: int) -> CrossviewError:
    """Return what a worker said that a user can mend, or else that workers died."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = getattr(failure, "_base_exc", failure)
        if isinstance(cause, CrossviewError):
            return cause
    reason = str(next(iter(failures.values()), error)).strip().splitlines()[-1]
    return CrossviewError(
        f"training failed on Ray, after {max_restarts} restarts: {reason}; the same command goes "
        "on from the last checkpoint"
    )
