"""The follower's end of a link: asks an owner for tickets, over one connection that is made anew when it breaks.

Floor: an adapter. Asking is one call and its answer another (`Answered`): no task and no waiting in between. A task
exists only while a connection is being made, which is tried as long as there is something to say: a request is under
way, or somebody has asked since the last attempt. What was under way on a connection that broke is told again by
`Asker.connected`: that replaces whatever was said last and may not have arrived.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from router.coordination.address import Address, connect
from router.coordination.asked import AskedRequest
from router.coordination.asks import Answered, Asks
from router.coordination.backoff import LONGEST_PAUSE, Backoff
from router.coordination.channel import Channel
from router.coordination.frames import (
    Ask,
    Cancel,
    CarriedSeat,
    Done,
    Ended,
    Fence,
    First,
    FromFollower,
    FromOwner,
    Known,
    Ping,
    Pong,
)
from router.coordination.framing import BadFrame, Unsayable, carries, from_owner
from router.coordination.handshake import Handshake, Peer, link_key, new_life
from router.coordination.pulse import Limits

_log = logging.getLogger("promptlane.coordination")


class Unreachable(Exception):
    """There is no connection to the owner now; one is being tried."""


class Asker(Protocol):
    """Who asks over a link."""

    def connected(self) -> None:
        """A new connection is open: the place to `carry` what is under way, before anything else is said."""

    def told(self, known: Sequence[Known]) -> None:
        """What the owner knows of terms."""

    def disconnected(self, reason: str) -> None:
        """It is over; who waited for an answer has been told."""


class Link:
    """`address`: the owner's; `me`: this replica's id; `tls`: as its server has it. Raises BadAddress."""

    def __init__(
        self,
        address: str,
        secret: bytes,
        *,
        me: str,
        asker: Asker,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        random: Random | None = None,
    ) -> None:
        self.address = Address.parse(address)
        self._key = link_key(secret)
        self._me, self._life = me, new_life()
        self._asker = asker
        self._tls = tls
        self._limits = limits or Limits()
        self._backoff = Backoff(random or Random())
        self._asks = Asks()
        self._channel: Channel[FromOwner] | None = None  # from an attempt to its end
        self._live: Channel[FromOwner] | None = None  # the same, while both have proven themselves
        self._up = asyncio.Event()
        self._opened_at = self._try_at = 0.0
        self._pings = self._pongs = 0
        self._reaches = False
        self._wanted = self._closed = False
        self._shaken: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._reason = "no connection has been made yet"

    # -- what is said --------------------------------------------------------------------------------------------------

    def ask(
        self, pool: str, request: AskedRequest, excluded: tuple[str, ...], may_hold: bool, answered: Answered
    ) -> int:
        """Asks for a ticket; returns the request's number. Raises Unreachable and Unsayable: nothing was asked."""
        if self._live is None:
            self.connect()
            raise Unreachable(f"no connection to the replica at {self.address}: {self._reason}")
        number = self._asks.new(answered)
        try:
            self._live.send(Ask(number, pool, request, excluded, may_hold))
        except Unsayable:
            self._asks.settled(number)
            raise
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for the answer any more, and none will be told. This and what follows says nothing while there
        is no connection: `Asker.connected` tells how things stand then."""
        self._asks.settled(number)
        self._say(Cancel(number))

    def first(self, number: int) -> None:
        self._say(First(number))

    def done(self, number: int, outcome: Ended | None) -> None:
        self._asks.settled(number)
        self._say(Done(number, outcome))

    def adopt(self) -> int:
        """A number for a request under way that another replica has given its ticket: to be carried to this one."""
        return self._asks.adopt()

    def carry(self, pool: str, seats: Sequence[CarriedSeat]) -> None:
        """All that is under way in a pool. Raises Unsayable."""
        for frame in carries(pool, seats):
            self._say(frame)

    def fence(self, pool: str, term: int) -> None:
        self._say(Fence(pool, term))

    def inquire(self) -> None:
        """Has the owner say which terms it knows, though there is no silence to be broken by a ping."""
        if self._live is not None:
            self._live.send(self._ping())

    def _say(self, frame: FromFollower) -> None:
        if self._live is not None:
            self._live.send(frame)

    # -- the connection ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._live is not None

    @property
    def peer(self) -> str | None:
        """The owner's id, as it has proven it; None without a connection."""
        live = self._live
        return live.peer.replica if live is not None and live.peer is not None else None

    @property
    def reaches(self) -> bool:
        """Whether the owner reaches an engine, as it said last."""
        return self.connected and self._reaches

    def connect(self) -> None:
        """Sees to it that there is a connection soon: at most one attempt more. Idempotent and cheap."""
        self._wanted = True
        if self._task is None and not self.connected and not self._closed:
            self._task = asyncio.create_task(self._try(), name=f"link to {self.address}")

    async def up(self, seconds: float) -> bool:
        """Waits for a connection, that long at most."""
        self.connect()
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """For good; what was said before still goes out."""
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._channel is not None:
            self._channel.flush()
            self._channel.end("this replica has closed the link")

    async def _try(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (self._wanted or self._asks.open) and not self.connected:
                self._wanted = False
                await asyncio.sleep(max(0.0, self._try_at - loop.time()))
                await self._attempt(loop)
        finally:
            self._task = None

    async def _attempt(self, loop: asyncio.AbstractEventLoop) -> None:
        me = Peer(self._me, self._life, self._asks.given)
        handshake = Handshake(self._key, me, calls=True)
        channel = self._channel = Channel(self, handshake, from_owner(), self._limits, self._ping)
        shaken = self._shaken = loop.create_future()
        try:
            await connect(self.address, lambda: channel, self._limits, self._tls)
        except TimeoutError:
            channel.end("it did not answer in time")
        except OSError as error:
            channel.end(error.strerror or str(error))
        await shaken  # the channel's own clock bounds it

    # -- the channel's side --------------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> Callable[[FromOwner], None]:
        self._opened_at = asyncio.get_running_loop().time()
        self._pings = self._pongs = 0
        self._reaches = False
        self._live = self._channel
        self._up.set()
        self._shake()
        _log.info("connected to replica %s at %s", peer.replica, self.address)
        self._asker.connected()
        return self._received

    def over(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        was_up, self._channel, self._live = self.connected, None, None
        self._up.clear()
        if was_up and now - self._opened_at > LONGEST_PAUSE:  # else it is one that lets in and throws out again
            self._backoff.reset()
        self._try_at = now + self._backoff.pause()
        if not was_up and reason != self._reason:
            _log.warning("cannot connect to the replica at %s: %s", self.address, reason)
        self._reason = reason
        self._shake()
        if was_up:
            self._asks.lost()
            self._asker.disconnected(reason)
            if self._asks.open:
                self.connect()

    def _shake(self) -> None:
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_result(None)

    def _received(self, frame: FromOwner) -> None:
        if isinstance(frame, Pong):
            if not self._pongs < frame.n <= self._pings:
                raise BadFrame("a Pong out of order")
            self._pongs, self._reaches = frame.n, frame.reaches
            if frame.known:
                self._asker.told(frame.known)
        else:
            self._asks.answer(frame)

    def _ping(self) -> Ping:
        self._pings += 1
        return Ping(self._pings)
