"""Ask a store again: most of what goes wrong on the way to it passes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from errno import EDQUOT, ENOSPC, EROFS
from typing import Any, TypeVar

from generation.errors import CrossviewError, MachineError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 8
"""Requests in all for one thing; the waits between them add up to about 25 s."""
FIRST_WAIT_S = 0.2
HTTP_ATTEMPTS = 4
"""For each of these, of a web server."""
_MAY_PASS = {429, 500, 502, 503, 504}


def retried(work: Callable[[], T], what: str) -> T:
    """Return what work returns, trying again after errors that may pass, each time later.

    Raises MachineError after ATTEMPTS, and work's own FileNotFoundError or PermissionError at once.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except (FileNotFoundError, PermissionError):
            raise
        # Every store has errors of its own, and most of them pass: the one place to catch all.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS):
                raise  # our own disk
            if attempt == ATTEMPTS:
                if isinstance(error, CrossviewError):
                    raise
                raise MachineError(
                    f"{what}: not to be had in {ATTEMPTS} attempts: {type(error).__name__}: "
                    f"{error}; is the store reachable? The same command goes on from here"
                ) from error
            logger.info("%s: attempt %d failed: %s", what, attempt, error)
        time.sleep(_wait_s(attempt - 1))
    raise AssertionError


async def asked_again(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Send a request again while its server is busy or gone: a middleware for aiohttp's clients.

    Buckets' own clients do so, and what asks whether a file exists takes such an answer for a no.
    """
    import aiohttp

    for attempt in range(HTTP_ATTEMPTS - 1):
        try:
            response = await handler(request)
            if response.status not in _MAY_PASS:
                return response
            response.release()
        except aiohttp.ServerTimeoutError:
            raise  # after half a minute: once for each of retried's attempts is often enough
        except aiohttp.ClientConnectionError as error:
            logger.debug("%s: %s", request.url, error)
        await asyncio.sleep(_wait_s(attempt))
    return await handler(request)


def _wait_s(attempt: int) -> float:
    return FIRST_WAIT_S * 2.0**attempt * random.uniform(0.5, 1)
