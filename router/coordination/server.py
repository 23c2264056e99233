"""The owner's end of links: who may come in, and one session for each who did.

Floor: an adapter. What the frames mean is the listener's affair; here they are only in order: numbers of requests grow,
and nothing is said of one that was never asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from router.coordination.address import Address, listen
from router.coordination.channel import Channel
from router.coordination.frames import Ask, Cancel, Carry, Done, First, FromFollower, FromOwner, Ping, Pong
from router.coordination.framing import BadFrame, from_follower
from router.coordination.handshake import Handshake, Peer, link_key, new_life
from router.coordination.pulse import Limits

_log = logging.getLogger("promptlane.coordination")

# Connections that have not proven themselves; a handshake takes a millisecond. Beyond, the oldest goes: whoever opens
# many and says nothing keeps no replica out.
_MAX_PENDING = 64
_OF_AN_ASK = (First, Done, Cancel)


class Listener(Protocol):
    """Who answers one session."""

    def received(self, frame: FromFollower) -> None:
        """Everything but pings. May raise BadFrame, which ends the connection."""

    def pong(self, ping: Ping) -> Pong:
        """The answer, with what this session is to be told."""

    def lost(self, reason: str) -> None:
        """The session is over. Last and once; nothing may be sent any more."""


class Session:
    """One follower's connection. `peer`: who it is."""

    __slots__ = ("_channel", "_given", "_listener", "_pings", "_server", "peer")

    def __init__(self, server: LinkServer, key: bytes, me: Peer, limits: Limits) -> None:
        self._server = server
        self._listener: Listener | None = None
        self._given = self._pings = 0
        self.peer = Peer("?", b"", 0)
        self._channel: Channel[FromFollower] = Channel(self, Handshake(key, me, calls=False), from_follower(), limits)

    @property
    def channel(self) -> asyncio.Protocol:
        """What the transport talks to."""
        return self._channel

    def send(self, frame: FromOwner) -> None:
        """With all else of this turn of the loop; nothing when the session is over. Raises Unsayable."""
        self._channel.send(frame)

    def end(self, reason: str) -> None:
        """What was sent before still goes out."""
        self._channel.flush()
        self._channel.end(reason)

    def opened(self, peer: Peer) -> Callable[[FromFollower], None]:
        self.peer, self._given = peer, peer.given
        self._listener = listener = self._server.admit(self)
        receive, in_order = listener.received, self._in_order

        def received(frame: FromFollower) -> None:
            if in_order(frame):
                receive(frame)

        return received

    def over(self, reason: str) -> None:
        self._server.forget(self)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost(reason)
        else:
            _log.warning("refused a peer at %s: %s", self._channel.whence, reason)

    def _in_order(self, frame: FromFollower) -> bool:
        """False for a ping, which is answered here. Raises BadFrame."""
        if isinstance(frame, Ask):
            if frame.id <= self._given:
                raise BadFrame("an Ask out of order")
            self._given = frame.id
        elif isinstance(frame, _OF_AN_ASK):
            if frame.id > self._given:
                raise BadFrame(f"a {type(frame).__name__} of what was never asked")
        elif isinstance(frame, Ping):
            if frame.n <= self._pings:
                raise BadFrame("a Ping out of order")
            self._pings = frame.n
            if self._listener is not None:
                self._channel.send(self._listener.pong(frame))
            return False
        elif isinstance(frame, Carry):
            self._given = max((self._given, *(seat.id for seat in frame.seats)))
        return True


class LinkServer:
    """`address`: where it listens, with the real port. `sessions`: by replica and life."""

    def __init__(self, secret: bytes, on_session: Callable[[Session], Listener], me: str, limits: Limits) -> None:
        self._key = link_key(secret)
        self._on_session = on_session
        self._me = Peer(me, new_life(), 0)
        self._limits = limits
        self._pending: dict[Session, None] = {}
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self.address = ""
        self.sessions: dict[tuple[str, bytes], Session] = {}

    async def listen(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Raises OSError and BadAddress."""
        self._server, bound = await listen(Address.parse(address), self._accept, self._limits, tls)
        self.address = str(bound)
        if bound.path is not None:
            os.chmod(bound.path, 0o600)  # nobody else has anything to say here, secret or not
            self._inode = os.stat(bound.path).st_ino

    async def close(self) -> None:
        """Ends all sessions and stops listening."""
        if self._server is None:
            return
        self._server.close()
        for session in [*self._pending, *self.sessions.values()]:
            session.end("this replica stops")
        await self._server.wait_closed()
        path = Address.parse(self.address).path
        with suppress(FileNotFoundError):
            if path is not None and os.stat(path).st_ino == self._inode:  # else it is another process's by now
                os.unlink(path)

    @property
    def pending(self) -> int:
        """Connections that have not proven themselves."""
        return len(self._pending)

    def admit(self, session: Session) -> Listener:
        """A session has proven itself; one before it of the same life of the same replica is over."""
        self._pending.pop(session, None)
        name = session.peer[:2]
        before = self.sessions.pop(name, None)
        if before is not None:
            before.end("its replica has connected anew")
        self.sessions[name] = session
        _log.info("replica %s has connected", session.peer.replica)
        return self._on_session(session)

    def forget(self, session: Session) -> None:
        """A session is over, or never came to be."""
        self._pending.pop(session, None)
        if self.sessions.get(session.peer[:2]) is session:
            del self.sessions[session.peer[:2]]

    def _accept(self) -> asyncio.Protocol:
        session = Session(self, self._key, self._me, self._limits)
        self._pending[session] = None
        if len(self._pending) > _MAX_PENDING:
            oldest = next(iter(self._pending))
            oldest.end(f"{_MAX_PENDING} others have come since, and none has proven itself")
        return session.channel


async def serve_links(
    address: str,
    secret: bytes,
    on_session: Callable[[Session], Listener],
    *,
    me: str,
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
) -> LinkServer:
    """Listens at `tcp://host:port` (0: a free one) or `unix:/path`, as replica `me`. `tls`: beside the secret, and only
    over TCP; where it demands a certificate, followers need one. Raises OSError and BadAddress."""
    server = LinkServer(secret, on_session, me, limits or Limits())
    await server.listen(address, tls)
    return server
