"""A client's request and its answer, on a connection of our own server. An app that knows it goes a short way: no ASGI
messages, no coroutines, and an answer that leaves in one piece. For middleware, and other apps, ASGI's own way is open.

Floor: an adapter, made by `router.guarded`, used by `router.client`. Head and body come from the parser's callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.wire.http import Header

_BODILESS: Final = frozenset((204, 304))
_FAILED: Final = ((b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"))


class Exchange:
    """One request and its answer. `task`: the one that serves it. `done`: called once, when the answer is out."""

    __slots__ = (
        "_body", "_chunked", "_done", "_expects_100", "_flow", "_head", "_leave", "_left_to_send", "_more", "_news",
        "_scope", "_taken", "_transport", "disconnected", "keep_alive", "response_complete", "response_started", "task",
    )  # fmt: skip

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        done: Callable[[], None],
        *,
        expects_100: bool,
        keep_alive: bool,
    ) -> None:
        self._scope = scope
        self._transport = transport
        self._flow = flow
        self._done: Callable[[], None] | None = done
        self._expects_100 = expects_100
        self.keep_alive = keep_alive
        self.disconnected = False
        self.task: asyncio.Task[None] | None = None
        self._body: bytes | bytearray = b""
        self._more = True
        self._taken = False  # all of it
        self._news: asyncio.Event | None = None  # while `receive` waits
        self._leave: Callable[[], None] | None = None
        self._head = b""
        self._chunked = False
        self._left_to_send = 0  # bytes of what was announced
        self.response_started = False
        self.response_complete = False

    async def run(self, app: Any) -> None:
        """Serves it. An app that fails or ends without an answer costs the client a 500, or the connection where its
        answer had begun."""
        try:
            await app(self._scope, self.receive, self.send)
        finally:
            if not self.response_complete and not self.disconnected:
                self._give_up()
            self._done = None  # it refers to the connection, which refers to this

    def _give_up(self) -> None:
        if self.response_started:
            self._transport.close()
        else:
            body = b"Internal Server Error"
            self.begin(500, [*_FAILED, (b"content-length", b"%d" % len(body))])
            self._end(body)

    # -- the request ------------------------------------------------------------------------------------------------

    def add(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if self.response_complete:
            return
        if not self._body:
            self._body = piece
        else:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += piece
        if len(self._body) > HIGH_WATER_LIMIT:  # nobody has taken it yet: the client has to wait
            self._flow.pause_reading()
        self._tell()

    def complete(self) -> None:
        """All of the body has come."""
        if not self.response_complete:
            self._more = False
            self._tell()

    def whole_body(self) -> bytes | None:
        """The body where all of it is here and none of it was taken; else None, and `receive` brings it."""
        return None if self._more or self.disconnected else self._take()

    def watch(self, leave: Callable[[], None]) -> None:
        """Calls `leave` once when the client closes its connection, at once when it has."""
        self._flow.resume_reading()  # a long body has paused it, and the end of the connection would not be seen
        if self.disconnected:
            leave()
        else:
            self._leave = leave

    def unwatch(self) -> None:
        """Idempotent."""
        self._leave = None

    def left(self) -> None:
        """The connection is gone."""
        if not self.response_complete:
            self.disconnected = True
        self._tell()
        leave, self._leave = self._leave, None
        if leave is not None and self.disconnected:
            leave()

    async def receive(self) -> Any:
        """ASGI's: the next piece of the body, or that the client has left."""
        if self._expects_100 and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_100 = False
        here = self._body or self.disconnected or self.response_complete or (not self._more and not self._taken)
        if not here:
            self._flow.resume_reading()
            if self._news is None:
                self._news = asyncio.Event()
            await self._news.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take(), "more_body": self._more}

    # -- the answer -------------------------------------------------------------------------------------------------

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Status and headers, which leave with the first piece. Raises RuntimeError for a header with a line break."""
        if self.response_started:
            raise RuntimeError("the answer has begun")
        parts: list[bytes] = [STATUS_LINE[status]]
        chunked = True
        for name, value in headers:
            if name == b"content-length":
                self._left_to_send = int(value)
                chunked = False
            elif name == b"connection" and value.lower().find(b"close") >= 0:
                self.keep_alive = False
            parts += (name, b": ", value, b"\r\n")
        lines = len(headers) + 1
        if not self.keep_alive and (b"connection", b"close") not in headers:
            parts.append(b"connection: close\r\n")
            lines += 1
        self._chunked = chunked and status not in _BODILESS and self._scope["method"] != "HEAD"
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        head = b"".join(parts)
        if head.count(b"\n") != lines or head.count(b"\r") != lines or head.find(b"\0") >= 0:
            raise RuntimeError("a header holds a line break or NUL")
        self.response_started = True
        self._expects_100 = False
        self._head = head + b"\r\n"

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Sends a piece of the body. None: it is on its way; else await it: the client is slower than the engine."""
        if self._flow.write_paused and not self.disconnected:
            return self._later(self._write, piece)
        self._write(piece)
        return None

    def end(self, piece: bytes = b"") -> Awaitable[None] | None:
        """Sends the last piece. As `write`."""
        if self._flow.write_paused and not self.disconnected:
            return self._later(self._end, piece)
        self._end(piece)
        return None

    async def send(self, message: Any) -> None:
        """ASGI's."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self.response_complete or message["type"] != self._awaited():
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}'.")
        if not self.response_started:
            self.begin(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
        elif message.get("more_body", False):
            self._write(message.get("body", b""))
        else:
            self._end(message.get("body", b""))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _awaited(self) -> str:
        return "http.response.body" if self.response_started else "http.response.start"

    def _take(self) -> bytes:
        body, self._body = bytes(self._body), b""
        self._taken = not self._more
        return body

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    async def _later(self, write: Callable[[bytes], None], piece: bytes) -> None:
        await self._flow.drain()
        write(piece)

    def _write(self, piece: bytes) -> None:
        if self.disconnected:
            return
        head, self._head = self._head, b""
        if self._chunked:
            piece = b"%b%x\r\n%b\r\n" % (head, len(piece), piece) if piece else head
        else:
            piece = head + self._counted(piece)
        if piece:
            self._transport.write(piece)

    def _end(self, piece: bytes) -> None:
        if self.disconnected:
            return
        head, self._head = self._head, b""
        if not self._chunked:
            piece = head + self._counted(piece)
        elif piece:
            piece = b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(piece), piece)
        else:
            piece = head + b"0\r\n\r\n"
        if self._left_to_send:
            raise RuntimeError("the body is shorter than its content-length")
        self._transport.write(piece)
        self.response_complete = True
        self._tell()
        if not self.keep_alive:
            self._transport.close()
        if self._done is not None:
            self._done()

    def _counted(self, piece: bytes) -> bytes:
        """The piece as it goes out, off what was announced."""
        if self._scope["method"] == "HEAD":
            self._left_to_send = 0
            return b""
        if len(piece) > self._left_to_send:
            raise RuntimeError("the body is longer than its content-length")
        self._left_to_send -= len(piece)
        return piece
