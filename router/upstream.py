"""The engine connection pool: one request out on a kept or a fresh connection, its `Response` in. The hot path.

Floor: an adapter. It waits on sockets and raises `EngineError`; what a failure means for the request is decided
elsewhere.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from policies.drill import DrillFault
from router.connection import Connection
from router.errors import ConnectFailed, ConnectTimeout, EngineClosed, EngineError
from router.injected import InjectedFault
from router.response import Response
from router.timeouts import Timeouts

__all__ = ["Response", "Timeouts", "Upstream"]

CACHED_LINES: Final = 512  # request lines and header names kept ready; clients may send names and queries without end

TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
PRINTABLE: Final = re.compile(r"[!-~]+")
METHOD: Final = re.compile(rb"[A-Z]+")
TARGET: Final = re.compile(rb"/[!-~]*")
# The connection's own headers: written here or not at all, whatever a caller passes.
OURS: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"expect")
)


# A piece that comes so long (seconds) after the head of its answer is the engine's work: what comes with the head may
# be only its server's greeting, as in `/v1/responses`.
WORK_SECONDS: Final = 0.1


class Flow(NamedTuple):
    """Answers under way. `streams`: of which a next piece could come at any time; `quiet`: seconds since the last piece
    of any came that was the engine's work, None where there was none."""

    streams: int
    quiet: float | None


class Upstream:
    """One endpoint's connections. Raises ValueError for a url that is not plain http(s)://host[:port][/prefix].

    `heard_at`: when the last piece of a body came, monotonic seconds.
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
        self.heard_at = 0.0
        self.fault: InjectedFault | None = None  # while a drill makes this endpoint fail
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

    def flow(self) -> Flow:
        """How the answers under way come along. Costs a walk over the busy connections, and nothing per piece."""
        streams, last = 0, 0.0
        for connection in self._busy:
            at = connection.flowing_at
            if at is not None:
                streams += 1
                if at - connection.head_at >= WORK_SECONDS and at > last:
                    last = at
        return Flow(streams, monotonic() - last if last else None)

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        first_byte: float | None = None,
    ) -> Response:
        """Send one request, wait for the head of its answer. `first_byte`: seconds, in place of the configured ones,
        since the request was sent or, up to those, since the engine was last heard of.

        A kept connection that fails before any byte came back was closed by the engine meanwhile: once, a fresh one
        takes over. Nothing else is retried. Raises ValueError for a request that is not well-formed.
        """
        request = self._request(method, target, headers, body)
        wait = self._timeouts.first_byte if first_byte is None else first_byte
        if self.fault is not None:
            await self.fault.meet(wait)
        bodiless = method == b"HEAD"
        started = monotonic()
        connection = self._reusable()
        if connection is not None:
            try:
                response = self._begin(connection, request, bodiless, wait, started)
                await response.started()
                return response
            except EngineClosed:
                if connection.answered:
                    raise
        response = self._begin(await self._connect(), request, bodiless, wait, started)
        await response.started()
        return response

    def close(self) -> None:
        """Close idle connections now and busy ones when their exchange ends. `send` works on, keeping nothing."""
        self._closed = True
        for connection in list(self._idle):
            connection.discard()

    def abandon(self, error: EngineError) -> None:
        """End every exchange under way with `error` and close its connection: the engine is to do nothing more."""
        for connection in list(self._busy):
            connection.fail(error)
        if self.fault is not None:
            self.fault.break_off(error)

    def strike(self, fault: InjectedFault) -> None:
        """From now on requests meet this fault, until `lift`; what is under way breaks or stands still as the kind
        says."""
        self.fault = fault
        if fault.kind is DrillFault.KILL:
            self.abandon(EngineClosed("The engine closed the connection before its response was complete."))
        elif fault.kind is DrillFault.HANG:
            for connection in self._busy:
                connection.stall()

    def lift(self) -> None:
        """The fault is over; idempotent."""
        fault, self.fault = self.fault, None
        if fault is not None:
            fault.lift()
            for connection in self._busy:
                connection.unstall()

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

    def _begin(
        self, connection: Connection, request: bytes, bodiless: bool, first_byte: float, started: float
    ) -> Response:
        self._busy.add(connection)
        response = Response(connection)
        connection.start(response, request, bodiless=bodiless, first_byte=first_byte, started=started)
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
            raise ConnectTimeout("The engine did not accept a connection within its time limit (connect).") from None
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
    if head.count(b"\n") != lines or head.count(b"\r") != lines or head.find(b"\0") >= 0:
        raise ValueError("a header's value holds a line break or NUL")
