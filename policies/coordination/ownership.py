"""Who decides for a pool: one replica's part in the lease of one pool.

Floor: `policies`, pure. It is told what was seen in the store, and says what to do there and whether this replica
leads. A **term** numbers the ownerships of a pool, each higher than all before it: of two that both believe to lead,
the lower has lost. Nobody's clock is compared with anybody else's.

What holds, whatever is lost, late or asleep: a replica that was told of a higher term, or has seen another's lease,
does not lead with its old one again; one that has not looked at the store for a lease's length, nor tried to, does not
lead until it has, as it may have been asleep while others went on. An owner that tries and cannot reach the store goes
on: that alone says nothing of a new owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from policies.coordination.traffic import Traffic

# A lease outlives three lost looks of the four in a second, and a dead owner's pool is free before 2 s have passed.
LEASE_SECONDS = 1.5
# How long a better placed replica must have been there before it is handed a pool: one that comes and goes is handed
# nothing.
SETTLE_SECONDS = 2.0
# Places in the order of replicas are waited for as shares of that, so that a dead first one blocks nothing.
_STEPS = 4
# So long is it remembered where a pool is at home after requests came in there, and so often is it said.
HOME_SECONDS = 600.0
_HOME_AGAIN_SECONDS = 60.0
# A successor that was handed a pool and did not take it is given twice as long each time, up to 2^5 as long: one that
# is too busy to take it would otherwise make the pool change hands for ever.
_MOST_PATIENCE = 5


class Lease(NamedTuple):
    """An ownership as the store has it. `address`: where the owner is asked."""

    replica: str
    address: str
    term: int


class Step(StrEnum):
    """What to do in the store now."""

    NOTHING = "nothing"
    ACQUIRE = "acquire"
    RENEW = "renew"
    RELEASE = "release"


def ranking(pool: str, replicas: Iterable[str], home: str | None = None) -> list[str]:
    """All replicas in the pool's own order: first its home, then by rendezvous hashing, so that when one goes or comes
    the others keep their places."""
    seed = xxh3_64_intdigest(pool.encode())
    return sorted(
        set(replicas), key=lambda replica: (replica != home, xxh3_64_intdigest(replica.encode(), seed), replica)
    )


def preferred(pool: str, replicas: Sequence[str]) -> str | None:
    """Who should own the pool; None where nobody is."""
    order = ranking(pool, replicas)
    return order[0] if order else None


class Ownership:
    """`me`: this process's name, used by no other and never again: a lease with it was taken by us, whatever answer was
    lost. `traffic`: where the pool's requests come in, to be noted while we lead."""

    def __init__(
        self, pool: str, me: str, *, lease_seconds: float = LEASE_SECONDS, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.pool = pool
        self.me = me
        self._lease_seconds = lease_seconds
        self._settle_seconds = settle_seconds
        self._lease: Lease | None = None  # as last seen
        self._mine: Lease | None = None  # what we lead with
        self._mine_since = 0.0
        self._highest = 0
        self._looked_at = float("-inf")  # the last look at the store, or the last try
        self._steady = False  # the last try was a look
        self._rank = 0
        self._free_since: float | None = None
        self._unsure = False
        self._successor: str | None = None
        self._successor_since = 0.0
        self._patience = 0
        self._handing = self._stopping = False
        self.traffic = Traffic()
        self._home: str | None = None  # as the store has it
        self._home_said_at = float("-inf")

    @property
    def owner(self) -> Lease | None:
        """Who decides as far as is known: ourselves while we hold the lease; None where nobody is known to."""
        if self._mine is not None and not self._leaving:
            return self._mine
        lease = self._lease
        return lease if lease is not None and lease.replica != self.me else None

    @property
    def held(self) -> Lease | None:
        """The store's lease that is ours, as far as is known, whether we lead with it or not."""
        return self._lease if self._lease is not None and self._lease.replica == self.me else None

    @property
    def home(self) -> str | None:
        """The replica at which the pool's requests come in, as the store has it."""
        return self._home

    @property
    def term(self) -> int:
        """The highest that is known of; while we lead, ours. 0 before the first."""
        return self._highest

    def leads(self, now: float) -> bool:
        """Whether this replica may decide for the pool."""
        return self._mine is not None and not self._leaving and now - self._looked_at < self._lease_seconds

    def next(self, now: float) -> Step:
        """What to do in the store; after `acquired`, `seen` or `store_lost` ask again."""
        lease = self.held
        if lease is not None:
            keep = not self._leaving and lease.term >= self._highest
            return Step.RENEW if keep else Step.RELEASE
        if self._free_since is None or self._stopping or not self._steady:
            return Step.NOTHING
        places = 0 if self._mine is not None else self._rank + self._unsure
        return Step.ACQUIRE if now >= self._free_since + places * self._settle_seconds / _STEPS else Step.NOTHING

    def home_to_say(self, now: float) -> str | None:
        """Which replica the store is to be told is the pool's home; None: nothing is to be said now."""
        if not self.leads(now):
            self.traffic.clear()
            return None
        home = self.traffic.home(now)
        if home is None or (home == self._home and now - self._home_said_at < _HOME_AGAIN_SECONDS):
            return None
        self._home_said_at = now
        return home

    def seen(self, lease: Lease | None, replicas: Sequence[str], now: float, home: str | None = None) -> None:
        """What the store holds. `now`: when the look was begun, as what it shows may be as old as that."""
        slept = self._asleep(now)
        first_look = not self._steady or slept
        self._looked_at, self._steady = max(self._looked_at, now), True
        self._home = home
        order = ranking(self.pool, [*replicas, self.me], home)
        self._rank = order.index(self.me)
        self._lease = lease
        if lease is None:
            self._saw_free(now, slept=slept, first_look=first_look)
        else:
            self._saw_held(lease, now)
        self._watch(order[0], now)

    def acquired(self, lease: Lease | None, now: float) -> None:
        """What an attempt to acquire brought that was begun at `now`; None: somebody else was faster."""
        self._looked_at = max(self._looked_at, now)
        self._lease, self._free_since = lease, None
        if lease is None:
            self._mine = None
        else:
            self._saw_held(lease, now)

    def released(self) -> None:
        """The store has let go of our lease, or had."""
        self._lease = self._mine = None

    def store_lost(self, now: float) -> None:
        """The store could not be reached, or did not answer in time."""
        if self._asleep(now):
            self._mine = None
        self._looked_at, self._steady = max(self._looked_at, now), False
        self._successor = None  # whether it is still there is not known

    def fenced(self, term: int) -> None:
        """A peer says that there is an owner of this term."""
        if term <= self._highest:
            return
        self._highest = term
        self._mine = None
        if self._lease is not None and self._lease.replica != self.me:
            self._lease = None  # it owns no longer either

    def led_by(self, owner: Lease) -> bool:
        """A peer says that it leads with this lease, the highest that is known: who cannot ask the store goes by that,
        where it knows of nobody. Returns whether it does."""
        if self._steady or self.owner is not None or owner.term < self._highest or owner.replica == self.me:
            return False
        self._lease = owner
        return True

    def stop(self) -> None:
        """This replica is about to end: what it holds is released at once, and it takes nothing any more."""
        self._stopping = True

    @property
    def _leaving(self) -> bool:
        return self._handing or self._stopping

    def _asleep(self, now: float) -> bool:
        return now - self._looked_at >= self._lease_seconds

    def _saw_free(self, now: float, *, slept: bool, first_look: bool) -> None:
        if self._handing:
            self._patience = min(self._patience + 1, _MOST_PATIENCE)
        if self._handing or slept:
            self._mine = None
        self._handing = False
        if self._free_since is None or slept:
            # Free when we come (or come back): others may be about to say that they are there, or to take it again.
            self._free_since, self._unsure = now, first_look

    def _saw_held(self, lease: Lease, now: float) -> None:
        self._free_since = None
        if lease.replica != self.me:
            self._mine, self._handing, self._patience = None, False, 0
        elif lease.term >= self._highest:
            if self._mine is None:
                self._mine_since = now
            self._mine = lease
        self._highest = max(self._highest, lease.term)

    def _watch(self, first: str, now: float) -> None:
        """Whether somebody better placed has been there for long enough."""
        if first != self._successor:
            self._successor, self._successor_since, self._patience, self._handing = first, now, 0, False
        since = max(self._successor_since, self._mine_since)
        if first == self.me or self._mine is None:
            return
        if now - since >= self._settle_seconds * 2**self._patience:
            self._handing = True
