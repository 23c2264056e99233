"""Equal endpoints of a pool are believed to be equal, one teaches all, and those that are not equal are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Rates
from policies.endpoint_state import EndpointState
from policies.pool_rates import PoolRates, prefill_part
from policies.reservation import EngineReport
from tests.policies.builders import make_request, make_state

PRIOR = Rates()


def pool(count: int) -> list[EndpointState]:
    states = [make_state(f"e{number}") for number in range(count)]
    PoolRates(states).join()
    return states


def serve(state: EndpointState, slower: float, count: int, rng: Random, began: float = 0.0) -> None:
    """One after the other; prompts are estimated wrongly by up to 30 %, as the engine tells in the end."""
    now = began
    for number in range(count):
        tokens = round(rng.lognormvariate(7.5, 0.7))
        request = make_request(str(number), prompt_tokens=round(tokens * rng.uniform(0.7, 1.3)), blocks=())
        reservation = state.reserve(request, 0, 0.1, now)
        now += slower * (67e-6 * tokens + 2.8e-9 * tokens * tokens / 2 + 0.012)
        reservation.first_token(now, seen=True)
        now += slower * 0.0125 * 49
        reservation.release(now, EngineReport(tokens, 0, 50))
        now += 0.1


def seen(states: Sequence[EndpointState]) -> list[float]:
    """Predicted by true seconds of a usual prompt at an engine that is as fast as the prior."""
    return [prefill_part(state.rates) / prefill_part(PRIOR) for state in states]


@pytest.mark.parametrize("slower", [0.5, 3.0])
def test_an_endpoint_that_has_served_nobody_is_believed_to_be_like_the_others(slower: float) -> None:
    states, rng = pool(3), Random(1)
    version = states[2].index.version
    serve(states[0], slower, 60, rng)
    assert states[2].rates is states[0].rates
    assert seen(states)[2] == pytest.approx(slower, rel=0.2)
    assert states[2].index.version > version, "what was predicted of it is predicted anew"


def test_equal_endpoints_have_the_very_same_rates_though_each_has_seen_something_else() -> None:
    states, rng = pool(8), Random(1)
    for state in states:
        serve(state, 1.5, 80, rng)
    assert len({state.learner.rates.prefill for state in states}) > 1
    assert len({id(state.rates) for state in states}) <= 3
    assert max(seen(states)) < 1.05 * min(seen(states))
    assert seen(states)[0] == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize("other", [0.5, 2.0, 4.0])
def test_other_hardware_in_the_same_pool_is_told_apart_within_fifty_requests(other: float) -> None:
    states, rng = pool(4), Random(1)
    for number, state in enumerate(states):
        serve(state, other if number == 3 else 1.0, 50, rng)
    *same, different = seen(states)
    assert different == pytest.approx(other, rel=0.2)
    assert same == pytest.approx([1.0] * 3, rel=0.2)


def test_two_kinds_of_equal_number_are_told_apart() -> None:
    states, rng = pool(6), Random(1)
    for number, state in enumerate(states):
        serve(state, 1.0 if number % 2 else 2.0, 50, rng)
    assert seen(states)[::2] == pytest.approx([2.0] * 3, rel=0.2)
    assert seen(states)[1::2] == pytest.approx([1.0] * 3, rel=0.2)


def test_an_endpoint_alone_believes_what_it_has_seen() -> None:
    states = pool(1)
    serve(states[0], 2.0, 60, Random(1))
    assert prefill_part(states[0].rates) == pytest.approx(prefill_part(states[0].learner.rates), rel=0.04)


def test_an_endpoint_that_does_not_learn_keeps_its_rates_and_teaches_nobody() -> None:
    states = pool(3)
    states[0].learns_rates = False
    serve(states[0], 5.0, 60, Random(1))
    serve(states[1], 2.0, 60, Random(1))
    assert states[0].rates == PRIOR
    assert seen(states)[2] == pytest.approx(2.0, rel=0.2)


def test_another_process_at_an_address_begins_with_what_the_pool_knows() -> None:
    states, rng = pool(3), Random(1)
    for state in states:
        serve(state, 2.0, 60, rng)
    states[0].restarted()
    assert states[0].learner.rows == (0, 0)
    serve(states[1], 2.0, 20, rng, began=1_000.0)
    assert seen(states) == pytest.approx([2.0] * 3, rel=0.15)


@given(st.lists(st.tuples(st.floats(0.2, 5.0), st.integers(0, 30)), min_size=1, max_size=4), st.integers(0, 10**6))
def test_what_is_believed_lies_between_what_any_of_them_has_seen(kinds: list[tuple[float, int]], seed: int) -> None:
    states, rng = pool(len(kinds)), Random(seed)
    for state, (slower, count) in zip(states, kinds, strict=True):
        serve(state, slower, count, rng)
    own = [prefill_part(state.learner.rates) for state in states]
    for state in states:
        assert 0.95 * min(*own, prefill_part(PRIOR)) < prefill_part(state.rates)
        assert prefill_part(state.rates) < 1.05 * max(*own, prefill_part(PRIOR))


def test_what_endpoints_of_a_large_pool_learn_does_not_make_all_of_them_be_looked_at_each_time() -> None:
    small, large = pool(8), pool(128)
    for states in (small, large):
        rng = Random(1)
        for state in states:
            serve(state, 2.0, 12, rng)
    told = [state.pool_rates for state in (small[0], large[0])]
    assert told[0] is not None
    assert told[1] is not None
    assert told[0].looks > 8, "a small one learns of everything at once"
    assert told[1].looks < 3 * told[0].looks, "16 times as many endpoints have learned 16 times as much"
    assert seen(large)[-1] == pytest.approx(2.0, rel=0.2)


def test_an_endpoint_of_a_large_pool_that_is_another_is_told_apart_at_once() -> None:
    states, rng = pool(128), Random(1)
    for number, state in enumerate(states):
        serve(state, 4.0 if number == 5 else 1.0, 50 if number == 5 else 12, rng)
    assert seen(states)[5] == pytest.approx(4.0, rel=0.2)
    assert seen(states)[6] == pytest.approx(1.0, rel=0.2)
