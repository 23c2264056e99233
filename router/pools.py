"""The endpoints that serve a model, live, and the one call that binds a request to one of them.

Floor: an adapter; it keeps the state that `policies` decides on. Choosing and reserving are one synchronous step: a
burst of requests sees itself. A pass runs whenever a request arrives, a first token comes back, a request ends or an
endpoint changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from policies.admission.desk import Desk
from policies.attempts import AttemptPolicy
from policies.decision import Candidate, Decision
from policies.dispatch import SENT_OF_PART, WINDOW, plan
from policies.endpoint_state import EndpointState
from policies.health import ProbeState
from policies.outliers import MAX_EJECTED_SHARE, Fellows
from policies.pool_rates import PoolRates
from policies.profile import Profile
from policies.shortlist import IN_LINE, SMALL, Shortlist, fitted
from policies.silence import introduce
from policies.types import InferenceRequest, Lane, Rejection, RejectReason
from policies.waiting import Waiting
from router.elsewhere import Elsewhere, Other, Remote, Told
from router.errors import GatewayError, NoEndpoint, Overloaded, queue_full
from router.keeper import Detour, Keeper
from router.lanes import Queued, WaitingRoom
from router.tickets import Ticket
from router.upstream import Upstream
from router.wire.openai import ApiSpec

# Seconds after which asking again makes sense: probes run every few seconds, and a circuit opens for one at first.
_RETRY_AFTER_SECONDS = 2.0

# For so long the speeds and prices of a large pool's endpoints are taken as they were: learned speeds hardly move, and
# what is reserved by them is settled by what it was.
_KINDS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """One endpoint of a pool: what is believed of it, and the connections to it. `key`: its identity as its source
    tells it (`policies.discovery.Found`), None for one that is configured."""

    state: EndpointState
    upstream: Upstream
    key: str | None = None

    def available(self, now: float) -> bool:
        """Whether the endpoint may get a request at all, room or not."""
        return self.state.available(now)


class Copier(Protocol):
    """Who may want a copy of what is sent (`router.mirror`)."""

    def offer(self, spec: ApiSpec, request: InferenceRequest, body: bytes) -> None:
        """A request was sent, with this body."""

    async def stop(self) -> None:
        """Ends the copies under way."""


class Pool:
    """The endpoints of one model. `clock` gives monotonic seconds.

    `window`: waiting requests looked at in one pass. `priority`: of a request with this predicted prefill (seconds),
    where engines are to order what they were sent.
    `max_ejected_share`: see `policies.outliers`.
    `predecessor`: the pool of this name before a reload; who still waits there shares these endpoints and goes first.
    `alone`: by what it decides where another replica should and none can be reached.
    `source`: where its endpoints are found, None where all are configured. `known`: whether that has told yet.
    """

    def __init__(
        self,
        name: str,
        places: Sequence[Place],
        profile: Profile,
        desk: Desk,
        clock: Callable[[], float],
        *,
        attempts: AttemptPolicy,
        when_full: Mapping[Lane, Literal[429, 503]],
        window: int = WINDOW,
        priority: Callable[[InferenceRequest, float], int] | None = None,
        predecessor: Pool | None = None,
        max_ejected_share: float = MAX_EJECTED_SHARE,
        alone: Profile | None = None,
        source: str | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.known = source is None
        self._max_ejected_share = max_ejected_share
        self._have(places)
        self.profile = self._configured = profile
        self._alone = alone
        self.clock = clock
        self.attempts = attempts
        self._when_full = when_full
        self._window = window
        self._priority = priority
        self.desk = desk
        self.waiting: WaitingRoom[Ticket] = WaitingRoom(desk)
        self._shortlist: Shortlist | None = None
        self._predecessor = predecessor
        self._successor: Pool | None = None
        self._passing = self._again = False
        if predecessor is None:  # else these endpoints serve already, and a refused reload must change nothing of them
            self._join()
        self.keeper: Keeper | None = None
        self.mirror: Copier | None = None
        self.remote: Remote | None = None

    def _have(self, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self.states = tuple(place.state for place in places)
        self._rates = PoolRates(self.states)
        self._fellows = Fellows(self.states, self._max_ejected_share)
        self._upstreams = {id(place.state): place.upstream for place in places}  # a reload may change names
        self._columns: Mapping[str, int] = {}
        self._kinds: Sequence[EndpointState] = ()
        self._kinds_at = -_KINDS_SECONDS

    def change(self, places: Sequence[Place]) -> None:
        """These are its endpoints from now on. Who waits goes on waiting, and what is under way at an endpoint that is
        gone ends there undisturbed."""
        stays = {id(place.state) for place in places}
        left = [state for state in self.states if id(state) not in stays]
        pool: Pool | None = self
        while pool is not None:  # who still waits from before a reload is served by the same
            pool._have(places)
            for waiting in pool.waiting:
                waiting.forget()
            pool = pool._predecessor
        self._join()
        for state in left:  # what it still learns is its own
            state.pool_rates, state.health.fellows, state.silence.fellows = None, None, ()
        if self.remote is not None:
            self.remote.changed()

    async def dispatch(
        self,
        request: InferenceRequest,
        exclude: frozenset[str] = frozenset(),
        on_hold: Callable[[float], None] | None = None,
    ) -> Ticket:
        """Binds the request to the endpoint that will answer first, at once or when one has room.

        `exclude`: endpoints that have failed this request already. `on_hold`: called when it begins to wait for a
        standby. Raises NoEndpoint (none is available nor on its way), Overloaded (too many wait, or none had room
        before the request's deadline) or Detour.
        """
        waiting = Waiting(request, exclude, on_hold)
        if self.remote is not None:
            return await self.remote.dispatch(waiting)
        return self.take(waiting) or await self.wait(waiting)

    def take(self, waiting: Waiting) -> Ticket | None:
        """The ticket of a request that need not wait, decided here. Raises as `dispatch`."""
        decision = self._at_once(waiting) if not self.waiting else None
        return None if decision is None else self._bind(waiting, decision)

    def spare(self, request: InferenceRequest, exclude: frozenset[str]) -> Ticket | None:
        """The same for a copy that nobody needs: None unless another endpoint takes it at once and nobody waits."""
        try:
            ticket = self.take(Waiting(request, exclude))
        except (GatewayError, Detour):
            return None
        if ticket is not None and self.remote is not None:
            self.remote.keep(ticket)
        return ticket

    def bind(self, waiting: Waiting, told: Told) -> Ticket | None:
        """Carries out what another replica has decided: charges it here too. None where the endpoint is unknown."""
        column = self._column(told.endpoint)
        if column is None:
            return None
        seconds = told.ttft_seconds
        choice = Candidate(self.states[column], seconds, told.cached_tokens, told.own_seconds, seconds)
        others = partial(_known, self.states, self._columns, told.others)
        ticket = self._bind(waiting, Decision(choice, self._configured.name, column, others), told.session)
        ticket.queued_seconds, ticket.ahead, ticket.priority = told.queued_seconds, told.ahead, told.priority
        return ticket

    def _column(self, name: str) -> int | None:
        column = self._columns.get(name)
        if column is None or self.states[column].endpoint.name != name:  # names may change at any time
            self._columns = {state.endpoint.name: column for column, state in enumerate(self.states)}
            column = self._columns.get(name)
        return column

    def kinds(self) -> Sequence[EndpointState]:
        """One endpoint of each speed and price there is, as of a moment ago; of a small pool all."""
        if len(self.states) <= SMALL:
            return self.states
        now = self.clock()
        if now - self._kinds_at >= _KINDS_SECONDS:
            self._kinds = list({(id(one.rates), one.endpoint.hourly_cost): one for one in self.states}.values())
            self._kinds_at = now
        return self._kinds

    def sees_one(self, excluded: frozenset[str]) -> bool:
        """Whether, by this replica's own view, an endpoint can take such a request now or when it has room."""
        return _dead(self._blocked(self.clock(), excluded)) is None

    def changed(self, state: EndpointState | None = None) -> None:
        """As `noticed`; and whoever waits may have room now."""
        self.noticed(state)
        self.run_pass()

    def noticed(self, state: EndpointState | None = None) -> None:
        """Something about this endpoint, or about all, is another than it was, and not by a request."""
        if self._shortlist is not None:
            self._shortlist.changed(state)

    def _blocked(self, now: float, excluded: frozenset[str] = frozenset()) -> Rejection | None:
        if self._shortlist is not None:
            return self._shortlist.blocked(now, excluded)
        return self.profile.blocked(self.states, now, excluded)

    def reaches_one(self) -> bool:
        """Whether an endpoint answers probes."""
        return any(state.health.probes is ProbeState.HEALTHY for state in self.states)

    def decide_alone(self, alone: bool) -> None:
        """While nobody who decides for the pool can be reached, it sends at once: replicas that know nothing of each
        other's requests must not hold them back for each other."""
        self.profile = self._alone if alone and self._alone is not None else self._configured
        self._shortlist = fitted(self._shortlist, self.states, self.profile)
        self._tell_predecessors()
        self.run_pass()

    def send_away(self) -> None:
        """Another replica decides now: `wait` raises Elsewhere for all who wait here, also at pools before a reload."""
        pool: Pool | None = self
        while pool is not None:
            for waiting in list(pool.waiting):
                pool.waiting.turn_away(waiting, Elsewhere(), self.clock())
            pool = pool._predecessor

    def _at_once(self, waiting: Waiting) -> Decision | None:
        """Where the request may go without waiting. Raises NoEndpoint when waiting would not help either."""
        now = self.clock()
        if self._shortlist is not None:
            view = self._shortlist.look(waiting, now)
        else:
            view = self.profile.look(self.states, now, waiting.excluded)
        if isinstance(view, Rejection):
            if view.reason is not RejectReason.POOL_BUSY and (
                self.keeper is None or not self.keeper.holds(waiting, now)
            ):
                raise self._refusal(view)
            return None
        self.desk.begin(view)
        return self.profile.place(waiting, view) if self.desk.allows(waiting) else None

    def take_over(self) -> None:
        """From now on the predecessor's passes are followed by this pool's: called when the reload is certain."""
        if self._predecessor is not None:
            self._predecessor._successor = self
            # Who still waits there is looked for among all.
            self._shortlist, self._predecessor._shortlist = self._predecessor._shortlist, None
            self._join()
            self.desk.inherit(self._predecessor.desk)
        self._tell_predecessors()

    def _tell_predecessors(self) -> None:
        # Who still held back for a nearly free engine would wait for ever beside a pool that holds nobody.
        before = self._predecessor
        while before is not None:
            before.profile, before = self.profile, before._predecessor

    def _join(self) -> None:
        """The endpoints are this pool's from now on: they learn from each other, and not all may be ejected at once."""
        self._rates.join()
        self._fellows.join()
        introduce([state.silence for state in self.states])
        self._shortlist = fitted(self._shortlist, self.states, self.profile)

    def run_pass(self) -> None:
        """One look at who waits and who has room: here, and at the pools of this name before and after a reload, which
        share endpoints. Those who wait longest, at the oldest, go first."""
        oldest = self
        while oldest._predecessor is not None:
            oldest = oldest._predecessor
        pool: Pool | None = oldest
        while pool is not None:
            pool._own_pass()
            before = pool._predecessor
            if before is not None and before._predecessor is None and not before.waiting:
                pool._predecessor = None
            pool = pool._successor

    def _own_pass(self) -> None:
        if not self.waiting or (self.remote is not None and not self.remote.decides()):
            return
        if self._passing:  # a ticket that nobody was left to take: its seat is for the pass under way
            self._again = True
            return
        self._passing = True
        try:
            while self.waiting and (self._send() or self._again):
                pass
        finally:
            self._passing = False
        self._turn_away_if_dead()

    def _send(self) -> bool:
        """A pass. Whether another may send more."""
        self._again = False
        now = self.clock()
        states: Sequence[EndpointState] = self.states
        whole, most = None, self._window
        if self._shortlist is not None:
            states = self._shortlist.for_line(self.desk.queue.soonest(IN_LINE), now)
            whole, most = self._shortlist.whole, min(most, SENT_OF_PART)
        return plan(self.desk, states, self.profile, now, self._serve, self._window, whole) >= most

    async def wait(self, waiting: Waiting) -> Ticket:
        """The ticket of a request that has to wait here. Raises as `dispatch`, and Elsewhere."""
        entered_at = self.clock()
        place = self._enter(waiting, entered_at)
        if isinstance(place, Rejection):
            if waiting.held_since is not None and self.keeper is not None:
                self.keeper.released(waiting)
            raise self._queue_full(waiting.request.lane, place)
        pool = self
        while pool._successor is not None:  # somebody waits here again: later generations' passes must begin here
            pool._successor._predecessor = pool
            pool = pool._successor
        ticket: Ticket | None = None
        try:
            self.run_pass()  # an endpoint may be free for this request though not for those before it
            async with asyncio.timeout(max(0.0, waiting.request.deadline - self.clock())):
                ticket = await place.future
            ticket.queued_seconds, ticket.ahead = self.clock() - entered_at, place.ahead
            return ticket
        except TimeoutError:
            raise Overloaded.at_deadline(self.desk.retry_after(waiting.request.lane, self.clock())) from None
        finally:
            self.waiting.leave(waiting, self.clock())
            if waiting.held_since is not None and self.keeper is not None:
                self.keeper.released(waiting)
            if ticket is None:
                _give_back(place.future)

    def _enter(self, waiting: Waiting, now: float) -> Queued[Ticket] | Rejection:
        """Joins the queue; where that is full, in place of a request of a worse tier."""
        states = self.states if self._shortlist is None else self._shortlist.of(waiting.request, now)
        place = self.waiting.enter(waiting, states, now)
        if isinstance(place, Rejection) and (other := self.desk.makes_room(waiting.request)) is not None:
            self.waiting.turn_away(other, self._queue_full(other.request.lane, place), now)
            place = self.waiting.enter(waiting, states, now)
        return place

    def _queue_full(self, lane: Lane, place: Rejection) -> GatewayError:
        return queue_full(self._when_full[lane], place.retry_after or _RETRY_AFTER_SECONDS)

    def _serve(self, waiting: Waiting, decision: Decision) -> None:
        ticket = self._bind(waiting, decision)
        if not self.waiting.serve(waiting, ticket):
            ticket.settle(None)

    def _bind(self, waiting: Waiting, decision: Decision, session: str | None = None) -> Ticket:
        now, choice, request = self.clock(), decision.choice, waiting.request
        reservation = choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, now)
        turn = self.desk.sent(waiting, choice.state.rates, choice.cached_tokens, now)
        upstream = self._upstreams[id(choice.state)]
        ticket = Ticket(self, decision, reservation, turn, upstream, session)
        ticket.sent_at, ticket.watcher = now, self.keeper
        if self._priority is not None and self.profile.engine_priority:
            ticket.priority = self._priority(request, choice.own_seconds)
        if not request.stream and request.max_output_tokens:  # without output its end is the end of its prefill
            ticket.expect_first_token(choice.ttft_seconds)
        return ticket

    def _turn_away_if_dead(self) -> None:
        """Nobody waits for a pool without an endpoint, unless a standby is on its way: an error at once beats one at
        the deadline."""
        now = self.clock()
        dead = _dead(self._blocked(now))
        verdicts = {frozenset[str](): dead}
        for waiting in list(self.waiting if dead is not None else self.desk.queue.retries.values()):
            excluded = waiting.excluded
            if excluded not in verdicts:
                verdicts[excluded] = _dead(self._blocked(now, excluded))
            verdict = verdicts[excluded]
            if verdict is not None and not (self.keeper is not None and self.keeper.holds(waiting, now)):
                self.waiting.turn_away(waiting, self._refusal(verdict), now)

    def _refusal(self, verdict: Rejection) -> GatewayError | Detour:
        if self.keeper is not None and (detour := self.keeper.instead()) is not None:
            return detour
        after = verdict.retry_after if verdict.retry_after is not None else _RETRY_AFTER_SECONDS
        return NoEndpoint("No endpoint of this model is available right now.", retry_after=after)


def _dead(verdict: Rejection | None) -> Rejection | None:
    """The rejection that no waiting cures."""
    return verdict if verdict is not None and verdict.reason is not RejectReason.POOL_BUSY else None


def _known(
    states: Sequence[EndpointState],
    columns: Mapping[str, int],
    others: Sequence[Other],
) -> tuple[Candidate, ...]:
    """What another replica says of endpoints that are known here, too."""
    return tuple([Candidate(states[columns[one.endpoint]], *one[1:]) for one in others if one.endpoint in columns])


def _give_back(future: asyncio.Future[Ticket]) -> None:
    """A ticket handed over in the very moment its request was cancelled or timed out must not be lost."""
    if future.done() and not future.cancelled() and future.exception() is None:
        future.result().settle(None)
