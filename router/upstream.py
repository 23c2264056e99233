"""The engine connection pool and byte path: one request out, its response in, as it comes. The hot path.

Floor: an adapter. It waits on sockets and raises `EngineError`; what a failure means for the request is decided
elsewhere. Rule of the path: no task, future or context manager per piece of a body. While the client keeps up, `relay`
calls `write` straight from the transport's callback; one future wakes it at the end, or when the client is slow.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from router.connection import Connection, Headers, Timeouts
from router.errors import BadEngineResponse, ConnectFailed, EngineClosed, EngineError, EngineTimeout

__all__ = ["Response", "Timeouts", "Upstream"]

HELD_BYTES: Final = 256 * 1024  # bytes of a body kept before somebody reads it; above, the engine has to wait
CACHED_LINES: Final = 512  # request lines and header names kept ready; clients may send names and queries without end

TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
PRINTABLE: Final = re.compile(r"[!-~]+")
METHOD: Final = re.compile(rb"[A-Z]+")
TARGET: Final = re.compile(rb"/[!-~]*")
# The connection's own headers: written here or not at all, whatever a caller passes.
OURS: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"expect")
)

Write = Callable[[bytes], Awaitable[None] | None]


class Response:
    """An engine's answer, from its head on. Call `read` or `relay` at most once and `abort` in any case at the end.

    Header names are lower-case, values stripped. `content_length` is None when the engine did not say it, 0 when the
    status has no body. `first_byte_at` is monotonic seconds. All errors are `EngineError`s.
    """

    __slots__ = (
        "_bound", "_connection", "_ended", "_error", "_held", "_pending", "_pieces", "_slow", "_waiter", "_whole",
        "_write", "content_length", "first_byte_at", "headers", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = []
        self.content_length: int | None = None
        self.first_byte_at = 0.0
        self._connection: Connection | None = connection  # until the end, clean or not
        self._waiter: asyncio.Future[None] = connection.loop.create_future()
        self._pieces: deque[bytes] = deque()
        self._held = 0  # bytes in _pieces
        self._bound = HELD_BYTES
        self._whole = False  # read() runs: above _bound is an error, not a reason to pause
        self._write: Write | None = None  # set while relay() waits and the client keeps up
        self._pending: Awaitable[None] | None = None  # what a slow client's write returned
        self._slow: asyncio.Task[object] | None = None  # relay()'s task while it waits for a slow client
        self._ended = False
        self._error: Exception | None = None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BadEngineResponse when it is longer than `limit` bytes."""
        self._bound, self._whole = limit, True
        if (self.content_length or 0) > limit or self._held > limit:
            self._refuse_size()
        elif not self._ended:
            self._resume()
            await self._wait()
        if self._error is not None:
            raise self._error
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    async def relay(self, write: Write) -> None:
        """Hand every piece of the body to `write` as it comes, in order and unchanged; return at a clean end.

        A `write` that returns an awaitable stops reading from the engine until that is done. What it raises ends the
        engine's work and is raised here.
        """
        try:
            while True:
                await self._catch_up(write)
                if self._ended:
                    break
                self._write = write
                self._resume()
                await self._wait()
                self._write = None
        except BaseException:
            self.abort()
            if isinstance(self._pending, Coroutine):
                self._pending.close()  # nobody will await it any more
            raise
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Close the engine's connection at once, so that it stops working. Nothing happens after a clean end."""
        if self._connection is not None:
            self._connection.fail(EngineClosed("The exchange with the engine was abandoned."))

    # -- the connection's side (router.connection.Exchange) ----------------------------------------------------------

    def begin(self, status: int, headers: Headers, content_length: int | None, at: float) -> None:
        self.status, self.headers, self.content_length, self.first_byte_at = status, headers, content_length, at
        self._wake()

    def deliver(self, piece: bytes) -> None:
        write = self._write
        if write is None:
            self._hold(piece)
            return
        try:
            self._pending = write(piece)
        except Exception as error:  # the caller's own: relay raises it in the caller's frame
            self._error = error
            self.abort()
        else:
            if self._pending is not None:
                self._write = None
                self._pause()
                self._wake()

    def end(self, error: EngineError | None) -> None:
        self._connection = self._write = None
        self._ended = True
        if self._error is None:
            self._error = error
        if self._slow is not None and isinstance(error, EngineTimeout):  # a client that never reads is no excuse
            self._slow.cancel()
            self._slow = None
        self._wake()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def started(self) -> None:
        """Wait for the head."""
        if self.status == 0 and not self._ended:
            await self._wait()
        if self.status == 0 and self._error is not None:
            raise self._error

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._bound:
            if self._whole:
                self._refuse_size()
            else:
                self._pause()

    def _refuse_size(self) -> None:
        self._error = BadEngineResponse("The engine's response is larger than this gateway accepts.")
        self._pieces.clear()
        self.abort()

    async def _catch_up(self, write: Write) -> None:
        """Give `write` what was held, and wait for a slow client."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            await self._wait_for_client(pending)
        while self._pieces:
            piece = self._pieces.popleft()
            self._held -= len(piece)
            pending_now = write(piece)
            if pending_now is not None:
                self._pause()
                await self._wait_for_client(pending_now)

    async def _wait_for_client(self, pending: Awaitable[None]) -> None:
        task = self._slow = asyncio.current_task()
        try:
            await pending
        except asyncio.CancelledError:
            ours = self._slow is None and task is not None and task.uncancel() == 0
            if not ours or self._error is None:
                raise
            raise self._error from None
        finally:
            self._slow = None

    async def _wait(self) -> None:
        """Until `_wake`. A cancelled caller takes the engine's connection down with it."""
        if self._waiter.done():
            self._waiter = self._waiter.get_loop().create_future()
        try:
            await self._waiter
        except BaseException:
            self.abort()
            raise

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()


class Upstream:
    """One endpoint's connections. Raises ValueError for a url that is not plain http(s)://host[:port][/prefix].

    `headers` go on every request in place of the caller's of the same name. At most `max_idle` connections wait for
    reuse, the most recently used goes first. A response head may have `max_header_bytes`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeouts: Timeouts,
        ssl_context: ssl.SSLContext | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        max_idle: int = 256,
        max_header_bytes: int = 65536,
    ) -> None:
        parts = urlsplit(url)
        plain = PRINTABLE.fullmatch(url) and not parts.query and not parts.fragment  # urlsplit drops line breaks
        if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an endpoint's url is http(s)://host[:port][/prefix]")
        if parts.username is not None:
            raise ValueError("an endpoint's url holds no credentials; give them as headers")
        tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if tls else 80)
        self._ssl = (ssl_context or ssl.create_default_context()) if tls else None
        self._timeouts = timeouts
        self._max_idle = max_idle
        self._max_header_bytes = max_header_bytes
        self._prefix = parts.path.rstrip("/").encode("ascii")
        self._idle: dict[Connection, None] = {}  # ordered: the last is the most recently used
        self._busy: set[Connection] = set()
        self._closed = False
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = host if parts.port in (None, 443 if tls else 80) else f"{host}:{self._port}"
        self._taken = OURS | {name.lower() for name, _ in headers}  # names a caller cannot set
        fixed = b"".join(b"\r\n%b: %b" % (checked_name(name), value) for name, value in headers)
        self._fixed = b" HTTP/1.1\r\nhost: %b%b\r\ncontent-length: " % (authority.encode("idna"), fixed)
        check_lines(self._fixed, len(headers) + 2)
        self._lines: dict[tuple[bytes, bytes], bytes] = {}
        self._names: dict[bytes, bytes] = {}

    @property
    def idle(self) -> int:
        """Connections that wait for reuse."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections with an exchange under way."""
        return len(self._busy)

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        first_byte: float | None = None,
    ) -> Response:
        """Send one request, wait for the head of its answer. `first_byte`: seconds, in place of the configured ones.

        A kept connection that fails before any byte came back was closed by the engine meanwhile: once, a fresh one
        takes over. Nothing else is retried. Raises ValueError for a request that is not well-formed.
        """
        request = self._request(method, target, headers, body)
        wait = self._timeouts.first_byte if first_byte is None else first_byte
        bodiless = method == b"HEAD"
        started = monotonic()
        connection = self._reusable()
        if connection is not None:
            try:
                return await self._exchange(connection, request, bodiless, wait, started)
            except EngineClosed:
                if connection.answered:
                    raise
        connection = await self._connect()
        return await self._exchange(connection, request, bodiless, wait, started)

    def close(self) -> None:
        """Close idle connections now and busy ones when their exchange ends. `send` works on, keeping nothing."""
        self._closed = True
        for connection in list(self._idle):
            connection.discard()

    # -- the connections' side (router.connection.Owner) -------------------------------------------------------------

    def keep(self, connection: Connection) -> bool:
        if self._closed or len(self._idle) >= self._max_idle or not connection.usable:
            return False
        self._busy.discard(connection)
        self._idle[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._idle.pop(connection, None)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _exchange(
        self, connection: Connection, request: bytes, bodiless: bool, first_byte: float, started: float
    ) -> Response:
        self._busy.add(connection)
        response = Response(connection)
        connection.start(response, request, bodiless=bodiless, first_byte=first_byte, started=started)
        await response.started()
        return response

    def _reusable(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        connection = Connection(self, self._timeouts, self._max_header_bytes)
        loop = connection.loop
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            raise EngineTimeout("The engine did not accept a connection within its time limit (connect).") from None
        except OSError:  # refused, unreachable, unknown host, bad certificate: the text would name the endpoint
            raise ConnectFailed("The engine could not be reached.") from None
        return connection

    def _request(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
        line = self._lines.get((method, target)) or self._line(method, target)
        parts = [line, b"%d" % len(body)]
        count = 0
        for name, value in headers:
            opening = self._names.get(name)
            if opening is None:
                opening = self._name(name)
            if opening:
                parts += (opening, value)
                count += 1
        head = b"".join(parts)
        check_lines(head, line.count(b"\n") + count)
        return b"".join((head, b"\r\n\r\n", body))

    def _line(self, method: bytes, target: bytes) -> bytes:
        """The constant start of a head, up to the value of content-length."""
        if not METHOD.fullmatch(method) or not TARGET.fullmatch(target):
            raise ValueError("not an HTTP method and target")
        if len(self._lines) >= CACHED_LINES:
            self._lines.clear()
        line = self._lines[method, target] = b"%b %b%b%b" % (method, self._prefix, target, self._fixed)
        return line

    def _name(self, name: bytes) -> bytes:
        """What goes before a header's value; empty for a header that the caller does not decide."""
        if len(self._names) >= CACHED_LINES:
            self._names.clear()
        opening = b"" if name.lower() in self._taken else b"\r\n%b: " % checked_name(name)
        self._names[name] = opening
        return opening


def checked_name(name: bytes) -> bytes:
    if not TOKEN.fullmatch(name):
        raise ValueError("not a header name")
    return name


def check_lines(head: bytes, lines: int) -> None:
    """Refuse a CR, LF or NUL that came with a value: a head of n lines has n line ends."""
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError("a header's value holds a line break or NUL")
