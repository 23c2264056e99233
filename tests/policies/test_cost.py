"""Predicted seconds follow the study's formula, are never negative and move the right way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import (
    EXPECTED_OUTPUT_CAP,
    Rates,
    cached_tokens,
    expected_output,
    forecast,
    own_seconds,
    predicted_ttft,
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
    assert rates.step <= own_seconds(rates, prompt - cached, cached) <= own_seconds(rates, prompt, 0)


def test_own_seconds_is_the_formula_of_the_study() -> None:
    rates = Rates(prefill=1e-4, attention=1e-9, step=0.002)
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


def test_predicted_ttft_is_wait_and_own_slowed_by_the_decodes() -> None:
    state, request = make_state(), make_request(prompt_tokens=1000)
    load(state, 3.0)
    state.reserve(make_request(prompt_tokens=5000, blocks=()), 0, 1.0, 0.0).first_token(0.0)
    step = step_seconds(state)
    slowdown = 1 + step / (8192 * state.rates.prefill)
    own = own_seconds(state.rates, 936, 64)
    assert predicted_ttft(state, request, 64, 0.0) == pytest.approx((3.0 + own) * slowdown + step)


@given(st.lists(SECONDS, max_size=5), SECONDS, st.integers(1, 10_000))
def test_more_waiting_work_never_shortens_the_prediction(works: list[float], more: float, tokens: int) -> None:
    state, request = make_state(), make_request(prompt_tokens=tokens)
    for seconds in works:
        load(state, seconds)
    before = forecast(state, request, 0.0).ttft_seconds
    load(state, more)
    assert forecast(state, request, 0.0).ttft_seconds >= before - 1e-9


@given(st.integers(0, 1000), st.integers(0, 4))
def test_at_least_the_last_prompt_token_is_always_computed(prompt_tokens: int, touched: int) -> None:
    state = make_state()
    state.index.touch(PREFIX[:touched])
    cached = cached_tokens(state, make_request(prompt_tokens=prompt_tokens))
    assert cached == max(0, min(touched * 64, prompt_tokens - 1))


def test_a_forecast_agrees_with_the_single_predictions() -> None:
    state, request = make_state(), make_request(prompt_tokens=1000)
    load(state, 1.0)
    state.index.touch(PREFIX)
    predicted = forecast(state, request, 0.5)
    assert predicted.cached_tokens == 256
    assert predicted.own_seconds == own_seconds(state.rates, 744, 256)
    assert predicted.ttft_seconds == predicted_ttft(state, request, 256, 0.5)


def test_a_careless_output_bound_is_not_believed() -> None:
    assert expected_output(make_request(max_output_tokens=100_000)) == EXPECTED_OUTPUT_CAP
    assert expected_output(make_request(max_output_tokens=10)) == 10


def test_a_prefill_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="prefill rate"):
        Rates(prefill=0.0)
