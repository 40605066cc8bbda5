"""A real S3 server on loopback behind a proxy that fails one request in ten."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from s3_store import reached_as_s3, s3_server

FAILURES = (500, 503, "cut")
_HOP = {"connection", "transfer-encoding", "keep-alive"}


class FailingProxy(ThreadingHTTPServer):
    """Passes requests on; while failing, every tenth GET or HEAD fails, in three ways by turns."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = host, port
        self.failing = False
        self.failures = 0
        self.paths: list[str] = []
        self._numbers = itertools.count(1)

    def failure(self) -> int | str | None:
        """Return how the next request fails, if it does."""
        if not self.failing or next(self._numbers) % 10:
            return None
        self.failures += 1
        return FAILURES[self.failures % len(FAILURES)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reads = self.command in ("GET", "HEAD")
        failure = self.server.failure() if reads else None
        if reads:
            self.server.paths.append(self.path)
        if isinstance(failure, int):
            self.send_response(failure)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(*self.server.behind)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") or "0"
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if failure == "cut" else data)
        if failure == "cut":
            self.close_connection = True
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def failing_store() -> Iterator[FailingProxy]:
    """Start a server and its proxy, which this process and its children reach as S3."""
    with s3_server() as behind:
        proxy = FailingProxy(*behind)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        with reached_as_s3(*proxy.server_address):
            yield proxy
        proxy.shutdown()
        proxy.server_close()
