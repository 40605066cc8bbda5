from __future__ import annotations

import io
import logging
import sys

import pytest

from pipelines import progress as module
from pipelines.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_with_count_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, "pairs") as progress:
        for _ in range(10):
            progress.advance()
    assert "10/10" in terminal.getvalue()
    assert "pairs/s" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_elsewhere_nothing_is_printed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress(10, "pairs") as progress:
        progress.advance(10)
    assert progress.done == 10
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


def test_elsewhere_long_work_logs_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 10.0, 40.0, 50.0])
    with monkeypatch.context() as patched:
        patched.setattr(module.time, "monotonic", lambda: next(clock))
        progress = Progress(100, "pairs")
        for _ in range(3):
            progress.advance(10)
    assert caplog.messages == ["20 of 100 pairs, 0.5/s, about 160 s left"]
