"""One connection between two replicas: handshake, frames, heartbeat, and an end with a reason.

Floor: an adapter, the same for both sides. It never waits and makes no task: everything happens in the transport's
callbacks and one timer. What is said in one turn of the loop goes out in one write.

    SHAKING --both have proven themselves--> OPEN --fault, silence, close()--> over: `Side.over`, exactly once
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

from msgspec import Struct
from msgspec.msgpack import Decoder

from router.coordination.framing import BadFrame, FrameReader, encode
from router.coordination.handshake import Handshake, Peer, Refused
from router.coordination.pulse import Limits, Pulse, Verdict

_log = logging.getLogger("promptlane.coordination")

F = TypeVar("F", bound=Struct)
F_in = TypeVar("F_in", bound=Struct, contravariant=True)

LEFT = "it closed the connection"


class Side(Protocol[F_in]):
    """Who uses a channel."""

    def opened(self, peer: Peer) -> Callable[[F_in], None]:
        """Both have proven themselves. Returns who is to have the frames."""

    def over(self, reason: str) -> None:
        """The connection has ended; without `opened`, the peer was refused. Last and once."""


class Channel(asyncio.Protocol, Generic[F]):
    """`ping`: makes what to say when there is nothing to be said; the side without one only answers. `peer`: who it is,
    once it has proven itself; `whence`: its address. What ends an open channel is logged here."""

    __slots__ = (
        "_decoder", "_handshake", "_limits", "_loop", "_over", "_ping", "_pulse", "_reader", "_receive", "_side",
        "_timer", "_transport", "_unsaid", "_written", "peer", "whence",
    )  # fmt: skip

    def __init__(
        self,
        side: Side[F],
        handshake: Handshake,
        decoder: Decoder[F],
        limits: Limits,
        ping: Callable[[], Struct] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._side: Side[F] | None = side
        self._handshake: Handshake | None = handshake
        self._decoder = decoder
        self._limits = limits
        self._ping = ping
        self._pulse = Pulse(limits.beats)
        self._receive: Callable[[F], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._unsaid: list[bytes] = []
        self._written = 0
        self.peer: Peer | None = None
        self.whence = "?"

    # -- the side's part ----------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        return self._receive is not None

    def send(self, frame: Struct) -> None:
        """Says something, with all else that is said in this turn of the loop; nothing when the connection is over.

        Raises Unsayable.
        """
        if self._over:
            return
        unsaid = self._unsaid
        if not unsaid:
            self._loop.call_soon(self._flush)
        unsaid.append(encode(frame))

    def end(self, reason: str) -> None:
        """Ends the connection at once; what is unsaid is dropped. Idempotent."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._unsaid.clear()
        side, self._side = self._side, None
        # Whoever is refused leaves nothing that only a garbage collection would find.
        self._handshake = self._receive = self._ping = None
        if self._transport is not None:
            self._transport.abort()
        if side is not None:
            side.over(reason)

    def flush(self) -> None:
        """Says now what is unsaid, as nothing more will be."""
        self._flush()

    # -- the transport's part -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:  # given up while it was being made
            self._transport.abort()
            return
        peername = transport.get_extra_info("peername")
        self.whence = "{}:{}".format(*peername[:2]) if isinstance(peername, tuple) else "a local socket"
        self._timer = self._loop.call_later(self._limits.handshake, self.end, "it did not prove itself in time")
        if self._handshake is not None and (hello := self._handshake.begin()):
            self._transport.write(hello)

    def data_received(self, data: bytes) -> None:
        receive = self._receive
        if receive is None:
            self._shake(data)
            return
        self._pulse.heard = True
        try:
            for frame in self._reader.feed(data):
                receive(frame)
                if self._over:
                    return
        except BadFrame as error:
            self._fault(f"it sent {error}")

    def eof_received(self) -> None:
        self._gone(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(error)

    # -- beginning and end --------------------------------------------------------------------------------------------

    def _shake(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None:
            return  # over
        try:
            answer = handshake.feed(data)
        except Refused as refused:
            self.end(str(refused))
            return
        if answer and self._transport is not None:
            self._transport.write(answer)
        if handshake.peer is not None:
            self._open(handshake.peer, handshake.rest)

    def _open(self, peer: Peer, rest: bytes) -> None:
        self.peer, self._handshake = peer, None
        self._reader = FrameReader(self._decoder)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._limits.beat, self._beat)
        self._pulse.heard = True
        if self._side is None:
            return
        receive = self._side.opened(peer)
        if self._over:
            return
        self._receive = receive
        if rest:
            self.data_received(rest)

    def _fault(self, reason: str) -> None:
        name = self.peer.replica if self.peer is not None else "?"
        _log.warning("dropped the connection with replica %s at %s: %s", name, self.whence, reason)
        self.end(reason)

    def _gone(self, error: Exception | None) -> None:
        if self._over:
            return
        reason = LEFT if error is None else f"the connection broke ({error})"
        if self.peer is None:
            self.end(f"{reason} before it had proven itself; is PROMPTLANE_SECRET the same on both?")
        else:
            _log.info("the connection with replica %s at %s is over: %s", self.peer.replica, self.whence, reason)
            self.end(reason)

    # -- writing and the heartbeat ------------------------------------------------------------------------------------

    def _flush(self) -> None:
        unsaid, transport = self._unsaid, self._transport
        if not unsaid or transport is None:
            return
        data = unsaid[0] if len(unsaid) == 1 else b"".join(unsaid)
        unsaid.clear()
        self._pulse.said = True
        self._written += len(data)
        transport.write(data)
        if transport.get_write_buffer_size() > self._limits.unsent_bytes:
            self._fault("it is too slow for what it is to be told")

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._limits.beat, self._beat)
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        verdict = self._pulse.beat(unsent, self._written - unsent)
        seconds = self._limits.beat * self._limits.beats
        if verdict is Verdict.PING and self._ping is not None:
            self.send(self._ping())
        elif verdict is Verdict.SILENT:
            self._fault(f"it has been silent for {seconds:g} s")
        elif verdict is Verdict.DEAF:
            self._fault(f"it has read nothing for {seconds:g} s")
