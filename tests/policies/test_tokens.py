"""The token estimate is bounded, learns, and shrugs off odd reports; exact counts are remembered within a bound."""

from __future__ import annotations

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.tokens import CountMemo, TokenEstimator, needs_exact_count

REPORTS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(-5, 10**7)), max_size=50)


@given(REPORTS)
def test_bytes_per_token_stays_between_1_and_12_whatever_engines_report(reports: list[tuple[int, int]]) -> None:
    estimator = TokenEstimator()
    for text_bytes, prompt_tokens in reports:
        estimator.observe(text_bytes, prompt_tokens)
        assert 1.0 <= estimator.bytes_per_token <= 12.0


@given(st.floats(1.0, 12.0))
def test_the_estimate_converges_to_what_the_engine_reports(ratio: float) -> None:
    estimator = TokenEstimator()
    for _ in range(120):
        estimator.observe(100_000, round(100_000 / ratio))
    assert estimator.bytes_per_token == pytest.approx(ratio, rel=0.05)


@given(st.integers(0, 10**7), st.integers(0, 1000))
def test_an_estimate_never_exceeds_the_bytes_and_grows_with_them(text_bytes: int, extra: int) -> None:
    estimator = TokenEstimator(3.3)
    tokens = estimator.estimate(text_bytes, extra)
    assert extra <= tokens <= text_bytes + extra
    assert tokens <= estimator.estimate(text_bytes + 1, extra)


def test_one_absurd_report_among_many_moves_the_estimate_little() -> None:
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.observe(4000, 1000)
    estimator.observe(4_000_000, 10)
    assert estimator.bytes_per_token == pytest.approx(4.0, rel=0.06)


def test_one_prompt_of_images_among_many_moves_the_estimate_little() -> None:
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.observe(4000, 1000)
    estimator.observe(400, 1_000_000)
    assert estimator.bytes_per_token == pytest.approx(4.0, rel=0.03)


def test_short_prompts_teach_nothing_as_the_template_outweighs_them() -> None:
    estimator = TokenEstimator()
    estimator.observe(5, 40)
    assert estimator.bytes_per_token == 4.0


def test_estimates_round_up_and_add_what_is_not_text() -> None:
    assert TokenEstimator(4.0).estimate(9, extra_tokens=100) == 103
    assert TokenEstimator(4.0).estimate(0) == 0


def test_a_configured_ratio_is_bounded_too() -> None:
    assert TokenEstimator(0.01).bytes_per_token == 1.0


@given(st.lists(st.integers(0, 20)), st.integers(1, 8))
def test_the_memo_never_exceeds_its_capacity_and_keeps_the_newest(keys: list[int], capacity: int) -> None:
    memo = CountMemo(capacity)
    for key in keys:
        memo.put(key, key * 10)
        assert len(memo) <= capacity
        assert memo.get(key) == key * 10


def test_the_memo_forgets_what_was_not_used_for_longest() -> None:
    memo = CountMemo(2)
    memo.put(1, 10)
    memo.put(2, 20)
    assert memo.get(1) == 10
    memo.put(3, 30)
    assert memo.get(2) is None
    assert memo.get(1) == 10


def test_a_count_of_zero_is_a_count() -> None:
    memo = CountMemo()
    memo.put(1, 0)
    assert memo.get(1) == 0


@given(st.integers(0, 5000), st.integers(0, 10_000))
def test_text_of_fewer_bytes_than_the_threshold_is_never_counted(text_bytes: int, estimate: int) -> None:
    assert not needs_exact_count(text_bytes, estimate, threshold=5000)


@given(st.integers(2049, 100_000), st.floats(0.51, 1.99))
def test_an_estimate_within_a_factor_of_2_of_the_threshold_is_counted(text_bytes: int, factor: float) -> None:
    assert needs_exact_count(text_bytes, round(2048 * factor), 2048)


@pytest.mark.parametrize("estimate", [100, 1000, 4100, 90_000])
def test_an_estimate_far_from_the_threshold_is_trusted(estimate: int) -> None:
    assert not needs_exact_count(400_000, estimate, 2048)


def test_where_reports_agree_only_what_is_near_the_threshold_is_counted() -> None:
    estimator = TokenEstimator()
    assert estimator.unsure_factor == 2.0, "before there are reports"
    for _ in range(100):
        estimator.observe(4000, 1000)
    assert estimator.unsure_factor == pytest.approx(1.1)
    assert needs_exact_count(8000, 2000, 2048, estimator.unsure_factor)
    assert not needs_exact_count(4000, 1024, 2048, estimator.unsure_factor)
    for _ in range(100):  # another language comes in: half as many bytes a token
        estimator.observe(4000, 1000)
        estimator.observe(4000, 2000)
    assert estimator.unsure_factor == 2.0


@given(REPORTS)
def test_an_estimate_is_never_trusted_more_than_a_tenth_nor_less_than_by_half(reports: list[tuple[int, int]]) -> None:
    estimator = TokenEstimator()
    for text_bytes, prompt_tokens in reports:
        estimator.observe(text_bytes, prompt_tokens)
        assert 1.1 <= estimator.unsure_factor <= 2.0


@given(st.floats(0.02, 0.15), st.integers(0, 2**32))
def test_few_estimates_of_alike_prompts_are_further_off_than_it_says(spread: float, seed: int) -> None:
    random, estimator, off = Random(seed), TokenEstimator(), 0
    for number in range(1000):
        tokens = round(1000 * exp(random.gauss(0.0, spread)))
        estimate, unsure = estimator.estimate(4000), estimator.unsure_factor
        off += number >= 100 and not estimate / unsure <= tokens <= estimate * unsure
        estimator.observe(4000, tokens)
    assert off <= 20, "of 900"
