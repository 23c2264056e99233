"""One client's connection to our server: HTTP/1.1 within bounds of size and time, errors in our shape.

Floor: an adapter between the loop's transport, llhttp (httptools) and `router.exchange`; uvicorn's server makes one for
each connection (`router.server`). Nothing here waits: all happens in the callbacks of transport and parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from router.errors import BadRequest, GatewayError, HeadersTooLarge, SlowRequest
from router.exchange import Exchange
from router.timeouts import MIN_TIMER, LazyTimer
from router.wire.errors import error_body

_log: Final = logging.getLogger("uvicorn.error")
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_LAST_SECONDS: Final = 1.0  # for a request that was on its way when the process was told to end
_UPGRADE: Final = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)

# What a connection does: its next request's head is awaited in time, a request is served, or nothing is due.
_HEAD, _BUSY, _IDLE = range(3)


class Guard:
    """What all connections of one listener have in common, and what makes them for uvicorn. Bounds are seconds and
    bytes. `let_go`: whether an answer is its connection's last."""

    __slots__ = ("header_timeout", "let_go", "max_header_bytes")

    def __init__(self, header_timeout: float, max_header_bytes: int) -> None:
        self.header_timeout = header_timeout
        self.max_header_bytes = max_header_bytes
        self.let_go = False

    def __call__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> GuardedProtocol:
        return GuardedProtocol(self, config.loaded_app, config.timeout_keep_alive, server_state)


class GuardedProtocol(asyncio.Protocol):
    """A header block must be complete in time and within bounds. One timer serves the whole connection, and moving it
    costs nothing on the loop. `state`: the server's own, uvicorn's."""

    __slots__ = (
        "_app", "_client", "_due", "_expects_100", "_flow", "_guard", "_header_bytes", "_header_size", "_headers",
        "_in_headers", "_keep_alive_seconds", "_last", "_let_go", "_loop", "_parser", "_phase", "_pipeline", "_running",
        "_scheme", "_server", "_state", "_timer", "_transport", "_url",
    )  # fmt: skip

    def __init__(self, guard: Guard, app: Any, keep_alive_seconds: float, state: Any) -> None:
        self._guard = guard
        self._app = app
        self._keep_alive_seconds = keep_alive_seconds
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._let_go = False
        self._pipeline: deque[Exchange] = deque()
        self._running: Exchange | None = None  # what is answered now
        self._last: Exchange | None = None  # the last that came
        self._phase = _HEAD
        self._due = 0.0
        self._header_bytes = 0
        self._header_size = 0
        self._in_headers = True
        self._url = b""
        self._expects_100 = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._timer = LazyTimer(self._loop)
        self._parser: Any = httptools.HttpRequestParser(self)
        # A client may send a request after the one that it said was its last: it gets an answer, or the end.
        with contextlib.suppress(AttributeError):  # an older httptools has no such switch, and is lenient
            self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # -- the transport's side ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flow = FlowControl(self._transport)
        self._server, self._client = get_local_addr(self._transport), get_remote_addr(self._transport)
        self._scheme = "https" if is_ssl(self._transport) else "http"
        self._state.connections.add(self)
        self._expect_head()
        self._timer.arm(self._due, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        for exchange in self._exchanges():
            exchange.left()
        self._state.connections.discard(self)
        self._flow.resume_writing()
        if exc is None:
            self._transport.close()
        self._parser = None  # it refers to this

    def eof_received(self) -> None:
        """A client that has said all may still listen; the transport closes."""

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            if self._phase == _IDLE:
                self._expect_head()
            self._header_bytes += len(data)
            if data.find(b"pgrade") >= 0:
                data = _without_upgrade(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            _log.warning("Invalid HTTP request received.")
            self._refuse_nonsense()
        except httptools.HttpParserUpgrade:
            _log.warning("Unsupported upgrade request.")
        if self._phase == _HEAD:
            self._timer.arm(self._due, self._look)
        if self._in_headers and self._header_bytes > self._guard.max_header_bytes:
            self._refuse(self._too_large())

    # -- the parser's side ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._expects_100 = False
        self._headers = []
        self._header_size = 0
        if self._phase != _HEAD:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value)
        if self._header_size > self._guard.max_header_bytes:
            raise HeadersTooLarge("")  # comes out of the parser as an error of its own
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_100 = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._phase = _BUSY
        self._in_headers = False
        self._header_bytes = 0
        version = self._parser.get_http_version()
        stays = not self._let_go and not self._guard.let_go and version != "1.0" and self._parser.should_keep_alive()
        done = self._answered
        exchange = Exchange(
            self._scope(version), self._transport, self._flow, done, expects_100=self._expects_100, keep_alive=stays
        )
        before, self._last = self._last, exchange
        if before is None or before.response_complete:
            self._serve(exchange)
        else:  # sent before the answer to another: it waits for its turn, and so do its followers
            self._flow.pause_reading()
            self._pipeline.appendleft(exchange)

    def on_body(self, body: bytes) -> None:
        if self._last is not None:
            self._last.add(body)

    def on_message_complete(self) -> None:
        if self._last is not None:
            self._last.complete()
        self._in_headers = True

    # -- requests, one after the other ------------------------------------------------------------------------------

    def _scope(self, version: str) -> Any:
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/") or self._url.find(b"#") >= 0:
            # `http://host/path` (RFC 9112, 3.2.2), or what nobody sends. A part may be None, whatever the stub says.
            parsed: Any = httptools.parse_url(self._url)
            path = parsed.path if parsed.path is not None else b""
            query = parsed.query if parsed.query is not None else b""
        name = path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": self._scheme,
            "path": unquote(name) if "%" in name else name,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server,
        }

    def _serve(self, exchange: Exchange) -> None:
        self._running = exchange
        task = exchange.task = self._loop.create_task(exchange.run(self._app))
        task.add_done_callback(self._served)
        self._state.tasks.add(task)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._state.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("Exception in ASGI application", exc_info=error)

    def _answered(self) -> None:
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        self._flow.resume_reading()
        if self._pipeline:
            self._serve(self._pipeline.pop())
        elif self._phase == _BUSY:
            self._phase = _IDLE
            self._due = monotonic() + self._keep_alive_seconds
            self._timer.arm(self._due, self._look)

    def shutdown(self) -> None:
        """What uvicorn calls when the process ends. A connection that has just come, and whose first request may be on
        its way, is waited for; its answer is its last, as that of one that is served."""
        self.end_after_answers()
        if self._phase == _IDLE:
            self._transport.close()
        elif self._phase == _HEAD:
            self._phase = _IDLE
            self._due = monotonic() + min(_LAST_SECONDS, self._guard.header_timeout)
            self._timer.arm(self._due, self._look)

    def end_after_answers(self) -> None:
        """What is served now is the connection's last."""
        self._let_go = True
        for exchange in self._exchanges():
            exchange.keep_alive = False

    def _exchanges(self) -> set[Exchange]:
        """The one that is answered and the last that came, of which an ended connection is to be told."""
        return {exchange for exchange in (self._running, self._last) if exchange is not None}

    # -- what is refused --------------------------------------------------------------------------------------------

    def _refuse_nonsense(self) -> None:
        """The parser stopped: at something that is not HTTP/1.1, or at our own bound."""
        if self._header_size > self._guard.max_header_bytes:
            self._refuse(self._too_large())
        else:
            self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _too_large(self) -> GatewayError:
        return HeadersTooLarge(f"The request headers are larger than {self._guard.max_header_bytes} bytes.")

    def _expect_head(self) -> None:
        self._phase = _HEAD
        self._due = monotonic() + self._guard.header_timeout

    def _look(self) -> None:
        self._timer.fired()
        if self._phase == _BUSY or self._transport.is_closing():
            return  # armed again when something is due
        if monotonic() < self._due - MIN_TIMER:
            self._timer.arm(self._due, self._look)
        elif self._phase == _IDLE:
            self._transport.close()
        else:
            message = f"The request headers did not arrive within {self._guard.header_timeout:g} seconds."
            self._refuse(SlowRequest(message))

    def _refuse(self, error: GatewayError) -> None:
        """Answers and closes. In the middle of another answer nothing can be said: the connection just ends."""
        if self._transport.is_closing():
            return
        if self._running is None or self._running.response_complete:
            body = error_body(error)
            self._transport.write(
                STATUS_LINE[error.status]
                + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
                + body
            )
        self._transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """A head without its wish for another protocol, which a server may ignore (RFC 9110, 7.8). The parser would stop
    at it and lose the body: Java's HTTP client asks for h2c with every first POST on a plain connection."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest
