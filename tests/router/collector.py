"""A collector of traces: takes OTLP over HTTP, and keeps every byte.

Floor: tests only.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.router.gateway_process import WAIT_SECONDS


class Collector:
    """`url`: its base. `bodies`: what came, `headers`: with which; `hangs`: answers nothing until `let_go`; `statuses`:
    of the next answers, 200 of those behind them."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.hangs = False
        self.came, self.let_go = threading.Condition(), threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with collector.came:
                    collector.bodies.append(self.path.encode() + b" " + body)
                    collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                    status = collector.statuses.pop(0) if collector.statuses else 200
                    collector.came.notify_all()
                if collector.hangs:
                    collector.let_go.wait(60)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls is not None else ''}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def until(self, bodies: int = 1) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.bodies) >= bodies, WAIT_SECONDS * 6)

    def spans(self) -> list[Any]:
        """All that came, in the order of their beginning."""
        found = []
        for body in self.bodies:
            path, _, data = body.partition(b" ")
            assert path == b"/v1/traces"
            told = ExportTraceServiceRequest.FromString(data)
            found += [span for one in told.resource_spans for scope in one.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def stop(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collecting(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    collector = Collector(tls)
    try:
        yield collector
    finally:
        collector.stop()
