"""Keeps a number of streams open: whenever one ends, another begins, of another length.

Half of the clients keep their connection for the next stream, half open a new one each time: both ways can leak. A
failed stream is counted with its reason and replaced like any other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, cycle
from time import perf_counter
from typing import cast

from benchmarks.overhead_parts.answers import BadAnswer
from benchmarks.overhead_parts.load import Target
from benchmarks.overhead_parts.traffic import Scenario, requests
from benchmarks.soak_parts.answer import ChatStream

RAMP_PER_SECOND = 400
"""Streams begun per second at first: below what fills the gateway's accept queue, and each engine begins a hundred."""
MOST_ERRORS = 100
"""So many failed streams say all that thousands would: the load ends."""
WARM_STREAMS = 2
"""Streams per client, on average, before the gateway is taken for warm: first ones only fill its memory."""
_SHAPES = tuple(zip(range(8, 40, 2), range(50, 3250, 200), strict=True))
"""Tokens of the answer and characters of the prompt: none to a dozen prefix blocks."""
_CONNECT_SECONDS = 10.0
_STREAM_SECONDS = 120.0  # several times the longest stream: what is not complete by then hangs
_AFTER_ERROR_SECONDS = 0.5  # a gateway that is down is not hammered


@dataclass(frozen=True)
class Order:
    """A whole HTTP request, and how many tokens it asks for."""

    request: bytes
    tokens: int


def orders(target: Target) -> Iterator[Order]:
    """Requests of all shapes in turns, without end."""
    host = f"127.0.0.1:{target.port}"
    shaped = [
        [Order(request, tokens) for request in requests(Scenario(1, chars, tokens), host, target.headers)]
        for tokens, chars in _SHAPES
    ]
    return cycle(chain.from_iterable(zip(*shaped, strict=True)))


class Connection(asyncio.Protocol):
    """One client. `stream` sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self._reader: ChatStream | None = None
        self._over: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses

    async def stream(self, order: Order) -> None:
        """Raises BadAnswer or TimeoutError."""
        self._reader = ChatStream(order.tokens)
        self._over = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            raise BadAnswer("the connection was closed between two streams")
        self._transport.write(order.request)
        async with asyncio.timeout(_STREAM_SECONDS):
            await self._over

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._over is None or self._over.done():
            self._fail("bytes that nobody asked for")
            return
        try:
            complete = self._reader.feed(data)
        except BadAnswer as error:
            self._fail(str(error))
        else:
            if complete:
                self._over.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection closed by the other side: {exc or 'end of file'}")

    def close(self) -> None:
        self._transport.abort()

    def _fail(self, reason: str) -> None:
        self._transport.abort()
        if self._over is not None and not self._over.done():
            self._over.set_exception(BadAnswer(reason))


class Load:
    """`streams` clients on one target. `open` streams are under way now, `finished` were right to their last byte."""

    def __init__(self, target: Target, streams: int) -> None:
        self.open = 0
        self.finished = 0
        self.tokens = 0
        self.errors: Counter[str] = Counter()
        self.full = asyncio.Event()
        """Every client is there."""
        self.warm = asyncio.Event()
        """And has finished `WARM_STREAMS` on average; also set when the load stops."""
        self.stopped = asyncio.Event()
        """No new streams: `stop` was called, or too many have failed."""
        self._target = target
        self._streams = streams
        self._orders = orders(target)

    def stop(self) -> None:
        """Streams under way finish, no others begin."""
        self.stopped.set()
        self.warm.set()

    async def run(self) -> None:
        """Returns when the last stream has ended after `stop`."""
        began = perf_counter()
        async with asyncio.TaskGroup() as clients:
            for number in range(self._streams):
                await asyncio.sleep(began + number / RAMP_PER_SECOND - perf_counter())
                clients.create_task(self._client(keeps=number % 2 == 0), name=f"client {number}")
            self.full.set()

    async def _client(self, *, keeps: bool) -> None:
        """One client until the load stops."""
        while not self.stopped.is_set():
            try:
                await self._connection(keeps=keeps)
            except (BadAnswer, OSError) as error:  # a TimeoutError is an OSError
                self._note(error)
                await asyncio.sleep(_AFTER_ERROR_SECONDS)

    async def _connection(self, *, keeps: bool) -> None:
        """One connection: a single stream, or one after the other until the load stops."""
        connecting = asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._target.port)
        _, connection = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        try:
            await self._stream(connection)
            while keeps and not self.stopped.is_set():
                await self._stream(connection)
        finally:
            connection.close()

    async def _stream(self, connection: Connection) -> None:
        order = next(self._orders)
        self.open += 1
        try:
            await connection.stream(order)
        finally:
            self.open -= 1
        self.finished += 1
        self.tokens += order.tokens
        if self.finished >= WARM_STREAMS * self._streams:
            self.warm.set()

    def _note(self, error: Exception) -> None:
        if self.errors.total() < MOST_ERRORS:  # clients whose error was under way at the last one add nothing
            self.errors[f"{type(error).__name__}: {error}"] += 1
        if self.errors.total() >= MOST_ERRORS:
            self.stop()
