"""Who starts or returns gets gradually more, but never so that work is refused for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.filters import Seat
from policies.health import EndpointHealth
from policies.registry import make_profile
from policies.slow_start import FEW, SlowStart
from policies.types import FailureCause, Outcome, Rejection
from tests.policies.builders import load, make_fleet, make_request, make_state, make_view, make_waiting, rng, send

REFUSED = Outcome(status=0, failure=FailureCause.CONNECT)


@given(st.floats(0.1, 100.0), st.integers(1, 4096), st.lists(st.floats(0.0, 30.0), max_size=20))
def test_seats_never_fall_begin_with_a_few_and_are_all_in_the_end(
    seconds: float, most: int, steps: list[float]
) -> None:
    slow, now, before = SlowStart(seconds), 50.0, 0
    slow.begin(now)
    for passed in steps:
        seats = slow.seats(most, now)
        assert before <= seats <= most
        assert seats >= min(FEW, most)
        before, now = seats, now + passed
    assert slow.seats(most, 50.0 + seconds + 1e-6) == most


def test_without_a_slow_start_all_seats_are_there_at_once() -> None:
    slow = SlowStart(0.0)
    slow.begin(1.0)
    assert slow.seats(256, 1.0) == 256
    assert not slow.under_way(1.0)


def test_only_an_engine_that_was_seen_down_starts_gently() -> None:
    up, down = EndpointHealth(slow_start=10.0), EndpointHealth(slow_start=10.0)
    up.probe(True, 1.0)
    assert not up.slow_start.under_way(1.0), "it is the gateway that has just started"
    down.probe(False, 0.0)
    down.probe(True, 1.0)
    assert down.slow_start.under_way(1.0)
    down.probe(True, 11.0)
    assert down.slow_start.since is None, "over: nobody has to look at it any more"


def test_an_endpoint_whose_circuit_closes_starts_gently_and_says_so() -> None:
    state = make_state()
    state.health.slow_start.seconds = 10.0
    for _ in range(3):
        state.health.record(REFUSED, 0.0)
    assert state.status(0.5) == "failures"
    state.health.on_dispatch(1.0)
    state.health.record(Outcome(status=200), 1.0)
    assert state.status(1.0) == "starting"
    assert state.status(11.0) == "healthy"


def test_it_is_passed_over_only_while_another_has_a_seat() -> None:
    slow, other = make_fleet(2, max_in_flight=2 * FEW)
    slow.health.slow_start.seconds = 10.0
    slow.health.slow_start.begin(0.0)
    for _ in range(FEW):
        load(slow, 0.01)
    assert Seat().keep([slow, other], 0.0) == [other]
    assert Seat().keep([slow], 0.0) == [slow], "the only one refuses nothing that it could take"
    for _ in range(2 * FEW):
        load(other, 0.01)
    assert Seat().keep([slow, other], 0.0) == [slow]
    for _ in range(FEW):
        load(slow, 0.01)
    assert Seat().keep([slow, other], 0.0) == []


def test_a_burst_within_one_pass_does_not_land_on_it_either() -> None:
    slow, other = make_fleet(2)
    slow.health.slow_start.seconds = 10.0
    slow.health.slow_start.begin(0.0)
    view = make_view([slow, other])
    for _ in range(FEW):
        send(view, 0, make_waiting([slow, other], make_request(blocks=())))
    assert view.open == [1]
    alone = make_view([slow], now=0.0)
    send(alone, 0, make_waiting([slow], make_request(blocks=())))
    assert alone.open == [0]


def test_of_many_requests_at_once_it_gets_a_few_and_the_others_the_rest() -> None:
    states, profile = make_fleet(2), make_profile("round-robin", rng())
    states[0].health.slow_start.seconds = 10.0
    states[0].health.slow_start.begin(0.0)
    for _ in range(40):
        view = profile.look(states, 0.0)
        assert not isinstance(view, Rejection)
        decision = profile.place(make_waiting(states, make_request(blocks=())), view)
        assert decision is not None
        send(view, decision.column, make_waiting(states, make_request(blocks=())))
    assert [state.in_flight for state in states] == [FEW, 40 - FEW]
