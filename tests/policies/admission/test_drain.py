"""When to come back is what the queue does: through bursts, silence and the first seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.drain import LEAST_SECONDS, MOST_SECONDS, DrainRate


def steady(drain: DrainRate, rate: float, seconds: float, start: float = 0.0, waiting: int = 100) -> float:
    """Requests leave a long queue at a steady rate. The time afterwards."""
    drain.note(start, waiting)
    now = start
    for _ in range(int(rate * seconds)):
        now += 1 / rate
        drain.note(now, waiting, 1)
    return now


def test_before_anything_is_known_the_prior_answers() -> None:
    assert DrainRate(prior=8.0).retry_after(80, 0.0) == pytest.approx(10.0)


@pytest.mark.parametrize("rate", [0.2, 5.0, 200.0])
def test_it_learns_the_rate_within_a_few_horizons(rate: float) -> None:
    drain = DrainRate(prior=1.0)
    now = steady(drain, rate, 120.0)
    assert drain.rate(now) == pytest.approx(rate, rel=0.1)
    assert drain.retry_after(int(rate * 50), now) == pytest.approx(50.0, rel=0.15)


def test_the_first_ten_seconds_of_a_queue_outweigh_the_prior() -> None:
    drain = DrainRate(prior=1.0)
    now = steady(drain, 20.0, 10.0)
    assert 10 < drain.rate(now) < 20


def test_time_in_which_nobody_waits_says_nothing() -> None:
    drain = DrainRate()
    now = steady(drain, 10.0, 100.0)
    drain.note(now, 0)
    before = drain.rate(now)
    assert drain.rate(now + 3600) == before
    drain.note(now + 3600, 500)
    assert drain.rate(now + 3600) == before


def test_after_a_stall_the_rate_is_back_within_a_minute() -> None:
    drain = DrainRate()
    now = steady(drain, 10.0, 100.0)
    now = steady(drain, 10.0, 60.0, start=now + 600)
    assert drain.rate(now) > 8


def test_while_requests_wait_and_none_is_sent_the_answer_grows_to_its_bound() -> None:
    drain = DrainRate()
    now = steady(drain, 10.0, 100.0)
    answers = [drain.retry_after(100, now + silence) for silence in (0, 10, 30, 60, 600)]
    assert answers == sorted(answers)
    assert answers[0] == pytest.approx(10.0, rel=0.05)
    assert answers[1] < 20
    assert answers[-1] == MOST_SECONDS


def test_a_burst_counts_as_what_it_is_beside_the_seconds_before_it() -> None:
    drain = DrainRate(prior=1.0)
    now = steady(drain, 1.0, 60.0)
    drain.note(now, 100, 64)
    assert drain.rate(now) < 4


def test_a_lost_engine_is_noticed_within_a_minute() -> None:
    drain = DrainRate()
    now = steady(drain, 20.0, 120.0)
    now = steady(drain, 2.0, 60.0, start=now)
    assert drain.rate(now) < 5


def test_a_queue_that_is_nearly_empty_says_a_second() -> None:
    drain = DrainRate()
    now = steady(drain, 50.0, 60.0)
    assert drain.retry_after(1, now) == LEAST_SECONDS


@given(
    st.lists(st.tuples(st.floats(0.0, 1e5), st.integers(0, 3), st.integers(0, 64)), max_size=60),
    st.integers(0, 10**6),
    st.floats(0.0, 1e6),
)
def test_every_answer_is_within_the_bounds_and_more_ahead_never_means_sooner(
    notes: list[tuple[float, int, int]], ahead: int, later: float
) -> None:
    drain, now = DrainRate(), 0.0
    for elapsed, waiting, sent in notes:
        now += elapsed
        drain.note(now, waiting, sent)
    answer = drain.retry_after(ahead, now + later)
    assert LEAST_SECONDS <= answer <= MOST_SECONDS
    assert drain.retry_after(ahead + 1, now + later) >= answer


@pytest.mark.parametrize(("prior", "horizon"), [(0.0, 30.0), (1.0, 0.0)])
def test_a_rate_of_nothing_is_refused(prior: float, horizon: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        DrainRate(prior, horizon)
