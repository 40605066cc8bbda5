"""A real S3 server on loopback: moto's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Start an empty server; yield its host and port."""
    server = pytest.importorskip(
        "moto.server", reason="needs moto's S3 server: pip install '.[dev]'"
    )
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield running.get_host_and_port()
    running.stop()


@contextmanager
def reached_as_s3(host: str, port: int) -> Iterator[None]:
    """Have s3:// mean this server, for this process and those that it starts."""
    s3fs = pytest.importorskip("s3fs")
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # it keeps what led to another server
        yield
    s3fs.S3FileSystem.clear_instance_cache()
