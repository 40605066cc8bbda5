"""One worker for all tests of a process: it takes seconds to start."""

from __future__ import annotations

from pipelines.executors.serial import SerialExecutor

SERIAL = SerialExecutor()
