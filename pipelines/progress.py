"""How far long work is: one updating line on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

REDRAW_SECONDS = 0.5
LOG_SECONDS = 30.0


class Progress:
    """Count towards a total; on stderr, with rate and time left.

    with Progress(1000, "pairs") as progress:
        progress.advance(10)
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._started = self._logged = time.monotonic()
        self._line = tqdm(
            total=total,
            unit=f" {unit}",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            mininterval=REDRAW_SECONDS,
            miniters=1,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.close()

    def advance(self, count: int = 1) -> None:
        """Say that `count` more units are done."""
        self.done += count
        self._line.update(count)
        now = time.monotonic()
        if self._line.disable and now - self._logged >= LOG_SECONDS:
            self._logged = now
            rate = self.done / (now - self._started)
            left = f", about {(self.total - self.done) / rate:.0f} s left" if rate else ""
            logger.info("%d of %d %s, %.3g/s%s", self.done, self.total, self.unit, rate, left)
