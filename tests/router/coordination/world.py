"""Replicas in one process, without sockets and stores: real pools, offices and remotes, and wires between them that a
test cuts and mends. Frames are written and read as over a socket, one turn of the loop later.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from msgspec import Struct

from policies.coordination.ownership import Lease, Ownership
from policies.registry import make_profile
from policies.types import Lane
from router.coordination.affinity import Affinity
from router.coordination.asked import AskedRequest
from router.coordination.asks import Answered, Asks
from router.coordination.frames import Ask, Cancel, CarriedSeat, Done, Ended, Fence, First
from router.coordination.framing import FrameReader, carries, encode, from_follower, from_owner
from router.coordination.journal import JournalStore
from router.coordination.link import Unreachable
from router.coordination.office import Desk, Office
from router.coordination.remote import Remote
from router.metrics import Metrics
from router.pools import Place, Pool
from router.upstream import Upstream
from tests.policies.builders import make_state
from tests.router.builders import LIMITS, NOBODY, make_attempts, make_desk

POOL = "p"


class Replica:
    """One of them. Its endpoints are those of all others, as it sees them."""

    def __init__(
        self,
        name: str,
        *,
        seats: int = 4,
        max_waiting: int = 100,
        names: Sequence[str] = ("e0",),
        journals: JournalStore | None = None,
    ) -> None:
        self.name = name
        self.now = 100.0
        self.states = [make_state(one, max_in_flight=seats) for one in names]
        self.metrics = Metrics()
        self.ownership = Ownership(POOL, name)
        self.office = Office(lambda pool: self.remote if pool == POOL else None, self.clock, self.metrics)
        self.wires: dict[str, Wire] = {}
        self.wakes = 0
        affinity = Affinity(journals, POOL, self.clock) if journals is not None else None
        self.remote = Remote(
            self.ownership, self._reach, self._wake, self.clock, self.metrics, self.office.seats, affinity
        )
        self.pool = self.make_pool(max_waiting)
        self.remote.serve(self.pool)

    def clock(self) -> float:
        return self.now

    @property
    def in_flight(self) -> int:
        return sum(state.in_flight for state in self.states)

    def sees(self, owner: Replica | None, term: int = 1) -> None:
        """A look at the store has shown this owner."""
        lease = Lease(owner.name, "tcp://h:1", term) if owner is not None else None
        self.ownership.seen(lease, (self.name,), self.now)
        self.remote.look()

    def _reach(self, lease: Lease) -> Wire | None:
        wire = self.wires.get(lease.replica)
        return wire if wire is not None and wire.desk is not None else None

    def _wake(self) -> None:
        self.wakes += 1

    def make_pool(self, max_waiting: int) -> Pool:
        return Pool(
            POOL,
            [Place(state, Upstream(NOBODY, timeouts=LIMITS)) for state in self.states],
            make_profile("prompt-aware", Random(1)),
            make_desk(max_waiting),
            self.clock,
            attempts=make_attempts(),
            when_full=dict.fromkeys(Lane, 503),
            alone=make_profile("prompt-aware-at-once", Random(1)),
        )


class _End:
    """The owner's end of one connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.peer = (wire.follower.name, wire.life, wire.asks.given)

    def send(self, frame: Struct) -> None:
        self._wire.carry_over(self, encode(frame), self._wire.answered)


class Wire:
    """From a follower to an owner; up from the beginning. `said`: what the follower has said on it, also in vain."""

    def __init__(self, follower: Replica, owner: Replica, life: bytes = b"1") -> None:
        self.follower, self.owner, self.life = follower, owner, life
        self.asks = Asks()
        self.said: list[Struct] = []
        self.desk: Desk | None = None
        self._end: _End | None = None
        follower.wires[owner.name] = self
        self.mend()

    def mend(self) -> None:
        self._end = _End(self)
        self.desk = self.owner.office.open(self._end)
        self.follower.remote.seats.tell(self)
        self.follower.remote.look()

    def cut(self, *, owner_knows: bool = True) -> None:
        """What is on its way is lost."""
        desk, self.desk, self._end = self.desk, None, None
        if owner_knows and desk is not None:
            desk.lost("cut")
        self.asks.lost()
        self.follower.remote.look()

    def carry_over(self, end: _End | None, data: bytes, deliver: Callable[[bytes], None]) -> None:
        def arrive() -> None:
            if end is not None and self._end is end:
                deliver(data)

        asyncio.get_running_loop().call_soon(arrive)

    def answered(self, data: bytes) -> None:
        for frame in FrameReader(from_owner()).feed(data):
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
            for one in FrameReader(from_follower()).feed(data):
                self.desk.received(one)

        self.carry_over(self._end, encode(frame), receive)


def pair(**options: Any) -> tuple[Replica, Replica, Wire]:
    """An owner, one that follows it, and the wire between them."""
    owner, follower = Replica("owner", **options), Replica("follower", **options)
    wire = Wire(follower, owner)
    owner.sees(owner)
    follower.sees(owner)
    return owner, follower, wire
