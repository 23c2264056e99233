"""The score is requests in flight, per weight."""

from __future__ import annotations

from policies.cost import forecast
from policies.endpoint_state import EndpointState
from policies.scorers.in_flight import InFlight
from tests.policies.builders import load, make_request, make_state


def score(state: EndpointState) -> float:
    request = make_request()
    return InFlight().score(request, state, forecast(state, request, 0.0), 0.0)


def test_the_score_counts_requests_including_this_one() -> None:
    state = make_state()
    assert score(state) == 1
    load(state, 9.0)
    assert score(state) == 2


def test_a_heavier_endpoint_is_preferred_when_all_are_idle() -> None:
    assert score(make_state(weight=4.0)) < score(make_state())
