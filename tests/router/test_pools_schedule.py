"""Seats, waiting and tickets under schedules of arrivals, first tokens, ends, leavers, deadlines and failing endpoints.

The property behind all of it: a seat that was taken is given back, whatever happened at the same moment.
"""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint_state import EndpointState
from policies.gate import WAIT_SECONDS
from policies.types import FailureCause, InferenceRequest, Outcome
from router.errors import NoEndpoint, Overloaded
from router.tickets import Ticket
from tests.policies.builders import make_state
from tests.router.builders import LARGE, make_pool, request, turns

SCHEDULE = st.lists(
    st.tuples(
        st.sampled_from(
            ["arrive", "arrive", "large", "late", "token", "settle", "settle", "fail", "cancel", "down", "up"]
        ),
        st.integers(0, 20),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Run:
    """One schedule played on one pool. Each step may be followed by turns of the loop, or by the next step at once."""

    def __init__(self, seats: list[int], max_waiting: int) -> None:
        self.states = [make_state(f"e{n}", max_in_flight=count) for n, count in enumerate(seats)]
        self.pool = make_pool(self.states, max_waiting=max_waiting)
        self.max_waiting = max_waiting
        self.tasks: list[asyncio.Task[Ticket]] = []
        self.settled: set[int] = set()  # tickets, by identity: those that have been settled at least once
        self.told = 0  # attempts that a watcher was told the end of

    async def play(self, schedule: list[tuple[str, int, int]]) -> None:
        for what, which, pauses in schedule:
            self.step(what, which)
            self.check()
            await turns(pauses)
            self.check()
        await turns()
        if len(self.pool.waiting):
            assert not any(map(self.has_room, self.states)), "room, and somebody waits"
        await self.finish()

    def step(self, what: str, which: int) -> None:
        if what in ("arrive", "large", "late"):
            tokens = LARGE if what == "large" else 256
            one = request(f"r{which}", deadline=0.0 if what == "late" else 1000.0, tokens=tokens)
            self.tasks.append(asyncio.create_task(self.pool.dispatch(one)))
        elif what == "cancel":
            if self.tasks:
                self.tasks[which % len(self.tasks)].cancel()
        elif what in ("down", "up"):
            state = self.states[which % len(self.states)]
            for _ in range(2):
                state.health.probe(what == "up", 0.0)
            self.pool.run_pass()
        elif tickets := self.tickets():
            ticket = tickets[which % len(tickets)]
            if what == "token":
                ticket.first_token()
            else:
                failed = Outcome(0, FailureCause.CLOSED) if what == "fail" else Outcome(200)
                ticket.watcher = self
                ticket.settle(failed)
                self.settled.add(id(ticket))

    def answered(self, state: EndpointState, request: InferenceRequest, now: float) -> None:
        """Of no interest."""

    def ended(
        self, state: EndpointState, request: InferenceRequest, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        self.told += 1

    def has_room(self, state: EndpointState) -> bool:
        """Whether anybody may be sent there: the clock stands still, so no progress is made on what was sent."""
        if state.full or not state.available(0.0):
            return False
        return not state.in_flight or state.pending_prefill_seconds < WAIT_SECONDS

    def tickets(self) -> list[Ticket]:
        done = [task for task in self.tasks if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done]

    def check(self) -> None:
        for state in self.states:
            assert 0 <= state.in_flight <= state.endpoint.max_in_flight
            assert 0 <= state.pending_prefills <= state.in_flight
            assert min(state.outstanding_tokens, state.context_tokens, state.decode_tokens, state.kv_tokens) >= 0
        assert len(self.pool.waiting) <= self.max_waiting
        assert self.told == len(self.settled), "the end of an attempt is told once"
        in_flight = sum(state.in_flight for state in self.states)
        assert sum(self.pool.desk.gate.requests.values()) == in_flight

    async def finish(self) -> None:
        for task in self.tasks:
            task.cancel()
        for one in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(one, Ticket | asyncio.CancelledError | NoEndpoint | Overloaded), repr(one)
        for ticket in self.tickets():
            ticket.settle(None)
        await turns()
        assert len(self.pool.waiting) == 0
        for state in self.states:
            assert (state.in_flight, state.pending_prefills, state.outstanding_tokens) == (0, 0, 0.0)
            assert (state.kv_tokens, state.index.held) == (0.0, 0)
        assert not any(self.pool.desk.gate.requests.values())


@settings(max_examples=200)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 8), SCHEDULE)
def test_in_any_schedule_seats_are_bounded_used_and_given_back(
    seats: list[int], max_waiting: int, schedule: list[tuple[str, int, int]]
) -> None:
    async def scenario() -> None:
        await Run(seats, max_waiting).play(schedule)

    asyncio.run(scenario())
