"""Fetch the shards that the coming batches need, while the ones before are trained on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from generation.errors import CrossviewError
from generation.shards.cache import ShardCache
from generation.shards.reader import ShardIndex
from training.order import Batches, Schedule

logger = logging.getLogger(__name__)

THREADS = 8


@contextmanager
def prefetching(
    index: ShardIndex, schedule: Schedule, steps: range, num_steps: int, cache: ShardCache | None
) -> Iterator[Callable[[], None]]:
    """Keep the remote shards of the next window of pairs coming; yield what to call after a step.

    Without a cache, nothing is done. A shard that cannot be had is left to the reader that needs
    it, which then says why.
    """
    if cache is None:
        yield lambda: None
        return
    ahead = max(1, schedule.window // schedule.batch_size)
    room, stopped = threading.Semaphore(ahead), threading.Event()

    def fetch(shard: int) -> None:
        if stopped.is_set():
            return
        try:
            cache.fetch(index.path(shard), index.shards[shard])
        except CrossviewError as error:
            logger.info("not prefetched: %s", error)

    def walk() -> None:
        batches = Batches(schedule, num_steps)
        last_step_of: dict[int, int] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for step in steps:
                room.acquire()
                if stopped.is_set():
                    return
                for shard in map(int, np.unique(index.shards_of(batches.samples(step)))):
                    known = step - last_step_of.get(shard, -2 * ahead) < 2 * ahead
                    last_step_of[shard] = step
                    if not known and index.is_remote(shard):
                        pool.submit(fetch, shard)

    walker = threading.Thread(target=walk, name="prefetch", daemon=True)
    walker.start()
    try:
        yield room.release
    finally:
        stopped.set()
        room.release()
        walker.join()
