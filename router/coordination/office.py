"""The owner's side: every follower's requests, as if they were this replica's own.

Floor: an adapter between sessions and pools. What the owner keeps of a follower's ticket is a **seat**: it lives until
the follower says that the request has ended, until it no longer names it among what is under way, or until the follower
has been away for longer than a connection takes to be made anew. However it ends, its ticket is settled exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from policies.waiting import Waiting
from router.coordination import answers
from router.coordination.frames import (
    Answer,
    Ask,
    Cancel,
    Carry,
    Done,
    Fence,
    First,
    FromFollower,
    Held,
    Known,
    NotMine,
    Ping,
    Pong,
)
from router.elsewhere import Elsewhere
from router.errors import GatewayError
from router.keeper import Detour
from router.metrics import Metrics
from router.pools import Pool
from router.tickets import Ticket

_log = logging.getLogger("promptlane.coordination")

# A follower whose connection broke is back within some attempts; one that is dead keeps engines' seats so long.
AWAY_SECONDS = 1.0
# Pools that are looked at for each Pong, of which there are four a second: 50 us, and a frame of some 10 kB at most.
_NEWS_POOLS = 250


class Peer(NamedTuple):
    """A follower in one of its lives: numbers of requests are counted anew in each."""

    replica: str
    life: bytes


class Line(Protocol):
    """A session with a follower (`router.coordination.server.Session`)."""

    @property
    def peer(self) -> tuple[str, bytes, int]:
        """Who has proven itself: its id, its life, and how many numbers it has given."""

    def send(self, frame: Answer) -> None:
        """Nothing when it is over."""


class Part(Protocol):
    """This replica's part in one pool (`router.coordination.remote`)."""

    @property
    def pool(self) -> Pool: ...

    def leads(self) -> bool:
        """Whether it decides now."""

    @property
    def term(self) -> int:
        """The highest that is known here."""

    def tell(self, ticket: Ticket, replica: str) -> float:
        """Another replica is told this ticket; returns its pause in seconds."""

    def fenced(self, term: int) -> None:
        """A peer says that there is an owner of this term."""

    def asked_by(self, replica: str) -> None:
        """A request that came in there is decided here."""


class Seat(NamedTuple):
    """`line`: the session on which it was last heard of."""

    pool: str
    ticket: Ticket
    line: Line


class Follower:
    """All seats of one peer. `away`: ends its time without a session."""

    def __init__(self) -> None:
        self.seats: dict[int, Seat] = {}
        self.away: asyncio.TimerHandle | None = None

    def settle(self, number: int) -> None:
        seat = self.seats.pop(number, None)
        if seat is not None:
            seat.ticket.settle(None)

    def settle_all(self) -> None:
        for number in list(self.seats):
            self.settle(number)


class Office:
    """`find`: this replica's part in a pool, None for one that it does not know; `pools`: the names of all;
    `reaches`: whether there is an engine that it reaches."""

    def __init__(
        self,
        find: Callable[[str], Part | None],
        clock: Callable[[], float],
        metrics: Metrics,
        pools: Callable[[], Iterable[str]] = tuple,
        reaches: Callable[[], bool] = lambda: False,
    ) -> None:
        self.reaches = reaches
        self.find = find
        self.pools = pools
        self.clock = clock
        self.metrics = metrics
        self._followers: dict[Peer, Follower] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def open(self, line: Line) -> Desk:
        """A follower has connected. Seats of an earlier life of it, which has no session, are nobody's any more."""
        peer = Peer(*line.peer[:2])
        for other, follower in list(self._followers.items()):
            if other.replica == peer.replica and other != peer and follower.away is not None:
                self._forget(other)
        follower = self._followers.setdefault(peer, Follower())
        if follower.away is not None:
            follower.away.cancel()
            follower.away = None
        return Desk(self, line, follower)

    def closed(self, line: Line, follower: Follower) -> None:
        """The session is over: the follower may come back in time."""
        peer = Peer(*line.peer[:2])
        if self._followers.get(peer) is follower:
            follower.away = asyncio.get_running_loop().call_later(AWAY_SECONDS, self._forget, peer)

    def seats(self, pool: str | None = None) -> int:
        """How many are kept, of one pool or of all."""
        return sum(1 for seat in self._all() if pool is None or seat.pool == pool)

    async def close(self) -> None:
        """Ends all that waits and settles all that is under way."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for peer in list(self._followers):
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        follower = self._followers.pop(peer)
        if follower.away is not None:
            follower.away.cancel()
        if follower.seats:
            _log.warning("replica %s is gone: %d requests of it are over", peer.replica, len(follower.seats))
        follower.settle_all()

    def _all(self) -> Iterator[Seat]:
        for follower in self._followers.values():
            yield from follower.seats.values()


class Desk:
    """One session (`router.coordination.server.Listener`). An answer goes out on it or not at all."""

    def __init__(self, office: Office, line: Line, follower: Follower) -> None:
        self._office = office
        self._line = line
        self._follower = follower
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._unlooked: list[str] = []  # pools, of this round
        self._told: dict[str, Known] = {}

    def pong(self, ping: Ping) -> Pong:
        return Pong(ping.n, self._news(), self._office.reaches())

    def _news(self) -> tuple[Known, ...]:
        """Terms that this session has not been told of; not too many at once."""
        found = []
        self._unlooked = self._unlooked or list(self._office.pools())
        for pool in self._unlooked[-_NEWS_POOLS:]:
            part = self._office.find(pool)
            if part is None or not part.term:
                continue
            known = Known(pool, part.term, part.leads())
            if self._told.get(pool) != known:
                self._told[pool] = known
                found.append(known)
        del self._unlooked[-_NEWS_POOLS:]
        return tuple(found)

    def received(self, frame: FromFollower) -> None:
        if isinstance(frame, Ask):
            self._ask(frame)
        elif isinstance(frame, First):
            if (seat := self._follower.seats.get(frame.id)) is not None:
                seat.ticket.first_token()
        elif isinstance(frame, Done):
            if (seat := self._follower.seats.pop(frame.id, None)) is not None:
                seat.ticket.settle(None if frame.outcome is None else frame.outcome.outcome())
        elif isinstance(frame, Cancel):
            self._cancel(frame.id)
        elif isinstance(frame, Carry):
            self._carry(frame)
        elif isinstance(frame, Fence) and (part := self._office.find(frame.pool)) is not None:
            part.fenced(frame.term)

    def lost(self, reason: str) -> None:
        for task in self._waiting.values():
            task.cancel()
        self._office.closed(self._line, self._follower)

    # -- a request ---------------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask) -> None:
        part = self._office.find(ask.pool)
        if part is None or not part.leads():
            self._answer(NotMine(ask.id, ask.pool, part.term if part is not None else 0), "not_mine")
            return
        part.asked_by(self._line.peer[0])
        hold = (lambda seconds: self._line.send(Held(ask.id, seconds))) if ask.may_hold else None
        waiting = Waiting(ask.request.request(self._office.clock()), frozenset(ask.excluded), hold)
        try:
            ticket = part.pool.take(waiting)
        except (GatewayError, Detour) as error:
            self._refuse(ask, part, error)
            return
        if ticket is not None:
            self._give(ask, part, ticket)
            return
        name = f"request {ask.id} of replica {self._line.peer[0]}"
        task = self._waiting[ask.id] = asyncio.create_task(self._wait(ask, part, waiting), name=name)
        self._office.tasks.add(task)
        task.add_done_callback(self._office.tasks.discard)
        task.add_done_callback(lambda _: self._waiting.pop(ask.id, None))  # also where it was cancelled before it began

    async def _wait(self, ask: Ask, part: Part, waiting: Waiting) -> None:
        try:
            ticket = await part.pool.wait(waiting)
            if not part.leads():  # replaced since it was decided: it must not be told with the new owner's term
                ticket.settle(None)
                raise Elsewhere
        except (GatewayError, Detour, Elsewhere) as error:
            self._refuse(ask, part, error)
        else:
            self._give(ask, part, ticket)

    def _give(self, ask: Ask, part: Part, ticket: Ticket) -> None:
        self._follower.seats[ask.id] = Seat(ask.pool, ticket, self._line)
        pause = part.tell(ticket, self._line.peer[0])
        self._answer(answers.bound(ask.id, part.term, ticket, pause), "bound")

    def _refuse(self, ask: Ask, part: Part, why: GatewayError | Detour | Elsewhere) -> None:
        result = "not_mine" if isinstance(why, Elsewhere) else "aside" if isinstance(why, Detour) else "refused"
        self._answer(answers.refused(ask.id, ask.pool, part.term, why), result)

    def _answer(self, frame: Answer, result: str) -> None:
        self._line.send(frame)
        self._office.metrics.add("promptlane_replica_asked", result)

    def _cancel(self, number: int) -> None:
        task = self._waiting.get(number)
        if task is not None:
            task.cancel()
        self._follower.settle(number)

    # -- what is under way -------------------------------------------------------------------------------------------

    def _carry(self, frame: Carry) -> None:
        """What was given on this session, its follower may not know yet; what is older and not named has ended."""
        part, seats = self._office.find(frame.pool), self._follower.seats
        if part is None:
            return
        for one in frame.seats:
            known = seats.get(one.id)
            ticket = known.ticket if known else answers.taken_over(part.pool, one, self._office.clock())
            if ticket is not None:
                seats[one.id] = Seat(frame.pool, ticket, self._line)
        if not frame.more:
            for number in [n for n, seat in seats.items() if seat.pool == frame.pool and seat.line is not self._line]:
                self._follower.settle(number)
