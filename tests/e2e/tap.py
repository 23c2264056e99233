"""A wire tap between the gateway and an engine: passes bytes on as they come, keeps what was said, can cut a stream.

Floor: tests only. Two answers of a real engine are never alike (ids, times, tokens merged into one chunk when a reader
is slow), so "byte for byte" can only be shown on the very answer that went through. One engine behind two taps looks
like two engines, of which one dies at any moment (`Scissors`).
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h11

CHUNK_BYTES = 65536
_DONE = b"data: [DONE]\n\n"


class Exchange:
    """One request on one connection, and the bytes of its answer so far. Written by one thread at a time."""

    def __init__(self) -> None:
        self.request = bytearray()
        self.answer = bytearray()

    @property
    def line(self) -> str:
        """Method and path."""
        return " ".join(bytes(self.request).split(b"\r\n", 1)[0].decode("latin-1").split()[:2])

    @property
    def asked(self) -> dict[str, Any]:
        """The request's JSON."""
        asked: dict[str, Any] = json.loads(bytes(self.request).partition(b"\r\n\r\n")[2])
        return asked

    def body(self) -> bytes:
        """The answer's body as the engine meant it: without the framing, which belongs to the connection."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="POST", target="/", headers=[("host", "tap"), ("content-length", "0")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(bytes(self.answer))
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, "the engine's answer is not complete"
            if isinstance(event, h11.Data):
                body += bytes(event.data)
        return body


class Scissors:
    """When to cut the next stream: after `events` whole ones and `more` bytes of the next. `silent`: nothing
    more comes, but the connection stays open. Shared by several taps; `cuts` counts what was done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order: tuple[int, int, bool] | None = None
        self.cuts = 0

    def order(self, events: int, more: int = 0, *, silent: bool = False) -> None:
        with self._lock:
            self._order = (events, more, silent)

    def place(self, answer: bytearray) -> tuple[int, bool] | None:
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
            if _DONE in answer[: at + more]:
                return None  # a busy engine has fewer events: nothing would be missing
            self._order = None
            self.cuts += 1
            return at + more, silent


class Tap:
    """Listens on a free loopback port and relays to `target` (host, port). A context manager."""

    def __init__(self, target: tuple[str, int], scissors: Scissors | None = None) -> None:
        self.exchanges: list[Exchange] = []
        self._scissors = scissors or Scissors()
        tap = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(target) as engine:
                    tap._relay(self.request, engine)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="tap", daemon=True)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()

    def answer_holding(self, mark: bytes) -> bytes:
        """The body of the one answer whose request or answer holds `mark`, such as a request id."""
        (found,) = [item for item in list(self.exchanges) if mark in item.request or mark in item.answer]
        return found.body()

    def posts(self) -> list[Exchange]:
        """What asked the engine to do something, in order."""
        return [item for item in list(self.exchanges) if item.line.startswith("POST ")]

    def _relay(self, gateway: socket.socket, engine: socket.socket) -> None:
        current = [Exchange()]
        self.exchanges.append(current[0])

        def upward() -> None:
            for data in _pieces(gateway):
                if current[0].answer:  # a further request on a connection that is kept alive
                    current[0] = Exchange()
                    self.exchanges.append(current[0])
                current[0].request += data
                with suppress(OSError):
                    engine.sendall(data)
            _end(engine)

        sender = threading.Thread(target=upward, name="tap-upward", daemon=True)
        sender.start()
        for data in _pieces(engine):
            answer = current[0].answer
            answer += data
            cut = self._scissors.place(answer)
            with suppress(OSError):
                gateway.sendall(data if cut is None else data[: max(0, cut[0] - (len(answer) - len(data)))])
            if cut is not None:
                if cut[1]:
                    sender.join()  # until the gateway has had enough
                break
        _end(gateway)
        sender.join()


def _pieces(source: socket.socket) -> Iterator[bytes]:
    """What arrives until the other side closes or breaks the connection."""
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            yield data


def _end(connection: socket.socket) -> None:
    """Both directions: either side that leaves ends the connection for the other, as without a tap."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
