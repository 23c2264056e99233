"""One connection to an engine: strict HTTP/1.1 response framing, its clock and its flow control.

Floor: an adapter. It knows bytes, `Timeouts` and `EngineError`; which connection serves which request is the pool's
affair (`upstream.py`). It never waits: everything happens in the transport's callbacks, once per piece of data.

    IDLE --start()--> HEAD --+--> LENGTH -----+--> IDLE (kept) or closed
                             +--> CHUNKED ----+
                             +--> UNTIL_EOF --+      any fault or abort: fail(), closed at once

The head and chunked bodies go through llhttp (httptools) in its strict mode; bodies of known length are counted here,
so that what follows a message is never taken for part of it. A head is parsed in one go, when all of it is here, so
the result does not depend on how the bytes were cut.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol, cast

import httptools

from router.errors import BadEngineResponse, EngineClosed, EngineError, EngineTimeout

Headers = list[tuple[bytes, bytes]]

IDLE, HEAD, LENGTH, CHUNKED, UNTIL_EOF = range(5)  # plain ints: compared once per piece, an enum costs more

MAX_INFORMATIONAL: Final = 8  # 1xx heads before the answer; an engine that sends more is looping
MAX_LENGTH_DIGITS: Final = 19  # a body below 10^19 bytes; keeps int() away from digits without end
CHUNK_OVERHEAD: Final = 24  # bytes; a chunk's size line and line ends without extensions (16 hex digits + 2 CRLF)
MIN_TIMER: Final = 0.001  # seconds; uvloop rounds timers to milliseconds and may fire that much early

STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
VERSION: Final = b"HTTP/1."
BARE_LF: Final = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; from request written to response head; between pieces of a body; for the whole exchange."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Exchange(Protocol):
    """Who a response is for. `begin` comes at most once, `end` exactly once and last; nothing here may raise."""

    def begin(self, status: int, headers: Headers, content_length: int | None, at: float) -> None: ...
    def deliver(self, piece: bytes) -> None: ...
    def end(self, error: EngineError | None) -> None: ...


class Owner(Protocol):
    """Where a connection lives between exchanges."""

    def keep(self, connection: Connection) -> bool: ...  # the exchange is over; False: not wanted any more
    def forget(self, connection: Connection) -> None: ...  # it is closed or about to be


class _Head:
    """llhttp's callbacks for a head."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


class _ChunkedBody:
    """llhttp's callbacks for a chunked body. `on_body` is list.append itself: no Python frame per chunk."""

    __slots__ = ("begun", "complete", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.begun = self.complete = False

    def on_message_begin(self) -> None:
        if self.complete:  # stops the parser before a second message's bytes can join the first's
            raise ValueError("bytes after the end of the message")

    def on_header(self, name: bytes, _value: bytes) -> None:
        if self.begun and name.lower() == b"transfer-encoding":
            raise ValueError("framing in a trailer")

    def on_message_complete(self) -> None:
        self.complete = True


def chunk_parser(body: _ChunkedBody) -> Callable[[bytes], None]:
    """Feeds `body`. The parser begins with a head of our own: were it given the engine's, the two could disagree about
    whether the body is chunked (llhttp does not take `chunked` and a tab for it).
    """
    parser = httptools.HttpResponseParser(body)
    parser.feed_data(CHUNKED_HEAD)
    body.begun = True
    return parser.feed_data


def frame(minor: int, status: int, headers: Headers, bodiless: bool) -> tuple[int | None, int, bool]:
    """How a body ends, by RFC 9112 section 6.3: (declared length, mode, may the connection be kept).

    Raises BadEngineResponse for whatever could be read in two ways; llhttp has seen to it that a length is digits.
    """
    length: int | None = None
    chunked = False
    options: set[bytes] = set()
    for name, value in headers:
        if name == b"content-length":
            if length is not None or len(value) > MAX_LENGTH_DIGITS:
                raise BadEngineResponse("The engine declared no usable body length.")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or minor == 0 or value.lower() != b"chunked":
                raise BadEngineResponse("The engine used a transfer encoding other than chunked.")
            chunked = True
        elif name == b"connection":
            options.update(option.strip(b" \t") for option in value.lower().split(b","))
    if chunked and length is not None:
        raise BadEngineResponse("The engine framed its response in two ways.")
    kept = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    if bodiless or status in (204, 304):
        return 0, LENGTH, kept
    if chunked:
        return None, CHUNKED, kept
    return (None, UNTIL_EOF, False) if length is None else (length, LENGTH, kept)


class Connection(asyncio.Protocol):
    """Serves one exchange at a time. `answered`: a byte of the current response has arrived."""

    __slots__ = (
        "_active_at", "_bodiless", "_chunks", "_due", "_exchange", "_feed_chunks", "_first_byte", "_head",
        "_informational", "_keep", "_max_header_bytes", "_mode", "_owner", "_paused", "_remaining", "_slack",
        "_started", "_timeouts", "_timer", "_transport", "_unsent", "answered", "loop",
    )  # fmt: skip

    def __init__(self, owner: Owner, timeouts: Timeouts, max_header_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.answered = False
        self._owner = owner
        self._timeouts = timeouts
        self._max_header_bytes = max_header_bytes
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._mode = IDLE
        self._paused = False
        self._unsent = 0  # bytes the transport still held when last seen; 0: it is taking what we write
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it fires

    # -- the pool's side ---------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def start(self, exchange: Exchange, request: bytes, *, bodiless: bool, first_byte: float, started: float) -> None:
        """Write a whole request. `bodiless`: the answer is to HEAD. `started`: when the total timeout began."""
        self._exchange = exchange
        self._mode = HEAD
        self._head = bytearray()
        self._informational = 0
        self._bodiless = bodiless
        self._first_byte = first_byte
        self._started = started
        self.answered = False
        self._active_at = monotonic()
        self._writable().write(request)
        self._arm(self._deadline()[0])

    def pause(self) -> None:
        """Stop reading: the client is slow. Neither the idle clock runs nor memory grows until `resume`."""
        if not self._paused:
            self._paused = True
            self._writable().pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._active_at = monotonic()
            self._writable().resume_reading()
            self._arm(self._deadline()[0])

    def fail(self, error: EngineError) -> None:
        """End the exchange with `error` and close the socket at once: the engine stops working for us."""
        exchange = self._exchange
        self.discard()
        if exchange is not None:
            exchange.end(error)

    def discard(self) -> None:
        self._exchange, self._mode = None, IDLE
        self._owner.forget(self)
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._left(clean=error is None)

    def eof_received(self) -> None:
        self._left(clean=True)

    def pause_writing(self) -> None:
        self._unsent = self._writable().get_write_buffer_size()

    def resume_writing(self) -> None:
        """The engine has taken the request: from here on it owes the first byte."""
        self._unsent = 0
        self._active_at = monotonic()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked: whatever this is, it must not become the next request's answer
            self.discard()
            return
        mode = self._mode
        if mode == HEAD:
            self._read_head(exchange, data)
            return
        self._active_at = monotonic()
        if mode == CHUNKED:
            self._read_chunks(exchange, data)
        elif mode == LENGTH:
            self._read_length(exchange, data)
        else:
            exchange.deliver(data)

    # -- framing -----------------------------------------------------------------------------------------------------

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        self.answered = True
        try:
            rest = self._parse_heads(exchange, data)
        except httptools.HttpParserError:
            self.fail(BadEngineResponse("The engine's response head is not valid HTTP."))
        except BadEngineResponse as error:
            self.fail(error)
        else:
            if rest is None:
                return
            if self._mode == LENGTH:
                self._read_length(exchange, rest)
            elif rest and self._mode == CHUNKED:
                self._read_chunks(exchange, rest)
            elif rest:
                exchange.deliver(rest)

    def _parse_heads(self, exchange: Exchange, data: bytes) -> bytes | None:
        """Skip 1xx heads, begin the exchange with the final one and return what follows it; None: no final head yet."""
        while (cut := self._cut_head(data)) is not None:
            head, data = cut
            line = STATUS_LINE.match(head)
            if line is None:
                raise BadEngineResponse("The engine's status line is not valid HTTP/1.1.")
            status = int(line[2])
            if status == 101:
                raise BadEngineResponse("The engine switched protocols without being asked.")
            parsed = _Head()
            httptools.HttpResponseParser(parsed).feed_data(head)
            length, mode, kept = frame(int(line[1]), status, parsed.headers, self._bodiless)
            if status < 200:
                self._informational += 1
                if self._informational > MAX_INFORMATIONAL:
                    raise BadEngineResponse("The engine sent informational responses without end.")
                continue
            self._remaining, self._keep, self._mode = length or 0, kept, mode
            if mode == CHUNKED:
                self._chunks, self._slack = _ChunkedBody(), self._max_header_bytes
                self._feed_chunks = chunk_parser(self._chunks)
            self._active_at = monotonic()
            self._arm(self._deadline()[0])
            exchange.begin(status, parsed.headers, length, self._active_at)
            return data
        return None

    def _cut_head(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split at the end of a head; None: it is not all here yet, and was kept. Bounded by `max_header_bytes`."""
        held = self._head
        seen = max(len(held) - 3, 0)
        if held:
            held += data
        end = (held or data).find(b"\r\n\r\n", seen) + 4
        if (end if end > 3 else len(held or data)) > self._max_header_bytes:
            raise BadEngineResponse("The engine's response head is too large.")
        if end > 3:
            whole = bytes(held) if held else data
            held.clear()
            return whole[:end], whole[end:]
        if not held:
            held += data
        if not (held.startswith(VERSION) or VERSION.startswith(held)) or BARE_LF.search(held, seen):
            raise BadEngineResponse("The engine's response head is not valid HTTP.")
        return None

    def _read_length(self, exchange: Exchange, data: bytes) -> None:
        size = len(data)
        left = self._remaining - size
        self._remaining = left
        if size:
            exchange.deliver(data if left >= 0 else data[:left])
        if left <= 0 and self._exchange is exchange:
            self._finish(exchange, keep=self._keep and left == 0)

    def _read_chunks(self, exchange: Exchange, data: bytes) -> None:
        chunks = self._chunks
        broken = False
        try:
            self._feed_chunks(data)
        except httptools.HttpParserError:
            broken = True
        pieces = chunks.pieces
        slack = self._slack - len(data)
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            slack += len(piece) + CHUNK_OVERHEAD * len(pieces)
            pieces.clear()
            exchange.deliver(piece)
            if self._exchange is not exchange:  # the client's side gave up meanwhile
                return
        self._slack = slack
        if chunks.complete:
            # Kept only when the bare last chunk ends the data: then nothing, not even an empty line, came after it.
            self._finish(exchange, keep=self._keep and not broken and data.endswith(LAST_CHUNK))
        elif broken or slack < 0:
            self.fail(BadEngineResponse("The engine's chunked response is broken."))

    def _finish(self, exchange: Exchange, *, keep: bool) -> None:
        """A clean end. An answer that came before the engine had taken the whole request costs the connection."""
        transport = self._writable()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._exchange, self._mode = None, IDLE
        if not keep or transport.get_write_buffer_size() or not self._owner.keep(self):
            self.discard()
        exchange.end(None)

    def _left(self, *, clean: bool) -> None:
        """The engine has closed the connection."""
        exchange = self._exchange
        if exchange is None:
            self.discard()
        elif clean and self._mode == UNTIL_EOF:
            self._finish(exchange, keep=False)
        else:
            self.fail(EngineClosed("The engine closed the connection before its response was complete."))

    # -- the clock: one lazy timer per connection, which outlives exchanges -------------------------------------------

    def _deadline(self) -> tuple[float, str]:
        """When the current exchange fails if nothing happens, and by which limit."""
        total = self._started + self._timeouts.total
        if self._mode == HEAD:
            due, limit = self._active_at + self._first_byte, "first byte"
        elif self._paused:
            return total, "total"
        else:
            due, limit = self._active_at + self._timeouts.idle, "idle"
        return (due, limit) if due < total else (total, "total")

    def _arm(self, due: float) -> None:
        """Make sure the timer fires at `due` or before: an earlier one is left to find out that it came too soon."""
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_later(max(due - monotonic(), MIN_TIMER), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._exchange is None:
            return
        if self._unsent:
            self._note_unsent()
        due, limit = self._deadline()
        if due > monotonic():
            self._arm(due)
        else:
            self.fail(EngineTimeout(f"The engine did not answer within its time limit ({limit})."))

    def _note_unsent(self) -> None:
        """The first-byte clock does not run while the engine is still taking the request, however slowly."""
        unsent = self._writable().get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent, self._active_at = unsent, monotonic()

    def _writable(self) -> asyncio.Transport:
        assert self._transport is not None  # noqa: S101 - connection_made comes before everything else
        return self._transport
