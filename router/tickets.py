"""A request bound to an endpoint, from its dispatch until everything that it held is given back.

Floor: an adapter; what a reservation charges and what its end teaches is in `policies.reservation`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from policies.admission.desk import Turn
from policies.admission.fairness import work_seconds
from policies.decision import Candidate, Decision
from policies.endpoint_state import EndpointState
from policies.exact_index import ExactIndex
from policies.reservation import EngineReport, Reservation
from policies.types import InferenceRequest, Outcome
from router.upstream import Upstream

if TYPE_CHECKING:  # the pool makes its tickets
    from router.pools import Pool


class Watcher(Protocol):
    """Who wants to know how requests fare (`router.standbys`)."""

    def answered(self, state: EndpointState, request: InferenceRequest, now: float) -> None:
        """The first byte of an answer has come."""

    def ended(
        self, state: EndpointState, request: InferenceRequest, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        """An attempt is over of which something was learned; it was dispatched at `sent_at`."""


class Seat(Protocol):
    """Who else keeps an account of a ticket: the replica that has given it (`router.coordination.remote`)."""

    def first_token(self) -> None:
        """The first byte of the answer has come."""

    def settled(self, outcome: Outcome | None) -> None:
        """The ticket has been settled."""


class Ticket:
    """A request bound to an endpoint. Settled exactly once, whatever becomes of the request."""

    __slots__ = (
        "_pool",
        "_reservation",
        "_settled",
        "_timer",
        "_turn",
        "ahead",
        "decision",
        "priority",
        "queued_seconds",
        "seat",
        "sent_at",
        "session",
        "upstream",
        "watcher",
    )

    def __init__(
        self,
        pool: Pool,
        decision: Decision,
        reservation: Reservation,
        turn: Turn,
        upstream: Upstream,
        session: str | None = None,
    ) -> None:
        self._pool = pool
        self._reservation = reservation
        self._turn = turn
        self._settled = False
        self._timer: asyncio.TimerHandle | None = None
        self.decision = decision
        self.upstream = upstream
        self.queued_seconds = 0.0
        self.ahead = 0
        self.sent_at = 0.0
        self.watcher: Watcher | None = None
        self.seat: Seat | None = None
        self.priority: int | None = None
        index, request = reservation.state.index, reservation.request
        # What the engine's KV events will call this attempt; None where nobody listens to them. `session`: what the
        # replica has called it that has decided.
        self.session = (
            index.expect(request.prefix_blocks, request.prompt_tokens, request.tokens_per_block, session)
            if isinstance(index, ExactIndex) and index.followed
            else session
        )

    @property
    def choice(self) -> Candidate:
        return self.decision.choice

    @property
    def endpoint(self) -> str:
        """The chosen endpoint's name."""
        return self.decision.choice.state.endpoint.name

    @property
    def request(self) -> InferenceRequest:
        return self._reservation.request

    @property
    def prefilled(self) -> bool:
        """Whether its first token has come, or is believed to have."""
        return self._reservation.prefilled

    def first_token(self) -> None:
        """The first byte of the answer is here: the prompt is prefilled and the engine works; idempotent."""
        now = self._pool.clock()
        if self.seat is not None:
            self.seat.first_token()
        self._reservation.first_token(now, seen=True)
        if self.watcher is not None:
            self.watcher.answered(self.choice.state, self._reservation.request, now)
        self._pool.run_pass()

    def was_sent_before(self, *, prefilled: bool) -> None:
        """By another replica: when, its engine knows better than this clock, so no speed is learned of it."""
        self._reservation.state.learner.left(id(self._reservation), self._pool.clock())
        if prefilled:
            self._end_prefill()

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
        if self.seat is not None:
            self.seat.settled(outcome)
        now, prefilled = self._pool.clock(), self._reservation.prefilled
        self._reservation.release(now, self._report(outcome))
        index = self.choice.state.index
        if self.session is not None and isinstance(index, ExactIndex):
            index.settle(self.session, *((outcome.prompt_tokens, outcome.cached_tokens) if outcome is not None else ()))
        self._account(outcome, prefilled, now)
        self._pool.run_pass()

    def _report(self, outcome: Outcome | None) -> EngineReport | None:
        if outcome is None or outcome.failure is not None or not 200 <= outcome.status < 300:
            return None
        return EngineReport(outcome.prompt_tokens, outcome.cached_tokens, outcome.completion_tokens)

    def _account(self, outcome: Outcome | None, prefilled: bool, now: float) -> None:
        """The tenant is charged for what was done: nothing without a byte of an answer, the estimate where the engine
        did not count. `prefilled`: where nothing is known as the client has left, whether there was such a byte."""
        state, cached = self.choice.state, self._reservation.cached_tokens
        if not (prefilled if outcome is None else outcome.started):
            self._turn.worked(0.0)
        elif outcome is not None and outcome.prompt_tokens is not None:
            cached = min(cached if outcome.cached_tokens is None else outcome.cached_tokens, outcome.prompt_tokens)
            output = outcome.completion_tokens or 0
            self._turn.worked(work_seconds(state.rates, outcome.prompt_tokens - cached, cached, output))
        self._pool.desk.ended(self._turn)
        if outcome is not None:
            state.health.record(outcome, now)
            if self.watcher is not None:
                self.watcher.ended(state, self._reservation.request, outcome, self.sent_at, now)
