"""uvicorn, guarded: bounds on headers and their time, errors in our shape, two listeners in one loop.

Floor: an adapter around uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.errors import BadRequest, GatewayError, HeadersTooLarge, SlowRequest
from router.wire.errors import error_body

_BACKLOG = 2048
_UPGRADE = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)


class CorkedTransport:
    """A client's transport that can hold back what is written, so that a whole answer leaves in one piece.

    Head and body are two writes to ASGI servers, and each is a system call and a packet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] = []
        self.write: Callable[[bytes], None] = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def cork(self) -> None:
        """From now on writes are held."""
        self.write = self._held.append

    def uncork(self) -> None:
        """Sends what is held; idempotent."""
        self.write = self._transport.write
        if self._held:
            held, self._held = b"".join(self._held), []
            self.write(held)

    def close(self) -> None:
        """Closes after what is held has been sent."""
        self.uncork()
        self._transport.close()


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 of one client connection. A header block must be complete in time and within bounds."""

    header_timeout = 10.0
    max_header_bytes = 64 * 1024

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CorkedTransport(transport))  # type: ignore[arg-type]  # it is one, by delegation
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
            if b"pgrade" in data:
                data = _without_upgrade(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > self.max_header_bytes:
            self._refuse(HeadersTooLarge(f"The request headers are larger than {self.max_header_bytes} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"promptlane.transport": self.transport}  # type: ignore[dict-item]  # ours, not ASGI's
        self._header_size = 0
        if self._timer is None:
            self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value)
        if self._header_size > self.max_header_bytes:
            raise HeadersTooLarge("")  # reaches send_400_response through the parser
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_headers = False
        self._header_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for anything that is not HTTP/1.1."""
        if getattr(self, "_header_size", 0) > self.max_header_bytes:
            self._refuse(HeadersTooLarge(f"The request headers are larger than {self.max_header_bytes} bytes."))
        else:
            self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(SlowRequest(f"The request headers did not arrive within {self.header_timeout:g} seconds."))

    def _refuse(self, error: GatewayError) -> None:
        """Answers and closes. In the middle of another answer nothing can be said: the connection just ends."""
        if self.transport.is_closing():
            return
        answering: RequestResponseCycle | None = self.cycle  # None until the first request, whatever uvicorn declares
        if answering is None or answering.response_complete:
            body = error_body(error)
            self.transport.write(
                STATUS_LINE[error.status]
                + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
                + body
            )
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """A head without its wish for another protocol, which a server may ignore (RFC 9110, 7.8). The parser would stop
    at it and lose the body: Java's HTTP client asks for h2c with every first POST on a plain connection."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest


class Listener(uvicorn.Server):
    """One of several servers in a process: signals are the process's business, not a server's.

    `listening` is set once connections are accepted.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guarded_protocol(header_timeout: float, max_header_bytes: int) -> type[GuardedProtocol]:
    """The protocol class with its bounds; seconds and bytes."""
    bounds = {"header_timeout": header_timeout, "max_header_bytes": max_header_bytes}
    return type("BoundedProtocol", (GuardedProtocol,), bounds)


def open_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared`: others of this user may listen there too, and the kernel deals connections out.
    Raises OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    listening.setblocking(False)
    return listening


def listener(app: Any, **settings: Any) -> Listener:
    """A uvicorn server with what all of ours have in common. Raises OSError for a certificate that cannot be used."""
    config = uvicorn.Config(
        app,
        http=settings.pop("http", "httptools"),
        loop="none",
        ws="none",
        lifespan="off",
        proxy_headers=False,  # forwarded headers are believed per configured proxy, in `router.origin`
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        **settings,
    )
    config.load()
    return Listener(config)


class QuietAbort(logging.Filter):
    """Drops uvicorn's complaint about answers left unfinished: breaking off is how a broken answer is told."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()
