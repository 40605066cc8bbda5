"""What commands log: the time and the message, on stderr."""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Log to stderr, and nowhere else, from now on."""
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, force=True
    )
