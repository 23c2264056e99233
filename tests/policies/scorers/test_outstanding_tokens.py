"""The score is tokens still to do, per weight."""

from __future__ import annotations

from policies.cost import forecast
from policies.endpoint_state import EndpointState
from policies.scorers.outstanding_tokens import OutstandingTokens
from tests.policies.builders import PREFIX, load, make_request, make_state


def score(state: EndpointState) -> float:
    request = make_request(prompt_tokens=1000, max_output_tokens=200)
    return OutstandingTokens().score(request, state, forecast(state, request, 0.0), 0.0)


def test_the_score_counts_what_is_outstanding_and_what_the_request_adds() -> None:
    state = make_state()
    assert score(state) == 1200
    load(state, 0.1, tokens=500)
    assert score(state) == 1200 + 500 + 100


def test_twice_the_weight_takes_twice_the_tokens() -> None:
    assert score(make_state(weight=2.0)) == score(make_state()) / 2


def test_caches_do_not_matter() -> None:
    warm = make_state()
    warm.index.touch(PREFIX)
    assert score(warm) == score(make_state())
