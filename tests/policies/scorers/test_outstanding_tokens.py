"""The score is tokens still to do, per weight."""

from __future__ import annotations

from policies.endpoint_state import EndpointState
from policies.scorers.outstanding_tokens import OutstandingTokens
from tests.policies.builders import PREFIX, load, make_request, make_state, make_view, make_waiting


def score(*states: EndpointState) -> list[float]:
    request = make_request(prompt_tokens=1000, max_output_tokens=200)
    return OutstandingTokens().score(make_waiting(states, request), make_view(states))


def test_the_score_counts_what_is_outstanding_and_what_the_request_adds() -> None:
    idle, busy = make_state("idle"), make_state("busy")
    load(busy, 0.1, tokens=500)
    assert score(idle, busy) == [1200, 1200 + 500 + 100]


def test_twice_the_weight_takes_twice_the_tokens() -> None:
    assert score(make_state("one"), make_state("two", weight=2.0)) == [1200, 600]


def test_caches_do_not_matter() -> None:
    warm = make_state("warm")
    warm.index.touch(PREFIX)
    assert score(warm, make_state("cold")) == [1200, 1200]
