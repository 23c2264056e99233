"""The load generator's connections: raw protocols with keep-alive, one request at a time on each.

A wrong answer, a closed connection or silence ends the whole measurement: a figure over answers of which some were
wrong is worth nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar, cast

from benchmarks.overhead_parts.answers import BadAnswer
from benchmarks.overhead_parts.readers import OpenStream, PlainAnswer, StreamAnswer

Reader = TypeVar("Reader", PlainAnswer, StreamAnswer, OpenStream)

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 10.0  # when no answer at all has come for this long on the loopback, none will


class Client(asyncio.Protocol, Generic[Reader]):
    """One connection. `answered` gets the seconds from request to last byte, and may send the next request."""

    def __init__(
        self, reader: Reader, answered: Callable[["Client[Reader]", float], None], failed: Callable[[str], None]
    ) -> None:
        self.reader: Reader = reader
        self.first_byte_s: float | None = None
        self._answered: Callable[[Client[Reader], float], None] = answered
        self._failed = failed
        self._transport: asyncio.Transport
        self._sent_at = 0.0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses

    def send(self, request: bytes) -> None:
        self.first_byte_s = None
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.first_byte_s is None:
            self.first_byte_s = perf_counter() - self._sent_at
        try:
            complete = self.reader.feed(data)
        except BadAnswer as error:
            self._failed(str(error))
            return
        if complete:
            self._answered(self, perf_counter() - self._sent_at)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._failed(f"connection closed by the other side: {exc or 'end of file'}")

    def close(self) -> None:
        self._closing = True
        self._transport.abort()


class Clients(Generic[Reader]):
    """Connections that live and fail together, within `async with`."""

    def __init__(self) -> None:
        self.answers = 0
        self._all: list[Client[Reader]] = []
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> "Clients[Reader]":
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._all:
            client.close()
        self._end.cancel()

    async def open(
        self, port: int, reader: Reader, answered: Callable[[Client[Reader], float], None]
    ) -> Client[Reader]:
        """Connects to a port of the loopback. Raises OSError or TimeoutError."""

        def counted(client: Client[Reader], elapsed: float) -> None:
            self.answers += 1
            answered(client, elapsed)

        def make() -> Client[Reader]:
            return Client(reader, counted, self._fail)

        connecting = asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        _, client = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        self._all.append(client)
        return client

    def _fail(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_exception(BadAnswer(reason))

    def finish(self) -> None:
        """Ends the wait of `until_finished`."""
        if not self._end.done():
            self._end.set_result(None)

    async def until(self, seconds: float) -> None:
        """Lets the traffic run for this long. Raises BadAnswer at the first failure."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._end), seconds)

    async def until_finished(self) -> None:
        """Waits for `finish`. Raises BadAnswer at the first failure, or when no answer comes any more."""
        while not self._end.done():
            before = self.answers
            await self.until(_SILENT_SECONDS)
            if not self._end.done() and self.answers == before:
                raise BadAnswer(f"no complete answer within {_SILENT_SECONDS:.0f} s")
