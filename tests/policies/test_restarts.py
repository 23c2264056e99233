"""Workers that end are started again: at once if they have served, ever later if they end again and again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.restarts import LONGEST_PAUSE_SECONDS, STEADY_SECONDS, Restarts


def test_who_has_served_for_a_while_is_started_at_once_however_often() -> None:
    restarts = Restarts()
    assert [restarts.pause(STEADY_SECONDS) for _ in range(5)] == [0.0] * 5


def test_who_ends_early_again_and_again_waits_twice_as_long_each_time_and_a_steady_one_makes_up_for_it() -> None:
    restarts = Restarts()
    assert [restarts.pause(0.1) for _ in range(8)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert restarts.pause(STEADY_SECONDS + 1) == 0.0
    assert [restarts.pause(0.1) for _ in range(2)] == [0.0, 1.0]


@given(st.lists(st.floats(0.0, 20.0), max_size=200))
def test_no_pause_is_longer_than_the_longest(served: list[float]) -> None:
    restarts = Restarts()
    assert all(0.0 <= restarts.pause(one) <= LONGEST_PAUSE_SECONDS for one in served)
