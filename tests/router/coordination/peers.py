"""Both ends of links as tests need them: listeners that note what they get, and a peer made of a bare socket.

Floor: tests only. `python -m tests.router.coordination.peers owner|follower ADDRESS` is a real process of its own.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from router.coordination.frames import Answer, Ask, FromFollower, Known, Ping, Pong
from router.coordination.framing import FrameReader, encode, from_owner
from router.coordination.handshake import Handshake, Peer, link_key, new_life
from router.coordination.link import Link, Unreachable
from router.coordination.pulse import Limits
from router.coordination.server import LinkServer, Session, serve_links
from tests.router.coordination.builders import SECRET, make_asked, make_bound

PATIENCE = 30.0  # seconds that a loaded machine may need for anything
FAST = Limits(beat=0.02)
LONG_SILENCE = Limits(beats=10_000)  # for what is not about silence


async def until(true: Callable[[], bool]) -> None:
    """For what another process, or the kernel, has to do first."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.005)


class Desk:
    """An owner's listener: binds every request to the endpoint of its own name, where `answers`."""

    def __init__(self, session: Session, *, answers: bool) -> None:
        self.session = session
        self.answers = answers
        self.frames: list[FromFollower] = []
        self.known: tuple[Known, ...] = ()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def received(self, frame: FromFollower) -> None:
        self.frames.append(frame)
        if self.answers and isinstance(frame, Ask):
            self.session.send(make_bound(frame.id, frame.request.id))

    def pong(self, ping: Ping) -> Pong:
        return Pong(ping.n, self.known)

    def lost(self, reason: str) -> None:
        self.ended.set_result(reason)

    async def end(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.ended


class Owner:
    """A server and the desks of its sessions, in the order in which they came."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.desks: list[Desk] = []
        self.server: LinkServer

    def desk(self, session: Session) -> Desk:
        self.desks.append(Desk(session, answers=self.answers))
        return self.desks[-1]

    async def came(self, count: int = 1) -> Desk:
        await until(lambda: len(self.desks) >= count)
        return self.desks[count - 1]


@asynccontextmanager
async def owner(address: str, *, answers: bool = True, secret: bytes = SECRET, **options: Any) -> AsyncIterator[Owner]:
    one = Owner(answers=answers)
    one.server = await serve_links(address, secret, one.desk, me="owner", **options)
    try:
        yield one
    finally:
        await one.server.close()


class Notes:
    """An asker that notes what happens to its link."""

    def __init__(self) -> None:
        self.connections = 0
        self.reasons: list[str] = []
        self.known: list[Known] = []
        self.at_once: Callable[[], None] = lambda: None  # what to say first on a new connection

    def connected(self) -> None:
        self.connections += 1
        self.at_once()

    def told(self, known: Sequence[Known]) -> None:
        self.known.extend(known)

    def disconnected(self, reason: str) -> None:
        self.reasons.append(reason)


@asynccontextmanager
async def link(address: str, *, secret: bytes = SECRET, me: str = "follower", **options: Any) -> AsyncIterator[Link]:
    options.setdefault("asker", Notes())
    one = Link(address, secret, me=me, **options)
    try:
        yield one
    finally:
        await one.close()


async def ask(link: Link, id: str = "r", **options: Any) -> tuple[int, Answer | None]:
    """A request and its answer."""
    answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
    number = link.ask("p", make_asked(id, **options), (), False, answer.set_result)
    async with asyncio.timeout(PATIENCE):
        return number, await answer


class Bare:
    """A connection of a bare socket, that reads only when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.reader = FrameReader(from_owner())

    @classmethod
    async def connect(cls, server: LinkServer) -> Bare:
        address = server.address.removeprefix("unix:")
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return cls(sock)

    async def say(self, data: bytes | Struct) -> None:
        await self._loop.sock_sendall(self._sock, encode(data) if isinstance(data, Struct) else data)

    async def hear(self) -> bytes:
        """What comes next; empty at the end."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._loop.sock_recv(self._sock, 65536)
            except ConnectionResetError:
                return b""

    async def ended(self) -> bytes:
        """All that comes until the end."""
        data = b""
        while piece := await self.hear():
            data += piece
        return data

    async def prove(self, *, life: bytes | None = None, given: int = 0, me: str = "bare") -> None:
        """The whole handshake, as a follower."""
        shake = Handshake(link_key(SECRET), Peer(me, life or new_life(), given), calls=True)
        await self.say(shake.begin())
        while shake.peer is None:
            await self.say(shake.feed(await self.hear()))

    async def ping_for_ever(self, seconds: float) -> None:
        number = 0
        while True:
            number += 1
            await self.say(Ping(number))
            await asyncio.sleep(seconds)

    def close(self) -> None:
        self._sock.close()


@asynccontextmanager
async def bare(server: LinkServer) -> AsyncIterator[Bare]:
    one = await Bare.connect(server)
    try:
        yield one
    finally:
        one.close()


async def _be_owner(address: str) -> None:
    async with owner(address):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _be_follower(address: str) -> None:
    async with link(address) as one:
        if not await one.up(PATIENCE):
            raise Unreachable(address)
        await ask(one)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"owner": _be_owner, "follower": _be_follower}[sys.argv[1]](sys.argv[2]))
