"""A link without sockets between two replicas of one process: frames are written and read as over one, `delay` seconds
later. It can be cut and mended.

Floor: benchmarks, and tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from router.coordination.asked import AskedRequest
from router.coordination.asks import Answered, Asks
from router.coordination.frames import Ask, Cancel, CarriedSeat, Done, Ended, Fence, First, Pong
from router.coordination.framing import FrameReader, carries, encode, from_follower, from_owner
from router.coordination.link import Unreachable
from router.coordination.office import Desk, Office
from router.coordination.remote import Remote

_SAID = 1_000  # frames: a test looks at the last few, a replay says hundreds of thousands


class Way:
    """One direction, `delay` seconds long, 0 for one turn of the loop: what sets out first arrives first, also where
    both set out at one moment."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._under_way: deque[Callable[[], None]] = deque()

    def carry(self, arrival: Callable[[], None]) -> None:
        self._under_way.append(arrival)
        loop = asyncio.get_running_loop()
        if self._delay:
            loop.call_later(self._delay, self._arrive)
        else:
            loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        self._under_way.popleft()()


class End(Protocol):
    """A replica, as far as a wire needs it. `wires`: its own, by the owner's name."""

    name: str
    office: Office
    remote: Remote
    wires: dict[str, Wire]


class _Session:
    """The owner's end of one connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._back = Way(wire.delay)
        self.peer = (wire.follower.name, wire.life, wire.asks.given)

    def send(self, frame: Struct) -> None:
        self._wire.carry_over(self, self._back, encode(frame), self._wire.answered)


class Wire:
    """From a follower to an owner; up from the beginning. `delay`: seconds that a frame is on its way, 0 for one turn
    of the loop; `said`: the last that the follower has said on it, also in vain."""

    def __init__(self, follower: End, owner: End, life: bytes = b"1", delay: float = 0.0) -> None:
        self.follower, self.owner, self.life = follower, owner, life
        self.asks = Asks()
        self.said: deque[Struct] = deque(maxlen=_SAID)
        self.desk: Desk | None = None
        self.delay = delay
        self._there = Way(delay)
        self._from_follower, self._from_owner = from_follower(), from_owner()
        self._session: _Session | None = None
        follower.wires[owner.name] = self
        self.mend()

    def mend(self) -> None:
        self._session = _Session(self)
        self.desk = self.owner.office.open(self._session)
        self.follower.remote.seats.tell(self)
        self.follower.remote.look()

    def cut(self, *, owner_knows: bool = True) -> None:
        """What is on its way is lost."""
        desk, self.desk, self._session = self.desk, None, None
        if owner_knows and desk is not None:
            desk.lost("cut")
        self.asks.lost()
        self.follower.remote.look()

    def carry_over(self, session: _Session | None, way: Way, data: bytes, deliver: Callable[[bytes], None]) -> None:
        def arrive() -> None:
            if session is not None and self._session is session:
                deliver(data)

        way.carry(arrive)

    def answered(self, data: bytes) -> None:
        for frame in FrameReader(self._from_owner).feed(data):
            if not isinstance(frame, Pong):
                self.asks.answer(frame)

    # -- as a link -----------------------------------------------------------------------------------------------------

    def ask(
        self, pool: str, request: AskedRequest, excluded: tuple[str, ...], may_hold: bool, answered: Answered
    ) -> int:
        if self.desk is None:
            raise Unreachable
        number = self.asks.new(answered)
        self._say(Ask(number, pool, request, excluded, may_hold))
        return number

    def cancel(self, number: int) -> None:
        self.asks.settled(number)
        self._say(Cancel(number))

    def first(self, number: int) -> None:
        self._say(First(number))

    def done(self, number: int, outcome: Ended | None) -> None:
        self.asks.settled(number)
        self._say(Done(number, outcome))

    def adopt(self) -> int:
        return self.asks.adopt()

    def carry(self, pool: str, seats: Sequence[CarriedSeat]) -> None:
        for frame in carries(pool, seats):
            self._say(frame)

    def fence(self, pool: str, term: int) -> None:
        self._say(Fence(pool, term))

    def _say(self, frame: Struct) -> None:
        self.said.append(frame)

        def receive(data: bytes) -> None:
            assert self.desk is not None
            for one in FrameReader(self._from_follower).feed(data):
                self.desk.received(one)

        self.carry_over(self._session, self._there, encode(frame), receive)
