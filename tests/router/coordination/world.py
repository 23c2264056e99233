"""Replicas in one process, without sockets and stores: real pools, offices and remotes, and wires between them that a
test cuts and mends.

Floor: tests only.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.replicas_parts.wire import Wire
from policies.coordination.ownership import Lease, Ownership
from policies.registry import make_profile
from policies.types import Lane
from router.coordination.affinity import Affinity
from router.coordination.journal import JournalStore
from router.coordination.office import Office
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


def pair(**options: Any) -> tuple[Replica, Replica, Wire]:
    """An owner, one that follows it, and the wire between them."""
    owner, follower = Replica("owner", **options), Replica("follower", **options)
    wire = Wire(follower, owner)
    owner.sees(owner)
    follower.sees(owner)
    return owner, follower, wire
