import errno
import multiprocessing
import os

import pytest

from generation.errors import CrossviewError
from generation.folder_lock import locked


def test_a_folder_is_held_by_one(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(CrossviewError, match=r"another run is writing .* process \d+"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device") as raised, locked(tmp_path):
        pass
    assert raised.value.filename == str(tmp_path / ".lock")


def test_a_process_that_was_forked_and_outlives_the_holder_does_not_hold_it(tmp_path):
    """As loaders of a trainer that was killed do, for some seconds."""
    fork = multiprocessing.get_context("fork")
    started, go_on = fork.Event(), fork.Event()

    def outlive() -> None:
        started.set()
        go_on.wait()

    with locked(tmp_path):
        child = fork.Process(target=outlive)
        child.start()
        started.wait()
    try:
        with locked(tmp_path):
            pass
    finally:
        go_on.set()
        child.join()
