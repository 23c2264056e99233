"""Predicted seconds follow the study's formula, are never negative and move the right way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import (
    Rates,
    cached_tokens,
    own_seconds,
    slowdown,
    step_seconds,
    wait_seconds,
)
from tests.policies.builders import PREFIX, load, make_request, make_state

TOKENS = st.integers(0, 200_000)
SECONDS = st.floats(0.0, 1000.0)


@given(TOKENS, TOKENS)
def test_every_cached_token_makes_a_prompt_cheaper(prompt: int, cached: int) -> None:
    cached = min(cached, prompt)
    rates = Rates()
    assert rates.overhead <= own_seconds(rates, prompt - cached, cached) <= own_seconds(rates, prompt, 0)


def test_own_seconds_is_the_formula_of_the_study() -> None:
    rates = Rates(prefill=1e-4, attention=1e-9, overhead=0.002)
    assert own_seconds(rates, 1000, 500) == pytest.approx(0.1 + 1e-9 * 1000 * (500 + 500) + 0.002)


@given(st.lists(SECONDS, min_size=1, max_size=8), SECONDS)
def test_the_wait_is_between_half_of_and_all_the_pending_work(works: list[float], elapsed: float) -> None:
    state = make_state()
    for seconds in works:
        load(state, seconds)
    wait = wait_seconds(state, elapsed)
    total = sum(works)
    assert total * 0.5 - 1e-6 <= wait <= total + 1e-6


def test_an_idle_endpoint_makes_nobody_wait() -> None:
    assert wait_seconds(make_state(), 5.0) == 0.0


def test_progress_counts_half_of_the_elapsed_time_up_to_one_mean_prefill() -> None:
    state = make_state()
    load(state, 2.0)
    load(state, 4.0)
    assert wait_seconds(state, 0.0) == pytest.approx(6.0)
    assert wait_seconds(state, 1.0) == pytest.approx(5.5)
    assert wait_seconds(state, 100.0) == pytest.approx(6.0 - 0.5 * 3.0)


def test_time_spent_idle_is_no_progress_on_what_comes_later() -> None:
    state = make_state()
    first = state.reserve(make_request(), 0, 1.0, now=0.0)
    first.first_token(1.0)
    load(state, 2.0, now=50.0)
    assert wait_seconds(state, 50.0) == pytest.approx(2.0)


def test_progress_starts_anew_with_every_first_token() -> None:
    state = make_state()
    first = state.reserve(make_request(), 0, 1.0, now=0.0)
    load(state, 2.0, now=0.0)
    first.first_token(10.0)
    assert wait_seconds(state, 10.0) == pytest.approx(2.0)
    assert wait_seconds(state, 11.0) == pytest.approx(1.5)


def test_a_step_grows_with_the_requests_that_decode_and_their_context() -> None:
    state = make_state()
    idle = step_seconds(state)
    reservation = state.reserve(make_request(prompt_tokens=1000, max_output_tokens=200), 0, 1.0, now=0.0)
    assert step_seconds(state) == idle
    reservation.first_token(1.0)
    rates = state.rates
    assert step_seconds(state) == pytest.approx(idle + rates.decode + rates.context * 1100)


@given(st.floats(0.0, 10.0), st.floats(1e-6, 1e-2))
def test_decodes_stretch_a_prefill_and_never_shorten_it(step: float, rate: float) -> None:
    assert slowdown(Rates(prefill=rate), step) == pytest.approx(1 + step / (8192 * rate))
    assert slowdown(Rates(prefill=rate), step) >= 1.0


@given(st.integers(0, 1000), st.integers(0, 4))
def test_at_least_the_last_prompt_token_is_always_computed(prompt_tokens: int, touched: int) -> None:
    state = make_state()
    state.index.touch(PREFIX[:touched])
    cached = cached_tokens(state, make_request(prompt_tokens=prompt_tokens))
    assert cached == max(0, min(touched * 64, prompt_tokens - 1))


def test_a_prefill_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="prefill rate"):
        Rates(prefill=0.0)
