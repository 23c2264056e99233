"""What engines report counts while it is young, and never hides what we have sent ourselves."""

from __future__ import annotations

import pytest

from policies.endpoint_state import EndpointState
from policies.interface import Scorer
from policies.registry import make_profile
from policies.scorers.engine_load import EngineLoad
from policies.scorers.engine_waiting import EngineWaiting
from policies.scorers.kv_usage import KvUsage
from policies.types import Rejection
from policies.waiting import Waiting
from tests.policies.builders import load, make_fleet, make_request, make_state, make_view, make_waiting, rng


def scraped(
    state: EndpointState, *, running: float = 0.0, waiting: float = 0.0, kv: float = 0.0, at: float = 0.0
) -> None:
    """As the prober leaves it."""
    state.engine_running, state.engine_waiting, state.kv_usage = running, waiting, kv
    state.scraped_at, state.in_flight_scraped = at, state.in_flight


def score(scorer: Scorer, state: EndpointState, now: float = 0.0) -> float:
    (cost,) = scorer.score(make_waiting([state]), make_view([state], now=now))
    return cost


def test_the_load_is_what_others_had_there_at_the_scrape_and_what_we_have_now() -> None:
    state = make_state()
    load(state, 0.1)
    scraped(state, running=4.0, waiting=2.0)
    assert score(EngineLoad(), state) == 7, "six there, one of them ours, and this one"
    load(state, 0.1)
    load(state, 0.1)
    assert score(EngineLoad(), state) == 9, "a burst sees itself"


def test_an_engine_that_reports_less_than_we_have_there_is_not_believed() -> None:
    state = make_state()
    load(state, 0.1)
    load(state, 0.1)
    scraped(state, running=0.0)
    assert score(EngineLoad(), state) == 3


@pytest.mark.parametrize(("age", "part"), [(0.0, 1.0), (5.0, 1.0), (7.5, 0.5), (10.0, 0.0), (600.0, 0.0)])
def test_figures_count_for_five_seconds_and_fade_in_five_more(age: float, part: float) -> None:
    state = make_state(kv_capacity_tokens=1000)
    scraped(state, running=4.0, waiting=3.0, kv=0.5)
    assert score(EngineLoad(), state, age) == 1 + 7 * part
    assert score(EngineWaiting(), state, age) == 3 * part
    assert score(KvUsage(), state, age) == 0.5 * part


def test_an_engine_that_was_never_scraped_has_the_load_that_we_gave_it() -> None:
    state = make_state(kv_capacity_tokens=1000)
    load(state, 0.1)
    assert score(EngineLoad(), state) == 2
    assert score(EngineWaiting(), state) == 1, "a prefill that waits or is under way"
    assert score(KvUsage(), state) == pytest.approx(0.356), "256 of prompt and 100 of answer"


def test_an_engine_that_reports_no_such_figure_is_like_one_that_was_not_scraped() -> None:
    state = make_state()
    state.scraped_at = 0.0
    assert (score(EngineLoad(), state), score(EngineWaiting(), state), score(KvUsage(), state)) == (1, 0, 0)


def test_a_burst_since_the_scrape_fills_the_cache_and_it_is_never_more_than_full() -> None:
    state = make_state(kv_capacity_tokens=1000)
    scraped(state, kv=0.1)
    for _ in range(2):
        load(state, 0.1)
    assert score(KvUsage(), state) == pytest.approx(0.712)
    for _ in range(5):
        load(state, 0.1)
    assert score(KvUsage(), state) == 1.0


def test_load_and_waiting_are_per_weight() -> None:
    state = make_state(weight=4.0)
    scraped(state, running=3.0, waiting=8.0)
    assert (score(EngineLoad(), state), score(EngineWaiting(), state)) == (3.0, 2.0)


def test_least_load_avoids_an_engine_that_somebody_else_keeps_busy_until_that_news_is_old() -> None:
    states, profile = make_fleet(2), make_profile("least-load", rng())
    load(states[1], 0.1)
    scraped(states[0], running=6.0)

    def choice(now: float) -> EndpointState:
        view = profile.look(states, now)
        assert not isinstance(view, Rejection)
        decision = profile.place(Waiting(make_request()), view)
        assert decision is not None
        return decision.choice.state

    assert choice(1.0) is states[1]
    assert choice(60.0) is states[0]
