"""A run's metrics: lines and curves, on a disk that is full for a while too."""

import json
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
import pytest
from run_losses import curve

from training.metrics_log import METRICS_NAME, MetricsLog, read_lines


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def in_a_child(work: Callable[[], None]) -> None:
    """Do it in a process of its own: this one's output may go to a file that is large already."""
    child = get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("room", [0, 1, 25, 49])
def test_what_had_no_room_is_warned_of_once_and_written_later(tmp_path, room, caplog):
    log = MetricsLog(tmp_path, 0)
    log.write("train", 1, {"loss": 0.5})
    (board,) = (tmp_path / "tensorboard").iterdir()
    full_at = min(board.stat().st_size, (tmp_path / METRICS_NAME).stat().st_size) + room

    def two_outages() -> None:
        for outage in (0, 1):
            with no_file_above(full_at):
                for step in (2, 3, 4):
                    log.write("train", step + 3 * outage, {"loss": 0.5})
                log.show(4 + outage, {"picture": np.zeros((64, 64, 3), np.uint8)})
            assert caplog.text.count("the run goes on") == outage + 1
            log.write("val", 4 + outage, {"val_loss": 0.25})
            assert caplog.text.count("none is missing") == outage + 1
        log.close()

    with caplog.at_level(logging.INFO):
        in_a_child(two_outages)
    lines = read_lines(tmp_path / METRICS_NAME)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 5, 6, 7, 5]
    assert curve(tmp_path) == dict.fromkeys(range(1, 8), 0.5)


def test_lines_that_are_no_records_are_left_out(tmp_path):
    path = tmp_path / METRICS_NAME
    path.write_bytes(b'{"kind": "val", "step": 1}\nnull\n[]\n5\n"x"\n\xff\n{"kind": "tra')
    assert read_lines(path) == [{"kind": "val", "step": 1}]


def test_a_disk_that_stays_full_ends_nothing(tmp_path, caplog):
    log = MetricsLog(tmp_path, 0)

    def stays_full() -> None:
        with no_file_above(0):
            log.write("train", 1, {"loss": 0.5})
            log.close()
        assert "no metrics can be written here: File too large; the run goes on" in caplog.text

    in_a_child(stays_full)


def test_a_run_that_goes_on_replaces_what_was_written_after_its_checkpoint(tmp_path):
    for first in (0, 2):
        log = MetricsLog(tmp_path, first)
        for step in range(first + 1, first + 4):
            log.write("train", step, {"loss": float(first)})
        log.close()
    assert [line["step"] for line in read_lines(tmp_path / METRICS_NAME)] == [1, 2, 3, 4, 5]
    assert curve(tmp_path) == {1: 0, 2: 0, 3: 2, 4: 2, 5: 2}


def test_only_lines_that_are_cut_are_left_out(tmp_path):
    whole = [json.dumps({"step": step}) for step in range(4)]
    path = tmp_path / METRICS_NAME
    path.write_bytes(
        "\n".join([whole[0], whole[1][:5], whole[2], "\0\xff", whole[3][:-1]]).encode()
    )
    assert [line["step"] for line in read_lines(path)] == [0, 2]
    assert read_lines(tmp_path / "none") == []
