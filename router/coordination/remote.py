"""This replica's part in one pool: it leads, it follows who does, or it is alone.

Floor: an adapter; who owns the pool is decided in `policies.coordination.ownership`.

    LEADS     decides for all replicas, by the pool's own profile
    FOLLOWS   asks the owner, and charges what it decided to its own view as well
    ALONE     reaches nobody who decides: sends at once by its own view, and fails nothing for it

A request that waited at an owner that is gone waits for the next one, for a pause at most, and is decided alone then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from policies.coordination.order import LeavingOrder
from policies.coordination.ownership import Lease, Ownership
from policies.waiting import Waiting
from router.coordination import answers, seats
from router.coordination.affinity import Affinity
from router.coordination.asked import AskedRequest
from router.coordination.asking import Asking, Line
from router.coordination.frames import Bound
from router.coordination.framing import Unsayable
from router.coordination.link import Unreachable
from router.elsewhere import Elsewhere, Part
from router.errors import GatewayError, NoEndpoint, Overloaded, queue_full
from router.keeper import Detour
from router.metrics import Metrics
from router.pools import Pool
from router.tickets import Ticket

# Whoever waited at an owner that gave the pool up waits so long for the next; it is there within two looks at the
# store. A dead owner's is free only after its lease: until then it is better to send than to wait.
PAUSE_SECONDS = 0.5
# An owner that said that it is none, or that it has no endpoint where this replica sees one, is not asked again for so
# long, unless another one is seen.
AVOID_SECONDS = 1.0
# After so long without anybody who decides, standbys are this replica's affair.
ALONE_SECONDS = 2.0
# The owner ends a wait at the request's deadline; so much later its answer is given up.
_LATE_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 1.0


class Mode(StrEnum):
    """Who decides for the requests of this replica."""

    LEADS = "leads"
    FOLLOWS = "follows"
    ALONE = "alone"


class Remote:
    """`reach`: the connection to who has this lease, None without one; `wake`: look at the store now; `seats_kept`: of
    this pool's followers. `pool` is set by `serve`."""

    def __init__(
        self,
        ownership: Ownership,
        reach: Callable[[Lease], Line | None],
        wake: Callable[[], None],
        clock: Callable[[], float],
        metrics: Metrics,
        seats_kept: Callable[[str], int] = lambda _: 0,
        affinity: Affinity | None = None,
    ) -> None:
        self.ownership = ownership
        self._reach = reach
        self._wake = wake
        self._clock = clock
        self._metrics = metrics
        self._seats_kept = seats_kept
        self.affinity = affinity
        self._pool: Pool | None = None
        self.seats = seats.Seats(ownership.pool, clock)
        self._order = LeavingOrder()
        self.mode = Mode.ALONE
        self._line: Line | None = None
        self._alone_since = clock()
        self._avoided: Lease | None = None
        self._avoided_until = 0.0
        self._changed = asyncio.Event()

    def serve(self, pool: Pool) -> None:
        """From now on this is the pool: at first, and after a reload."""
        before, self._pool = self._pool, pool
        pool.remote = self
        pool.decide_alone(self.mode is Mode.ALONE)
        if self.look() is Mode.LEADS and before is not None and before is not pool and self.affinity is not None:
            self.affinity.go_on(pool, self.term)

    def changed(self) -> None:
        if self.mode is Mode.LEADS and self.affinity is not None:
            self.affinity.follow(self.pool, self.term)

    @property
    def pool(self) -> Pool:
        assert self._pool is not None  # noqa: S101  # `serve` comes first
        return self._pool

    # -- who decides -------------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.ownership.term

    def look(self) -> Mode:
        """How things are now; what follows from a change is done."""
        now, line = self._clock(), None
        if self.ownership.leads(now):
            mode = Mode.LEADS
        else:
            line = self._owners_line(now)
            mode = Mode.ALONE if line is None else Mode.FOLLOWS
        if mode is not self.mode or line is not self._line:
            self._change(mode, line, now)
        return mode

    def leads(self) -> bool:
        return self.look() is Mode.LEADS

    def decides(self) -> bool:
        return self.look() is not Mode.FOLLOWS

    def looks_after(self) -> bool:
        mode = self.look()
        return mode is Mode.LEADS or (mode is Mode.ALONE and self._clock() - self._alone_since > ALONE_SECONDS)

    def tell(self, ticket: Ticket, replica: str) -> float:
        """Another replica is told this ticket; returns its pause in seconds."""
        pause = self._pause(ticket, replica)
        self._order.told(ticket.endpoint, replica, self._clock())
        return pause

    def fenced(self, term: int) -> None:
        """A peer has seen an owner of this term."""
        if term > self.ownership.term:
            self.ownership.fenced(term)
            self.look()
            self._wake()

    def told(self, owner: Lease, *, leads: bool) -> None:
        """A peer knows of this term, and, where it `leads`, that it is its own."""
        self.fenced(owner.term)
        if leads and self.ownership.led_by(owner):
            self.look()

    def asked_by(self, replica: str) -> None:
        """A request that came in there is decided here."""
        self.ownership.traffic.note(replica)

    def describe(self) -> Part:
        owner = self.ownership.owner
        return {
            "part": self.look().value,
            "owner": owner.replica if owner is not None else None,
            "home": self.ownership.home,
            "term": self.ownership.term,
            "under_way": len(self.seats),
            "seats_of_followers": self._seats_kept(self.ownership.pool),
        }

    def _owners_line(self, now: float) -> Line | None:
        owner = self.ownership.owner
        if owner is None or owner.replica == self.ownership.me:
            return None
        if owner == self._avoided and now < self._avoided_until:
            return None
        return self._reach(owner)

    def _change(self, mode: Mode, line: Line | None, now: float) -> None:
        before, self.mode, self._line = self.mode, mode, line
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if mode is Mode.ALONE:
            self._alone_since = now  # its seats stay where they are: the owner may only be out of reach for a moment
        else:
            self.seats.move(line)
        if self.affinity is not None and (mode is Mode.LEADS) is not (before is Mode.LEADS):
            if mode is Mode.LEADS:
                self.affinity.begin(self.pool, self.term)
            else:
                self.affinity.end()
        if before is not mode:
            self._metrics.add("promptlane_replica_changes", self.ownership.pool, mode.value)
        if mode is Mode.FOLLOWS or before is Mode.LEADS:
            self.pool.send_away()
        if (mode is Mode.ALONE) is not (before is Mode.ALONE):
            self.pool.decide_alone(mode is Mode.ALONE)

    # -- for the pool ------------------------------------------------------------------------------------------------

    def keep(self, ticket: Ticket) -> None:
        self.seats.add(ticket, None)
        if self.look() is Mode.FOLLOWS:  # it was decided here all the same
            self.seats.move(self._line)

    async def dispatch(self, waiting: Waiting) -> Ticket:
        """As `Pool.dispatch`."""
        began = self._clock()
        denied: Lease | None = None
        until = began
        while True:
            mode, owner, now = self.look(), self.ownership.owner, self._clock()
            again = mode is Mode.FOLLOWS and owner == denied
            if now < until and (again or mode is Mode.ALONE):
                await self._news(until - now)
                continue
            if again:
                self._avoid(owner)
                continue
            denied, pause = None, PAUSE_SECONDS
            try:
                ticket = await (self._ask(waiting) if mode is Mode.FOLLOWS else self._decide(waiting, mode))
            except Elsewhere:
                ticket, denied = None, owner if mode is Mode.FOLLOWS else None
            except NoEndpoint:
                if mode is not Mode.FOLLOWS or not self.pool.sees_one(waiting.excluded):
                    raise
                self._avoid(owner)  # it reaches no engine, and this replica does: who sees one decides
                ticket, pause = None, 0.0
            if ticket is not None:
                if until > began:
                    ticket.queued_seconds = self._clock() - began
                return ticket
            self._count("again")
            until = self._clock() + pause
            waiting = Waiting(waiting.request, waiting.excluded, waiting.on_hold)

    def _avoid(self, owner: Lease | None) -> None:
        """Until it is asked again this replica is alone."""
        self._avoided, self._avoided_until = owner, self._clock() + AVOID_SECONDS

    async def _news(self, seconds: float) -> None:
        """Until who decides is another one, that long at most."""
        changed = self._changed
        self._wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    async def _decide(self, waiting: Waiting, mode: Mode) -> Ticket:
        """By this replica. Raises Elsewhere where it is another one's affair by now."""
        self.asked_by(self.ownership.me)
        ticket = self.pool.take(waiting) or await self.pool.wait(waiting)
        self._count("leads" if mode is Mode.LEADS else "alone")
        self.keep(ticket)
        pause = self._pause(ticket, self.ownership.me) if mode is Mode.LEADS else 0.0
        if pause:
            try:
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                ticket.settle(None)
                raise
        return ticket

    def _pause(self, ticket: Ticket, replica: str) -> float:
        return self._order.pause(ticket.endpoint, replica, ticket.choice.own_seconds, self._clock())

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, waiting: Waiting) -> Ticket | None:
        """The owner's ticket; None where its connection is lost. Raises Elsewhere where it is not the owner."""
        line, request = self._line, waiting.request
        assert line is not None  # noqa: S101  # this replica follows
        asking = Asking(self, line, waiting)
        asked, may_hold = AskedRequest.of(request, self._clock()), waiting.on_hold is not None
        try:
            number = asking.number = line.ask(
                self.ownership.pool, asked, tuple(waiting.excluded), may_hold, asking.answered
            )
        except Unreachable:
            return None
        except Unsayable:  # no frame can hold a number of it: such a one waits for nobody
            return self._take_unsaid(waiting)
        ticket: Ticket | None = None
        try:
            async with asyncio.timeout(max(0.0, request.deadline - self._clock()) + _LATE_SECONDS):
                given = await asking.answer
                if asking.pause:
                    await asyncio.sleep(asking.pause)
                ticket = given
            if ticket is not None:
                self._count("follows")
            return ticket
        except TimeoutError:
            raise Overloaded.at_deadline(_RETRY_AFTER_SECONDS) from None
        finally:
            if ticket is None:
                asking.give_up(number)

    def _take_unsaid(self, waiting: Waiting) -> Ticket:
        ticket = self.pool.take(waiting)
        if ticket is None:
            raise queue_full(503, _RETRY_AFTER_SECONDS)
        self.seats.add(ticket, None)
        return ticket

    def bound(self, frame: Bound, line: Line, waiting: Waiting) -> Ticket:
        """A ticket of the owner. Raises Elsewhere for one that means nothing here."""
        if frame.term < self.ownership.term:  # it has been replaced, and does not know it
            line.done(frame.id, None)
            line.fence(self.ownership.pool, self.ownership.term)
            raise Elsewhere
        if frame.term > self.ownership.term:
            self._wake()
        ticket = self.pool.bind(waiting, answers.told(frame))
        if ticket is None:  # its configuration has an endpoint more
            line.done(frame.id, None)
            raise Elsewhere
        self.seats.add(ticket, line, frame.id)
        return ticket

    def aside(self) -> GatewayError | Detour:
        """The owner's pool is degraded: the way that our own keeper shows."""
        detour = self.pool.keeper.aside() if self.pool.keeper is not None else None
        return detour or NoEndpoint(
            "No endpoint of this model is available right now.", retry_after=_RETRY_AFTER_SECONDS
        )

    def _count(self, by: str) -> None:
        self._metrics.add("promptlane_replica_decisions", self.ownership.pool, by)
