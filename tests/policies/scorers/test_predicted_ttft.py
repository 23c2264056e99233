"""The score is the forecast's time to first token: load and cached prefix in seconds."""

from __future__ import annotations

from policies.cost import forecast
from policies.endpoint_state import EndpointState
from policies.scorers.predicted_ttft import PredictedTtft
from tests.policies.builders import PREFIX, load, make_request, make_state


def score(state: EndpointState) -> float:
    request = make_request(prompt_tokens=1000)
    return PredictedTtft().score(request, state, forecast(state, request, 0.0), 0.0)


def test_a_cached_prefix_lowers_the_score_and_waiting_work_raises_it() -> None:
    plain, warm, busy = make_state(), make_state(), make_state()
    warm.index.touch(PREFIX)
    load(busy, 0.5)
    assert score(warm) < score(plain) < score(busy)


def test_enough_waiting_work_outweighs_a_cached_prefix() -> None:
    plain, warm = make_state(), make_state()
    warm.index.touch(PREFIX)
    load(warm, 1.0)
    assert score(plain) < score(warm)
