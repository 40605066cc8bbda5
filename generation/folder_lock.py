"""One run at a time: a folder is held by the process that locked it, and says who that is."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from generation.errors import CrossviewError
from generation.locations import is_remote

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that exists; a process lets it go when it ends, however it ends.

    Raises CrossviewError, saying who holds it, where another process does. That holds between
    machines where their shared file system has flock (NFS 4, Lustre mounted with flock); where it
    has none, a warning says that nothing stands between two runs. A bucket has no locks: two runs
    of one command do each other's work there, and spoil nothing, since they write the same bytes.
    """
    if is_remote(folder):
        logger.info("%s: a bucket has no locks; one run at a time is cheaper than two", folder)
        yield
        return
    with open(folder / LOCK_NAME, "a+") as lock:
        os.register_at_fork(after_in_child=lock.close)  # one that outlives us must not hold it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CrossviewError(
                f"{folder}: another run is writing to this folder, {_holder(lock)}; let it finish "
                "or stop it"
            ) from None
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
            logger.warning(
                "%s: this file system has no locks (%s); see that no other run writes here",
                folder,
                error.strerror,
            )
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        try:
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"{json.dumps(holder)}\n".encode())
        except OSError as error:
            error.filename = lock.name  # which a full disk does not say
            raise
        yield


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    try:
        return "process {pid} on {host}, since {since}".format(**json.loads(lock.read()))
    except (ValueError, KeyError, TypeError):  # it has not said so yet
        return "of which nothing more is known"
