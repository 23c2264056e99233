"""Scissors between the gateway and an engine: pass bytes on until told where to cut a stream.

Floor: tests only. One engine behind two of these looks like two engines of which one dies at any moment.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress

PIECE_BYTES = 65536


class Scissors:
    """When to cut the next stream: after `events` whole ones and `more` bytes of the next. `silent`: nothing
    more comes, but the connection stays open. Shared by all cutters; `cuts` counts what was done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order: tuple[int, int, bool] | None = None
        self.cuts = 0

    def order(self, events: int, more: int = 0, *, silent: bool = False) -> None:
        with self._lock:
            self._order = (events, more, silent)

    def place(self, answer: bytes) -> tuple[int, bool] | None:
        """Where to cut this answer, of which so much has come, and whether in silence. Used up by that."""
        with self._lock:
            if self._order is None or b"text/event-stream" not in answer:
                return None
            events, more, silent = self._order
            at = answer.find(b"\r\n\r\n") + 4
            for _ in range(events):
                at = answer.find(b"\n\n", at) + 2
                if at < 2:
                    return None
            if len(answer) < at + more:
                return None
            self._order = None
            self.cuts += 1
            return at + more, silent


class Cutter:
    """Listens on a free loopback port and relays to `target`. A context manager."""

    def __init__(self, target: tuple[str, int], scissors: Scissors) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(target) as engine:
                    _relay(self.request, engine, scissors)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="cutter", daemon=True)

    def __enter__(self) -> Cutter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()


def _relay(gateway: socket.socket, engine: socket.socket, scissors: Scissors) -> None:
    answer = bytearray()

    def upward() -> None:
        with suppress(OSError):
            while data := gateway.recv(PIECE_BYTES):
                answer.clear()  # another request on a connection that is kept alive
                engine.sendall(data)
        _end(engine)

    sender = threading.Thread(target=upward, name="cutter-upward", daemon=True)
    sender.start()
    with suppress(OSError):
        while data := engine.recv(PIECE_BYTES):
            answer += data
            cut = scissors.place(answer)
            if cut is None:
                gateway.sendall(data)
                continue
            at, silent = cut
            gateway.sendall(data[: max(0, at - (len(answer) - len(data)))])
            if silent:
                sender.join()  # until the gateway has had enough
            break
    _end(gateway)
    _end(engine)
    sender.join()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
