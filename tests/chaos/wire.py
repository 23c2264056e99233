"""A wire between the gateway and an engine that can be cut: a TCP relay with a port of its own.

Floor: tests only; asyncio, as several wires and all clients share one loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from tests.servers import free_port


class Wire:
    """Relays to `target` (host, port). Cut: connections are reset and new ones refused. Blocked: all stays open and
    nothing comes through, until it is mended; then the bytes that were under way arrive."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = free_port()
        self.blocked = False
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that reach through, both halves counted."""
        return len(self._ends)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", self.port, backlog=512)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    def block(self) -> None:
        self.blocked = True
        for end in self._ends:
            end.look()

    async def mend(self) -> None:
        self.blocked = False
        for end in self._ends:
            end.look()
        if self._server is None:
            await self.start()

    async def stop(self) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._ends:  # noqa: ASYNC110 - transports close in the loop's next turns
            await asyncio.sleep(0)

    def _reset(self) -> None:
        for end in list(self._ends):
            end.reset()

    def join(self, near: _End) -> None:
        """The gateway has connected: connects to the engine."""
        task = asyncio.create_task(self._connect(near), name=f"wire {self.port}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: _End) -> None:
        far = _End(self)
        far.peer, near.peer = near, far
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *self.target)
        except OSError:
            near.reset()
            return
        if near.gone:
            far.reset()
        near.look()


class _End(asyncio.Protocol):
    """One half of a connection. It is read while its peer takes what comes and the wire is not blocked."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.peer: _End | None = None
        self.gone = self.full = False
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def look(self) -> None:
        """Reads on, or waits."""
        if self.gone or self._transport is None:
            return
        peer = self.peer
        wait = self.wire.blocked or peer is None or peer._transport is None or peer.full
        (self.transport.pause_reading if wait else self.transport.resume_reading)()

    def reset(self) -> None:
        """Closes by RST, as a dead peer or a cut route shows; without the option it would be a polite end."""
        if not self.gone:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.wire._ends.add(self)
        self.look()

    def data_received(self, data: bytes) -> None:
        assert self.peer is not None
        self.peer.transport.write(data)

    def pause_writing(self) -> None:
        self.full = True
        if self.peer is not None:
            self.peer.look()

    def resume_writing(self) -> None:
        self.full = False
        if self.peer is not None:
            self.peer.look()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self.wire._ends.discard(self)
        peer = self.peer
        if peer is not None and peer._transport is not None and not peer.gone:
            peer.transport.close() if error is None else peer.reset()


class _Near(_End):
    """The gateway's half."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire.join(self)
