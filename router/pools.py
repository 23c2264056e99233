"""The endpoints that serve a model, live, and the one call that binds a request to one of them.

Floor: an adapter; it keeps the state that `policies` decides on. Choosing and reserving are one synchronous step: a
burst of requests sees itself. A pass runs whenever a request arrives, a first token comes back, a request ends or an
endpoint changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies.decision import Candidate, Decision
from policies.dispatch import WINDOW, plan
from policies.endpoint_state import EndpointState, Reservation
from policies.interface import QueueOrder
from policies.profile import Profile
from policies.types import InferenceRequest, Outcome, Rejection, RejectReason
from router.errors import GatewayError, NoEndpoint, Overloaded
from router.lanes import WaitingRoom
from router.upstream import Upstream

# Seconds after which asking again makes sense: probes run every few seconds, and a circuit opens for one at first.
_RETRY_AFTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """One endpoint of a pool: what is believed of it, and the connections to it."""

    state: EndpointState
    upstream: Upstream

    def available(self, now: float) -> bool:
        """Whether the endpoint may get a request at all, room or not."""
        return self.state.available(now)


class Ticket:
    """A request bound to an endpoint. Settled exactly once, whatever becomes of the request."""

    __slots__ = ("_pool", "_reservation", "_settled", "_timer", "decision", "queued_seconds", "upstream")

    def __init__(self, pool: Pool, decision: Decision, reservation: Reservation, upstream: Upstream) -> None:
        self._pool = pool
        self._reservation = reservation
        self._settled = False
        self._timer: asyncio.TimerHandle | None = None
        self.decision = decision
        self.upstream = upstream
        self.queued_seconds = 0.0

    @property
    def choice(self) -> Candidate:
        return self.decision.choice

    @property
    def endpoint(self) -> str:
        """The chosen endpoint's name."""
        return self.decision.choice.state.endpoint.name

    def first_token(self) -> None:
        """The first byte of the answer is here: the prompt is prefilled and the engine works; idempotent."""
        self._end_prefill()
        self.choice.state.health.on_first_token(self._pool.clock())

    def expect_first_token(self, seconds: float) -> None:
        """For an answer in one piece, whose first token nobody sees: takes the prefill for done when it was predicted
        to be. Without this an engine that only decodes would look as if it prefilled until the end."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_prefill)

    def _end_prefill(self) -> None:
        self._reservation.first_token(self._pool.clock())
        self._pool.run_pass()

    def settle(self, outcome: Outcome | None) -> None:
        """Gives the reservation back and tells the endpoint's health; None: nothing was learned of the endpoint."""
        if self._settled:
            return
        self._settled = True
        if self._timer is not None:
            self._timer.cancel()
        now = self._pool.clock()
        self._reservation.release(now)
        if outcome is not None:
            self.choice.state.health.record(outcome, now)
        self._pool.run_pass()


class Pool:
    """The endpoints of one model. `clock` gives monotonic seconds.

    `predecessor`: the pool of this name before a reload; who still waits there shares these endpoints and goes first.
    """

    def __init__(
        self,
        name: str,
        places: Sequence[Place],
        profile: Profile,
        order: QueueOrder,
        clock: Callable[[], float],
        *,
        retries: int,
        max_waiting: int,
        predecessor: Pool | None = None,
    ) -> None:
        self.name = name
        self.places = tuple(places)
        self.states = tuple(place.state for place in places)
        self.profile = profile
        self.clock = clock
        self.retries = retries
        self.waiting: WaitingRoom[Ticket] = WaitingRoom(max_waiting)
        self._order = order
        self._predecessor = predecessor
        self._successor: Pool | None = None
        self._passing = self._again = False
        self._upstreams = {place.state.endpoint.name: place.upstream for place in places}

    async def dispatch(self, request: InferenceRequest, exclude: frozenset[str] = frozenset()) -> Ticket:
        """Binds the request to the endpoint that will answer first, at once or when one has room.

        `exclude`: endpoints that have failed this request already. Raises NoEndpoint (none is available) or Overloaded
        (too many wait, or none had room before the request's deadline).
        """
        if not self.waiting:
            verdict = self.profile.rank(request, self.states, self.clock(), exclude)
            if isinstance(verdict, Decision):
                return self._bind(request, verdict)
            if verdict.reason is not RejectReason.POOL_BUSY:
                raise _refusal(verdict)
        if self.waiting.full:
            raise Overloaded("Too many requests are waiting for this model.", retry_after=_RETRY_AFTER_SECONDS)
        return await self._wait(request, exclude)

    def take_over(self) -> None:
        """From now on the predecessor's passes are followed by this pool's: called when the reload is certain."""
        if self._predecessor is not None:
            self._predecessor._successor = self

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
        if not self.waiting:
            return
        if self._passing:  # a ticket that nobody was left to take: its seat is for the pass under way
            self._again = True
            return
        self._passing = True
        try:
            while self.waiting and (self._send() >= WINDOW or self._again):
                pass
        finally:
            self._passing = False
        self._turn_away_if_dead()

    def _send(self) -> int:
        self._again = False
        return plan(
            list(self.waiting),
            self.states,
            self.profile,
            self._order,
            self.clock(),
            self._serve,
            excluded=self.waiting.excluded,
        )

    async def _wait(self, request: InferenceRequest, exclude: frozenset[str]) -> Ticket:
        future, entered_at = self.waiting.enter(request, exclude), self.clock()
        pool = self
        while pool._successor is not None:  # somebody waits here again: later generations' passes must begin here
            pool._successor._predecessor = pool
            pool = pool._successor
        ticket: Ticket | None = None
        try:
            self.run_pass()  # an endpoint may be free for this request though not for those before it
            async with asyncio.timeout(max(0.0, request.deadline - self.clock())):
                ticket = await future
            ticket.queued_seconds = self.clock() - entered_at
            return ticket
        except TimeoutError:
            raise Overloaded(
                "No endpoint had room for this request in time.",
                code="deadline_exceeded",
                retry_after=_RETRY_AFTER_SECONDS,
            ) from None
        finally:
            self.waiting.leave(request)
            if ticket is None:
                _give_back(future)

    def _serve(self, request: InferenceRequest, decision: Decision) -> None:
        ticket = self._bind(request, decision)
        if not self.waiting.serve(request, ticket):
            ticket.settle(None)

    def _bind(self, request: InferenceRequest, decision: Decision) -> Ticket:
        now, choice = self.clock(), decision.choice
        reservation = choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, now)
        upstream = self._upstreams[choice.state.endpoint.name]
        ticket = Ticket(self, decision, reservation, upstream)
        if not request.stream:
            ticket.expect_first_token(choice.ttft_seconds)
        return ticket

    def _turn_away_if_dead(self) -> None:
        """Nobody waits for a pool without an endpoint: an error at once beats one at the deadline."""
        blocked = self.profile.blocked(self.states, self.clock())
        dead = blocked is not None and blocked.reason is not RejectReason.POOL_BUSY
        for request in list(self.waiting) if dead else self.waiting.with_exclusions():
            verdict = self.profile.rank(request, self.states, self.clock(), self.waiting.excluded(request))
            if isinstance(verdict, Rejection) and verdict.reason is not RejectReason.POOL_BUSY:
                self.waiting.turn_away(request, _refusal(verdict))


def _give_back(future: asyncio.Future[Ticket]) -> None:
    """A ticket handed over in the very moment its request was cancelled or timed out must not be lost."""
    if future.done() and not future.cancelled() and future.exception() is None:
        future.result().settle(None)


def _refusal(verdict: Rejection) -> GatewayError:
    after = verdict.retry_after if verdict.retry_after is not None else _RETRY_AFTER_SECONDS
    return NoEndpoint("No endpoint of this model is available right now.", retry_after=after)
