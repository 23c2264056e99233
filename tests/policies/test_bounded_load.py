"""Affinity decides as long as nobody gets more than its bounded share of what is in flight."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint_state import EndpointState
from policies.pickers import BoundedLoad
from policies.registry import make_profile
from policies.types import InferenceRequest, Rejection
from policies.waiting import Waiting
from tests.policies.builders import PREFIX, load, make_fleet, make_request, make_state, make_view, rng

WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=8)


def fleet_of(weights: list[float]) -> list[EndpointState]:
    return [make_state(f"e{number}", weight=weight) for number, weight in enumerate(weights)]


def busy(state: EndpointState, requests: int) -> None:
    for _ in range(requests):
        load(state, 0.1)


def choose(picker: BoundedLoad, states: list[EndpointState], costs: list[float], *, closed: list[int] = []) -> str:  # noqa: B006 - not changed
    return states[picker.choose(make_request(), make_view(states, closed=closed), costs)].endpoint.name


def send(profile_name: str, states: list[EndpointState], request: InferenceRequest) -> EndpointState:
    profile = make_profile(profile_name, rng())
    view = profile.look(states, 0.0)
    assert not isinstance(view, Rejection)
    decision = profile.place(Waiting(request), view)
    assert decision is not None
    choice = decision.choice
    choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, 0.0)
    return choice.state


@given(WEIGHTS, st.integers(1, 120), st.sampled_from([1.0, 1.25, 1.5, 3.0]))
def test_nobody_gets_more_than_its_bounded_share_even_if_all_prefer_the_same(
    weights: list[float], requests: int, bound: float
) -> None:
    states, picker = fleet_of(weights), BoundedLoad(bound)
    costs = [float(number) for number in range(len(states))]  # everybody prefers the first, then the second
    for placed in range(1, requests + 1):
        view = make_view(states)
        column = picker.choose(make_request(f"r{placed}"), view, costs)
        busy(states[column], 1)
        share = Fraction(bound) * placed * Fraction(weights[column]) / Fraction(sum(weights))
        assert states[column].in_flight <= ceil(share)
    assert sum(state.in_flight for state in states) == requests


@given(WEIGHTS, st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_somebody_always_has_room_whatever_was_there_before(weights: list[float], loads: list[int]) -> None:
    states = fleet_of(weights)
    for state, requests in zip(states, loads, strict=False):
        busy(state, requests)
    assert choose(BoundedLoad(1.0), states, [0.0] * len(states))


def test_the_preferred_one_is_taken_while_it_has_room_and_the_next_one_then() -> None:
    states = make_fleet(4)
    costs = [3.0, 1.0, 2.0, 4.0]
    assert choose(BoundedLoad(1.25), states, costs) == "e1"
    busy(states[1], 1)
    assert choose(BoundedLoad(1.25), states, costs) == "e2"
    for state in states:
        busy(state, 4)
    assert choose(BoundedLoad(1.25), states, costs) == "e1", "5 of 18 are within 1.25 times the mean, rounded up"


def test_what_is_in_flight_where_nothing_may_be_sent_does_not_count() -> None:
    states = make_fleet(3)
    busy(states[2], 50)
    busy(states[0], 2)
    assert choose(BoundedLoad(1.25), states, [0.0, 1.0, 0.0], closed=[2]) == "e1"


def test_a_generous_bound_lets_affinity_decide_alone() -> None:
    states = make_fleet(4)
    busy(states[2], 20)
    assert choose(BoundedLoad(100.0), states, [1.0, 1.0, 0.0, 1.0]) == "e2"


def test_of_equal_costs_the_least_loaded_goes_first_and_then_the_prefix_decides() -> None:
    states = make_fleet(8)
    homes = {
        BoundedLoad().choose(make_request(blocks=(1, number)), make_view(states), [0.0] * 8) for number in range(100)
    }
    assert homes == set(range(8))
    busy(states[0], 1)
    assert 0 not in {
        BoundedLoad(9.0).choose(make_request(blocks=(1, number)), make_view(states), [0.0] * 8) for number in range(100)
    }


# -- the profiles that stand on it


def test_a_session_stays_where_it_was_whatever_its_prompts_are() -> None:
    states = make_fleet(8)
    homes = {
        send("session-affinity", [*make_fleet(8)], replace(make_request(blocks=(turn,)), session="s")).endpoint.name
        for turn in range(20)
    }
    assert len(homes) == 1
    spread = {
        send("session-affinity", states, replace(make_request(), session=f"s{n}")).endpoint.name for n in range(64)
    }
    assert len(spread) == 8


def test_a_busy_session_moves_to_the_same_second_choice_each_time() -> None:
    request = replace(make_request(), session="s")
    places = []
    for _ in range(3):
        states = make_fleet(4)
        places.append([send("session-affinity", states, request).endpoint.name for _ in range(4)])
    assert places[0] == places[1] == places[2]
    assert len(set(places[0])) > 1


def test_without_a_session_the_prefix_decides_where_a_request_belongs() -> None:
    homes = {send("session-affinity", make_fleet(8), make_request(f"r{n}")).endpoint.name for n in range(20)}
    assert len(homes) == 1


@pytest.mark.parametrize("name", ["prefix-affinity", "session-affinity"])
def test_one_hot_prefix_does_not_pile_up(name: str) -> None:
    """The failure of naive affinity (facts/routing.md): all of a hot prefix on one engine."""
    states = make_fleet(8)
    for number in range(160):
        send(name, states, make_request(f"r{number}"))
    assert max(state.in_flight for state in states) <= ceil(1.25 * 160 / 8)


def test_the_longest_cached_prefix_attracts_a_request() -> None:
    states = make_fleet(4)
    states[1].index.touch(PREFIX[:2])
    states[3].index.touch(PREFIX)
    assert send("prefix-affinity", states, make_request()) is states[3]
