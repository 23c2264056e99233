"""The score is the time to first token, in which own work counts the more the more endpoints are busy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint_state import EndpointState
from policies.scorers.predicted_ttft import STICKINESS, PredictedTtft
from policies.view import View
from tests.policies.builders import (
    PREFIX,
    load,
    make_fleet,
    make_request,
    make_state,
    make_view,
    make_waiting,
    ttfts,
)

REQUEST = make_request(prompt_tokens=1000)


def score(*states: EndpointState) -> list[float]:
    return PredictedTtft().score(make_waiting(states, REQUEST), make_view(states))


def formula(view: View, column: int, own: float, stickiness: float) -> float:
    """vw·f + (1+λ)(own·f + dstep) of facts/routing.md."""
    slow, step = view.slowdowns[column], view.steps[column]
    return view.planned[column] * slow + (1 + stickiness) * (own * slow + step)


def decode(state: EndpointState, tokens: int) -> None:
    """Gives the endpoint a request that decodes."""
    state.reserve(make_request(prompt_tokens=tokens, blocks=()), 0, 0.1, now=0.0).first_token(0.1)


def test_a_cached_prefix_lowers_the_score_and_waiting_work_raises_it() -> None:
    plain, warm, busy = (make_state(name) for name in ("plain", "warm", "busy"))
    warm.index.touch(PREFIX)
    load(busy, 0.5)
    costs = score(plain, warm, busy)
    assert costs[1] < costs[0] < costs[2]


def test_enough_waiting_work_outweighs_a_cached_prefix() -> None:
    plain, warm = make_state("plain"), make_state("warm")
    warm.index.touch(PREFIX)
    load(warm, 1.0)
    costs = score(plain, warm)
    assert costs[0] < costs[1]


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 20_000), st.integers(0, 4)), min_size=1, max_size=6))
def test_the_score_is_the_formula_of_the_study_with_lambda_scaled_by_the_busy_share(
    fleet: list[tuple[float, int, int]],
) -> None:
    states = make_fleet(len(fleet))
    for state, (pending, decoding, touched) in zip(states, fleet, strict=True):
        state.index.touch(PREFIX[:touched])
        if decoding:
            decode(state, decoding)
        if pending:
            load(state, pending)
    waiting, view = make_waiting(states, REQUEST), make_view(states)
    busy = sum(pending > 0 for pending, _, _ in fleet) / len(fleet)
    expected = [formula(view, column, waiting.own[column], STICKINESS * busy) for column in range(len(fleet))]
    assert PredictedTtft().score(waiting, view) == pytest.approx(expected)
    plain = [formula(view, column, waiting.own[column], 0.0) for column in range(len(fleet))]
    assert PredictedTtft(0.0).score(waiting, view) == pytest.approx(plain)
    assert plain == pytest.approx(ttfts(view, waiting, range(len(fleet))))


def test_only_open_endpoints_count_in_the_busy_share() -> None:
    states = make_fleet(3)
    load(states[0], 1.0)
    waiting = make_waiting(states, REQUEST)
    all_idle, half_busy = make_view(states, closed=[0]), make_view(states, closed=[1])
    assert PredictedTtft().score(waiting, all_idle)[2] == pytest.approx(formula(all_idle, 2, waiting.own[2], 0.0))
    assert PredictedTtft().score(waiting, half_busy)[2] == pytest.approx(formula(half_busy, 2, waiting.own[2], 0.5))


def test_an_endpoint_that_only_decodes_is_not_busy() -> None:
    states = make_fleet(2)
    decode(states[0], 1000)
    assert make_view(states).busy_share == 0.0


def test_work_held_back_for_an_endpoint_counts_like_work_that_was_sent_there() -> None:
    states = make_fleet(2)
    load(states[0], 1.0)
    waiting, view = make_waiting(states, REQUEST), make_view(states)
    before = PredictedTtft().score(waiting, view)
    view.held(0, waiting)
    after = PredictedTtft().score(waiting, view)
    assert after[0] - before[0] == pytest.approx(waiting.own[0] * view.slowdowns[0])
    assert after[1] == before[1]
