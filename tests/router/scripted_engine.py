"""Engines on real sockets that follow a script, and the pool that talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from router.upstream import Timeouts, Upstream

PATIENT = Timeouts(connect=60, first_byte=60, idle=60, total=60)  # longer than a test may take: none may pass by them
LIMIT = 1 << 20
HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Peer:
    """The engine's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """One whole request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, data: bytes = HI) -> bytes:
        request = await self.request()
        self.send(data)
        return request

    async def closed(self) -> None:
        """Until the gateway has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[object]]


class Engine:
    """Runs one script per connection, in order; the last one again for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.connections = 0
        self.left = asyncio.Queue[int]()  # the numbers of connections whose script is over
        self.tasks: list[asyncio.Task[object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        script = self.scripts[min(number, len(self.scripts) - 1)]
        self.tasks.append(asyncio.ensure_future(script(Peer(reader, writer))))
        try:
            await asyncio.wait([self.tasks[number]])
        finally:
            self.left.put_nowait(number)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def engine(
    *scripts: Script, timeouts: Timeouts = PATIENT, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[Upstream, Engine]]:
    """A scripted engine and the pool that talks to it. A script's own failure fails the test."""
    scripted = Engine(*scripts)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "http" if tls is None else "https"
    upstream = Upstream(f"{scheme}://localhost:{port}", timeouts=timeouts, **options)
    try:
        async with asyncio.timeout(60):
            yield upstream, scripted
    finally:
        upstream.close()
        server.close()
        for task in scripted.tasks:
            task.cancel()
        results = await asyncio.gather(*scripted.tasks, return_exceptions=True)
    failures = [result for result in results if isinstance(result, Exception) and not is_goodbye(result)]
    assert failures == []


def is_goodbye(error: Exception) -> bool:
    return isinstance(error, (ConnectionError, asyncio.IncompleteReadError))


async def ask(upstream: Upstream, body: bytes = b"{}") -> bytes:
    response = await upstream.send(b"POST", b"/v1/chat/completions", [(b"accept", b"*/*")], body)
    return await response.read(LIMIT)


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until something is so that no event tells of."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def serve_always(peer: Peer) -> None:
    while True:
        await peer.answer()


both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]
