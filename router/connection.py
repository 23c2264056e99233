"""One connection to an engine: its exchange, its clock and its flow control.

Floor: an adapter. It knows bytes, `Timeouts` and `EngineError`; what the bytes mean is `wire/framing.py`'s affair,
which connection serves which request the pool's (`upstream.py`). It never waits: everything happens in the transport's
callbacks, once per piece of data.

    IDLE --start()--> HEAD --+--> LENGTH -----+--> IDLE (kept) or closed
                             +--> CHUNKED ----+
                             +--> UNTIL_EOF --+      any fault or abort: fail(), closed at once
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol, cast

from router.errors import BadEngineResponse, EngineClosed, EngineError, EngineTimeout, TotalTimeout
from router.timeouts import LazyTimer, Timeouts
from router.wire.framing import CHUNKED, HEAD, IDLE, LENGTH, UNTIL_EOF, ChunkedBody, Headers, HeadReader


class Exchange(Protocol):
    """Who a response is for. `begin` comes at most once, `end` exactly once and last; nothing here may raise."""

    def begin(self, status: int, headers: Headers, content_length: int | None, at: float) -> None: ...
    def deliver(self, piece: bytes) -> None: ...
    def end(self, error: EngineError | None) -> None: ...


class Owner(Protocol):
    """Where a connection lives between exchanges. `heard_at`: when a piece of any body came from this engine."""

    heard_at: float

    def keep(self, connection: Connection) -> bool: ...  # the exchange is over; False: not wanted any more
    def forget(self, connection: Connection) -> None: ...  # it is closed or about to be


class Connection(asyncio.Protocol):
    """Serves one exchange at a time. `answered`: a byte of the current response has arrived."""

    __slots__ = (
        "_active_at", "_bodiless", "_body_begun", "_chunks", "_exchange", "_first_byte", "_head_at", "_heads", "_keep",
        "_max_header_bytes", "_mode", "_owner", "_paused", "_remaining", "_started", "_timeouts", "_timer",
        "_transport", "_unsent", "answered", "loop",
    )  # fmt: skip

    def __init__(self, owner: Owner, timeouts: Timeouts, max_header_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.answered = False
        self._owner = owner
        self._timeouts = timeouts
        self._max_header_bytes = max_header_bytes
        self._heads = HeadReader(max_header_bytes)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._mode = IDLE
        self._paused = False
        self._unsent = 0  # bytes the transport still held when last seen; 0: it is taking what we write
        self._timer = LazyTimer(self.loop)

    # -- the pool's side ---------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def flowing_at(self) -> float | None:
        """When the last piece came (monotonic seconds) of a body of which some has come and more is to come; None where
        that is not so, or where the client's slowness is why nothing comes."""
        flows = self._mode not in (IDLE, HEAD) and not self._paused and self._active_at > self._head_at
        return self._active_at if flows else None

    @property
    def head_at(self) -> float:
        """When the head of the present answer came; only while its body comes."""
        return self._head_at

    def start(self, exchange: Exchange, request: bytes, *, bodiless: bool, first_byte: float, started: float) -> None:
        """Write a whole request. `bodiless`: the answer is to HEAD. `started`: when the total timeout began."""
        self._exchange = exchange
        self._mode = HEAD
        self._bodiless = bodiless
        self._first_byte = first_byte
        self._started = started
        self._body_begun = self.answered = False
        self._active_at = monotonic()
        self._writable().write(request)
        self._timer.arm(self._deadline()[0], self._tick)

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
            self._timer.arm(self._deadline()[0], self._tick)

    def stall(self) -> None:
        """A drill: the engine seems to be silent, and the clocks run, until `unstall`."""
        self._writable().pause_reading()

    def unstall(self) -> None:
        if not self._paused and self.usable:
            self._writable().resume_reading()

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
        self._timer.cancel()
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
        self._active_at = self._owner.heard_at = monotonic()
        if not self._body_begun:
            self._begin_body(self._active_at)
        if mode == CHUNKED:
            body = self._chunks
            piece = body.feed(data)
            if piece:
                exchange.deliver(piece)
            if body.over and self._exchange is exchange:  # else the client's side gave up meanwhile
                self._end_chunks(exchange, body)
        elif mode == LENGTH:
            self._read_length(exchange, data)
        else:
            exchange.deliver(data)

    # -- a response, part by part -------------------------------------------------------------------------------------

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        self.answered = True
        try:
            read = self._heads.read(data, self._bodiless)
        except BadEngineResponse as error:
            self.fail(error)
            return
        if read is None:
            return
        head, rest = read
        self._remaining, self._keep, self._mode = head.length or 0, head.kept, head.mode
        if head.mode == CHUNKED:
            self._chunks = ChunkedBody(self._max_header_bytes)
        now = self._head_at = monotonic()
        if head.mode != CHUNKED:  # the body comes with it; vLLM sends a stream's head before it computes the prompt
            self._begin_body(now)
        exchange.begin(head.status, head.headers, head.length, now)
        if head.mode == LENGTH:  # a length of 0 ends here
            self._read_length(exchange, rest)
        elif rest:
            self.data_received(rest)

    def _begin_body(self, now: float) -> None:
        """From here on the idle limit holds."""
        self._body_begun = True
        self._active_at = self._owner.heard_at = now
        self._timer.arm(self._deadline()[0], self._tick)

    def _read_length(self, exchange: Exchange, data: bytes) -> None:
        size = len(data)
        left = self._remaining - size
        self._remaining = left
        if size:
            exchange.deliver(data if left >= 0 else data[:left])
        if left <= 0 and self._exchange is exchange:
            self._finish(exchange, keep=self._keep and left == 0)

    def _end_chunks(self, exchange: Exchange, body: ChunkedBody) -> None:
        if body.whole:
            self._finish(exchange, keep=self._keep and body.clean)
        else:
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

    # -- the clock: one timer per connection, which outlives exchanges ------------------------------------------------

    def _deadline(self) -> tuple[float, str]:
        """When the current exchange fails if nothing happens, and by which limit."""
        total = self._started + self._timeouts.total
        if not self._body_begun:
            due, limit = self._first_byte_due(), "first byte"
        elif self._paused:
            return total, "total"
        else:
            due, limit = self._active_at + self._timeouts.idle, "idle"
        return (due, limit) if due < total else (total, "total")

    def _first_byte_due(self) -> float:
        """An engine that answers others meanwhile is busy and not dead: then the pool's own limit holds and no shorter
        one."""
        sent, wait = self._active_at, self._first_byte
        return max(sent + wait, min(self._owner.heard_at + wait, sent + self._timeouts.first_byte))

    def _tick(self) -> None:
        self._timer.fired()
        if self._exchange is None:
            return
        if self._unsent:
            self._note_unsent()
        due, limit = self._deadline()
        if due > monotonic():
            self._timer.arm(due, self._tick)
        else:
            kind = TotalTimeout if limit == "total" else EngineTimeout
            self.fail(kind(f"The engine did not answer within its time limit ({limit})."))

    def _note_unsent(self) -> None:
        """The first-byte clock does not run while the engine is still taking the request, however slowly."""
        unsent = self._writable().get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent, self._active_at = unsent, monotonic()

    def _writable(self) -> asyncio.Transport:
        assert self._transport is not None  # noqa: S101 - connection_made comes before everything else
        return self._transport
