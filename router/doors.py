"""The listening sockets of one server: from which it accepts, and how one is closed without a loss.

Floor: an adapter over the operating system. The kernel completes connections without asking; those that nobody has
accepted when the last one closes a socket are reset. So the socket first lets nobody new begin, and closes when whoever
had begun is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Collection
from typing import Final

# Seconds for a handshake that has begun to be over: a round trip to clients that are not far away.
HANDSHAKE_SECONDS: Final = 0.2
# Seconds after which a queue that nobody empties (there are no more descriptors) is left to itself.
_EMPTY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.01

_SO_ATTACH_FILTER: Final = 26  # Linux, asm-generic/socket.h; Python has no name for it
_INFO_BYTES, _QUEUED_AT = 104, 24  # struct tcp_info, linux/tcp.h: `tcpi_unacked` of a listening socket is its queue
# Classic BPF over a segment that begins with its TCP header: of byte 13, the flags, SYN without ACK is dropped.
_NOBODY_NEW: Final = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


class Doors:
    """Sockets of others from which a server accepts for a while, beside its own. `serve`: begins to accept from a
    socket, and closes that one with the server that it returns."""

    def __init__(self, serve: Callable[[socket.socket], Awaitable[asyncio.AbstractServer]]) -> None:
        self._serve = serve
        self._open: dict[int, tuple[socket.socket, asyncio.AbstractServer]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    async def only(self, sockets: Collection[socket.socket]) -> None:
        """From now on from these and no others; all of them stay open. From none after `close`."""
        async with self._one_at_a_time:
            if self._closed:
                return
            wanted = {one.fileno(): one for one in sockets}
            for number in self._open.keys() - wanted.keys():
                self._open.pop(number)[1].close()
            for number in wanted.keys() - self._open.keys():
                ours = socket.socket(fileno=os.dup(number))
                server = await self._serve(ours)
                if self._closed:
                    server.close()
                    return
                self._open[number] = ours, server

    @property
    def sockets(self) -> list[socket.socket]:
        return [one for one, _ in self._open.values()]

    def close(self) -> None:
        self._closed = True
        for _, server in self._open.values():
            server.close()
        self._open.clear()


async def let_in_the_last(sockets: Collection[socket.socket]) -> None:
    """Returns when these may be closed: nobody new gets in, and the loop has accepted all who waited. On other systems
    than Linux those who come in that moment are not saved."""
    shut = [one for one in sockets if _shut_out(one)]
    if shut:
        await asyncio.sleep(HANDSHAKE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EMPTY_SECONDS):
                while any(map(_queued, shut)):  # noqa: ASYNC110  # the kernel tells nobody
                    await asyncio.sleep(_LOOK_SECONDS)
    for _ in range(2):  # what was accepted in this turn has its connection in the next
        await asyncio.sleep(0)


def _shut_out(listening: socket.socket) -> bool:
    """Drops who wants to begin a connection: it is begun anew a second later, with another process or replica. All
    processes that have the socket share this. False where it cannot be done."""
    if sys.platform != "linux" or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    program = b"".join(struct.pack("HBBI", *step) for step in _NOBODY_NEW)
    kept = ctypes.create_string_buffer(program)
    try:
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_NOBODY_NEW), ctypes.addressof(kept))
        )
    except OSError:  # a sandbox without filters
        return False
    return True


def _queued(listening: socket.socket) -> bool:
    """Whether somebody waits to be accepted."""
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    return bool(struct.unpack_from("I", info, _QUEUED_AT)[0])
