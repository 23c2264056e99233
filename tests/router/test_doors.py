"""How listening sockets are closed, and shared: real sockets."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from router.doors import Doors, let_in_the_last


class _Greets(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def _serve(listening: socket.socket) -> asyncio.AbstractServer:
    return await asyncio.get_running_loop().create_server(_Greets, sock=listening)


async def greeted(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    said = await reader.read()
    writer.close()
    return said


async def test_who_stands_in_for_another_leaves_its_socket_and_its_queue_as_they_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as others:
        doors = Doors(_serve)
        await doors.only([others])
        assert await greeted(others.getsockname()) == b"hello"
        await doors.only([])
        waiting = asyncio.create_task(greeted(others.getsockname()))
        await doors.only([others])
        assert await waiting == b"hello"
        doors.close()
        assert others.fileno() >= 0
        await doors.only([others])  # an order that comes late
        assert doors.sockets == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no filter for it")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_before_a_socket_closes_who_waits_is_accepted_and_nobody_new_gets_in(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)
    address = listening.getsockname()[:2]
    waiting = [socket.create_connection(address) for _ in range(20)]  # in the kernel's queue: nobody accepts yet
    server = await _serve(listening)
    await let_in_the_last([listening])
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(socket.create_connection, address, 0.3)
    server.close()
    for one in waiting:
        with one:
            assert await asyncio.to_thread(one.recv, 10) == b"hello"
