"""Expected lengths of answers: a mean that bounds do not bias, within bounds, of a bounded number of tenants."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.output_length import EDGES, PRIOR_TOKENS, OutputLengths

ANSWERS = st.lists(st.tuples(st.integers(-5, 10**7), st.booleans()), max_size=60)


def lognormal(rng: Random, count: int) -> list[int]:
    return [round(rng.lognormvariate(5.5, 1.0)) for _ in range(count)]


def seen(answers: list[tuple[int, bool]]) -> OutputLengths:
    lengths = OutputLengths()
    for tokens, cut in answers:
        lengths.observe("acme", "m", tokens, cut)
    return lengths


def test_until_some_answers_were_seen_the_prior_counts_and_never_more_than_the_bound() -> None:
    lengths = seen([(9, False)] * 7)
    assert lengths.expect("acme", "m") == PRIOR_TOKENS
    assert lengths.expect("acme", "m", 100) == 100
    assert lengths.expect("nobody", "m", 100_000, n=3) == 3 * PRIOR_TOKENS
    assert lengths.quantile("acme", "m", 0.5) is None
    lengths.observe("acme", "m", 9)
    assert lengths.expect("acme", "m") in (9, 10)


def test_the_mean_below_any_bound_is_that_of_answers_cut_at_it() -> None:
    answers = lognormal(Random(1), 400)
    lengths = seen([(tokens, False) for tokens in answers])
    recent = answers[-300:]
    for bound in (1, 20, 100, 400, 3_000, 100_000):
        mean = sum(min(tokens, bound) for tokens in recent) / len(recent)
        assert lengths.expect("acme", "m", bound) == pytest.approx(mean, rel=0.15)


def test_answers_that_bounds_cut_off_do_not_make_answers_look_shorter() -> None:
    rng = Random(2)
    answers = lognormal(rng, 2_000)
    bounds = [rng.choice([64, 256, 1_024, 10_000]) for _ in answers]
    bounded = seen([(min(t, bound), t >= bound) for t, bound in zip(answers, bounds, strict=True)])
    free = seen([(tokens, False) for tokens in answers])
    assert bounded.expect("acme", "m") == pytest.approx(free.expect("acme", "m"), rel=0.35)
    median = free.quantile("acme", "m", 0.5)
    assert bounded.quantile("acme", "m", 0.5) == pytest.approx(median, rel=0.25)
    naive = sum(min(t, bound) for t, bound in zip(answers, bounds, strict=True)) / len(answers)
    assert bounded.expect("acme", "m") > 1.3 * naive


def test_where_every_answer_was_cut_off_longer_ones_are_expected_of_higher_bounds() -> None:
    lengths = seen([(100, True)] * 50)
    expected = [lengths.expect("acme", "m", bound) for bound in (50, 100, 200, 1_000, None)]
    assert expected[:2] == [50, 100]
    assert expected == sorted(expected)
    assert 120 < expected[2] < 200
    assert expected[-1] < 1_000
    assert lengths.quantile("acme", "m", 0.5) is None


def test_the_last_hundreds_of_answers_decide() -> None:
    lengths = seen([(2_000, False)] * 500 + [(50, False)] * 1_000)
    assert lengths.expect("acme", "m") == pytest.approx(50, abs=30)


def test_tenants_and_models_are_kept_apart_and_n_choices_are_n_times_as_many_tokens() -> None:
    lengths = OutputLengths()
    for _ in range(20):
        lengths.observe("acme", "m", 1_000)
        lengths.observe("beta", "m", 10)
        lengths.observe("acme", "k", 100)
    assert lengths.expect("acme", "m") == pytest.approx(1_000, rel=0.1)
    assert lengths.expect("beta", "m") == pytest.approx(10, abs=1)
    assert lengths.expect("acme", "k", n=4) == pytest.approx(400, rel=0.1)


@given(ANSWERS, st.none() | st.integers(0, 10**6), st.integers(0, 5), st.floats(0, 1))
def test_expectations_are_never_negative_and_never_above_the_bound(
    answers: list[tuple[int, bool]], bound: int | None, n: int, q: float
) -> None:
    lengths = seen(answers)
    expected = lengths.expect("acme", "m", bound, n)
    assert 0 <= expected <= max(1, n) * (10 * EDGES[-1] if bound is None else bound)
    quantile = lengths.quantile("acme", "m", q)
    assert quantile is None or 0 <= quantile < EDGES[-1]
    assert lengths.expect("acme", "m", 100) <= lengths.expect("acme", "m", 1_000) <= lengths.expect("acme", "m")


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500)), max_size=80), st.integers(1, 6))
def test_no_more_keys_than_allowed_are_held_and_the_newest_is_among_them(
    answers: list[tuple[int, int]], most: int
) -> None:
    lengths = OutputLengths(most)
    for tenant, tokens in answers:
        lengths.observe(str(tenant), "m", tokens)
        assert len(lengths) <= most
        assert lengths.snapshot()[0].tenant == str(tenant)


def test_a_very_long_run_of_answers_does_not_overflow() -> None:
    lengths = seen([(index % 300, False) for index in range(10_000)])
    assert lengths.expect("acme", "m") == pytest.approx(150, rel=0.2)


def test_the_snapshot_tells_operators_what_is_reckoned_with() -> None:
    lengths = seen([(100, False)] * 30 + [(400, True)] * 10)
    lengths.observe("beta", "m", 5)
    newest, one = lengths.snapshot()
    assert (newest.tenant, newest.answers) == ("beta", 1.0)
    assert one.p50 == pytest.approx(100, rel=0.15)
    assert one.p99 is None
    assert one.cut == pytest.approx(0.25, abs=0.03)
    assert one.mean > 175
    assert len(lengths.snapshot(limit=1)) == 1
