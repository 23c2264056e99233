"""The score is requests in flight, per weight."""

from __future__ import annotations

from policies.scorers.in_flight import InFlight
from tests.policies.builders import load, make_state, make_view, make_waiting


def test_the_score_counts_requests_including_this_one() -> None:
    states = [make_state("idle"), make_state("busy"), make_state("heavy", weight=4.0)]
    load(states[1], 9.0)
    assert InFlight().score(make_waiting(states), make_view(states)) == [1, 2, 0.25]


def test_endpoints_that_are_not_open_have_a_score_too() -> None:
    states = [make_state("open"), make_state("closed")]
    assert InFlight().score(make_waiting(states), make_view(states, closed=[1])) == [1, 1]
