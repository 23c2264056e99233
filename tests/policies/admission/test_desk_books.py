"""The desk's books: whatever requests do, in whatever order, before and after reloads, nothing stays on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.desk import Desk, Turn
from policies.admission.order import ShortestPrefillFirst
from policies.admission.saturation import LanePolicy
from policies.endpoint_state import EndpointState
from policies.reservation import Reservation
from policies.types import InferenceRequest, Lane, Rejection
from policies.waiting import Waiting
from tests.policies.builders import make_request, make_state, make_view

# Small lanes, so that a few requests reach every bound; batch falls from half of the pool to a tenth.
LANES = {Lane.LONG: LanePolicy(max_share=0.6), Lane.BATCH: LanePolicy(ceiling=0.5, min_share=0.1, max_share=0.5)}
BOUNDS = {Lane.SHORT: 3, Lane.LONG: 3, Lane.BATCH: 3}


def desk() -> Desk:
    return Desk(ShortestPrefillFirst(), LANES, BOUNDS)


def nothing_is_left(one: Desk) -> None:
    assert len(one) == 0
    assert one.queue.waiting == dict.fromkeys(Lane, 0)
    assert not one.queue.retries
    assert not any(one.queue.has_line(tenant, list(Lane)) for tenant in "abc")
    assert one.gate.requests == dict.fromkeys(Lane, 0)
    assert one.gate.tokens == dict.fromkeys(Lane, 0.0)
    assert [len(share) for share in one.shares.values()] == [0, 0]


@dataclass
class Office:
    """Desks before and after reloads, and what each request that came is at: waiting there, or in flight."""

    states: list[EndpointState]
    desks: list[Desk]
    waiting: list[tuple[Desk, Waiting]] = field(default_factory=list)
    flying: list[tuple[Desk, Turn, Reservation]] = field(default_factory=list)
    gone: list[tuple[Desk, Waiting]] = field(default_factory=list)
    now: float = 0.0

    def enter(self, request: InferenceRequest) -> None:
        waiting = Waiting(request, frozenset({"e1"} if request.tier_priority else ()))
        verdict = self.desks[-1].enter(waiting, self.states, self.now)
        if isinstance(verdict, Rejection):
            assert verdict.retry_after is not None
            self.gone.append((self.desks[-1], waiting))
        else:
            assert 0 <= verdict < len(self.desks[-1])
            self.waiting.append((self.desks[-1], waiting))

    def send(self, one: Desk, waiting: Waiting) -> None:
        state, request = self.states[len(self.flying) % len(self.states)], waiting.request
        reservation = state.reserve(request, 0, 0.1, self.now)
        self.flying.append((one, one.sent(waiting, state.rates, 0, self.now), reservation))

    def pass_by(self, number: int) -> None:
        """A pass of one desk sends what it allows."""
        one = self.desks[number % len(self.desks)]
        view = make_view(self.states, now=self.now)
        offered = one.again(view, 4) if number % 3 == 0 else one.next(view, 4)
        for waiting in offered:
            assert (one, waiting) in self.waiting
            if one.allows(waiting):
                self.waiting.remove((one, waiting))
                self.send(one, waiting)

    def leave(self, number: int) -> None:
        if self.waiting:
            one, waiting = self.waiting.pop(number % len(self.waiting))
            one.leave(waiting, self.now)
            self.gone.append((one, waiting))

    def end(self, number: int) -> None:
        if self.flying:
            one, turn, reservation = self.flying.pop(number % len(self.flying))
            turn.worked(float(number))
            reservation.release(self.now)
            one.ended(turn)
            turn.worked(1e9)  # only the first call counts

    def reload(self) -> None:
        self.desks.append(desk())
        self.desks[-1].inherit(self.desks[-2])

    def check(self) -> None:
        newest = self.desks[-1].gate  # what all of these desks have in flight
        for lane in Lane:
            turns = [turn for _, turn, _ in self.flying if turn.lane is lane]
            assert newest.requests[lane] == len(turns)
            assert newest.tokens[lane] == pytest.approx(sum(turn.tokens for turn in turns))
        for one in self.desks:
            here = [waiting for where, waiting in self.waiting if where is one]
            assert list(one.queue) == here
            for lane in Lane:
                assert one.queue.waiting[lane] == sum(waiting.request.lane is lane for waiting in here)
                assert one.queue.waiting[lane] <= BOUNDS[lane]

    def close(self) -> None:
        while self.waiting:
            self.leave(0)
        while self.flying:
            self.end(0)


REQUESTS = st.builds(
    lambda weight, **fields: replace(make_request(**fields), weight=weight),
    st.sampled_from([0.5, 1.0, 3.0]),
    prompt_tokens=st.sampled_from([0, 1, 100, 5000, 75_000]),
    max_output_tokens=st.sampled_from([0, 1, 4000]),
    tenant=st.sampled_from("abc"),
    tier_priority=st.integers(0, 1),
    lane=st.sampled_from(Lane),
    arrived_at=st.sampled_from([0.0, 1.0, 300.0]),
)
NUMBERS = st.integers(0, 30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["enter", "enter", "past"]), REQUESTS),
        st.tuples(st.sampled_from(["pass_by", "leave", "end", "again"]), NUMBERS),
        st.tuples(st.sampled_from(["reload", "wait"]), NUMBERS),
    ),
    max_size=60,
)


@given(STEPS, st.booleans())
def test_whatever_requests_do_before_and_after_reloads_nothing_stays_on_the_books(
    steps: list[tuple[str, int | InferenceRequest]], capacity_is_known: bool
) -> None:
    capacity = 50_000 if capacity_is_known else None
    states = [make_state(f"e{number}", kv_capacity_tokens=capacity, max_in_flight=8) for number in range(2)]
    office = Office(states, [desk()])
    for what, by in steps:
        if isinstance(by, InferenceRequest):
            if what == "enter":
                office.enter(by)
            else:
                office.send(office.desks[-1], Waiting(by))  # past an empty queue, or one that is all held back
        elif what == "reload":
            office.reload()
        elif what == "wait":
            office.now += by
        elif what == "again":
            for one, waiting in office.gone:
                one.leave(waiting, office.now)  # who is not there leaves nothing behind
        else:
            getattr(office, what)(by)
        office.check()
    office.close()
    for one in office.desks:
        nothing_is_left(one)
