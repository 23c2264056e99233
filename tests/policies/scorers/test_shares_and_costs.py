"""The scorers for composition: the uncached share, the session's order, the price."""

from __future__ import annotations

from dataclasses import replace

from policies.endpoint_state import EndpointState
from policies.scorers.hourly_cost import HourlyCost
from policies.scorers.session import SessionRank
from policies.scorers.uncached_share import UncachedShare
from policies.types import Endpoint
from tests.policies.builders import PREFIX, make_fleet, make_request, make_view, make_waiting


def test_the_uncached_share_is_1_without_and_near_0_with_the_prefix() -> None:
    states = make_fleet(3)
    states[1].index.touch(PREFIX[:2])
    states[2].index.touch(PREFIX)
    assert UncachedShare().score(make_waiting(states), make_view(states)) == [1.0, 0.5, 1 / 256]


def test_a_prompt_of_no_tokens_has_a_score() -> None:
    states = make_fleet(1)
    waiting = make_waiting(states, make_request(prompt_tokens=0, blocks=()))
    assert UncachedShare().score(waiting, make_view(states)) == [1.0]


def test_a_session_ranks_all_endpoints_also_those_that_are_not_open() -> None:
    states = make_fleet(4)
    waiting = make_waiting(states, replace(make_request(), session="s"))
    scores = SessionRank().score(waiting, make_view(states))
    assert sorted(scores) == [0, 1, 2, 3]
    assert SessionRank().score(waiting, make_view(states, closed=[scores.index(0)])) == scores


def test_the_price_is_the_configured_one() -> None:
    states = [EndpointState(Endpoint("a", "http://a", hourly_cost=2.5)), EndpointState(Endpoint("b", "http://b"))]
    assert HourlyCost().score(make_waiting(states), make_view(states)) == [2.5, 0.0]
