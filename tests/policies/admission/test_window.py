"""The minute window is exact at every edge, and its log is bounded."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from policies.admission.window import SlidingWindow
from tests.policies.builders import rng

GAPS = st.one_of(st.floats(0.0, 20.0), st.floats(0.0, 0.6), st.floats(59.0, 60.5))
CHARGES = st.lists(st.tuples(GAPS, st.integers(0, 60)), max_size=80)
LIMIT = 100


@given(CHARGES)
def test_charges_that_had_not_to_wait_never_exceed_the_limit_in_any_minute(charges: list[tuple[float, int]]) -> None:
    window, now, log = SlidingWindow(LIMIT), 1e6, []
    for elapsed, amount in charges:
        now += elapsed
        if window.check(amount, now) == 0.0:
            window.charge(amount, now)
            log.append((now, amount))
    for end, _ in log:
        assert sum(amount for at, amount in log if end - 60 + 1e-6 < at <= end) <= LIMIT


@given(CHARGES, st.integers(1, LIMIT))
def test_the_wait_is_exact(charges: list[tuple[float, int]], wanted: int) -> None:
    window, now = SlidingWindow(LIMIT), 1e6
    for elapsed, amount in charges:
        now += elapsed
        window.charge(amount, now)
    wait = window.check(wanted, now)
    if wait > 0.001:
        assert window.check(wanted, now + wait - 0.001) != 0.0
    assert window.check(wanted, now + wait) == 0.0


@given(CHARGES, st.floats(0.0, 100.0))
def test_what_is_given_back_is_there_again_and_never_twice(charges: list[tuple[float, int]], later: float) -> None:
    window, now, held = SlidingWindow(LIMIT), 0.0, []
    for elapsed, amount in charges:
        now += elapsed
        held.append(window.charge(amount, now))
    for charge in held:
        charge.settle(0, now + later)
    assert window.standing(now + later).remaining == LIMIT
    assert window.standing(now + later).reset == 0.0


@given(st.lists(st.floats(0.0, 0.3), max_size=2000))
def test_the_log_stays_bounded_however_many_charges_come(gaps: list[float]) -> None:
    window, now = SlidingWindow(10**9), 0.0
    for gap in gaps:
        now += gap
        window.charge(1, now)
    assert len(window._slices) <= 122


def test_a_whole_minute_may_be_used_at_once_and_returns_a_minute_later() -> None:
    window = SlidingWindow(LIMIT)
    window.charge(LIMIT, 10.0)
    assert window.standing(10.0).remaining == 0
    assert window.check(1, 10.0) == 60.0
    assert window.check(1, 69.9) != 0.0
    assert window.standing(70.0).remaining == LIMIT


def test_charges_merged_into_one_slice_leave_with_the_last_of_them() -> None:
    window = SlidingWindow(LIMIT)
    window.charge(50, 0.0)
    window.charge(50, 0.4)
    assert window.standing(60.1).remaining == 0
    assert window.standing(60.4).remaining == LIMIT


def test_coming_back_when_told_is_never_a_hair_too_early() -> None:
    random = rng()
    for _ in range(2000):
        window, now = SlidingWindow(1), random.uniform(0, 1e7)
        window.charge(1, now)
        asked = now + random.uniform(0, 59)
        wait = window.check(1, asked)
        assert window.check(1, asked + wait) == 0.0


def test_more_than_the_limit_never_fits() -> None:
    assert math.isnan(SlidingWindow(LIMIT).check(LIMIT + 1, 0.0))


def test_an_overcharge_is_paid_before_anything_fits() -> None:
    window = SlidingWindow(LIMIT)
    window.charge(60, 0.0)
    window.charge(90, 10.0)
    assert window.standing(10.0).remaining == 0
    assert window.check(10, 10.0) == 50.0
    assert window.check(11, 10.0) == 60.0
