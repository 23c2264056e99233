"""How much happened within a window and which share of it was bad, whatever the course of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sliding import SLOTS, SlidingCount, SlidingShare


def test_it_counts_what_is_bad_among_all() -> None:
    share = SlidingShare(60.0)
    for bad in (True, False, False, False):
        share.note(bad, 5.0)
    assert (share.samples(5.0), share.share(5.0)) == (4, 0.25)


def test_without_events_nothing_is_bad() -> None:
    assert SlidingShare(1.0).share(1e9) == 0.0


def test_what_is_cleared_is_forgotten() -> None:
    share = SlidingShare(60.0)
    share.note(True, 5.0)
    share.clear()
    assert share.samples(5.0) == 0


def test_a_window_has_a_length() -> None:
    with pytest.raises(ValueError, match="above 0"):
        SlidingShare(0.0)


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.booleans()), max_size=80), st.floats(0.0, 200.0))
def test_it_holds_all_of_the_window_and_nothing_older(events: list[tuple[float, bool]], after: float) -> None:
    share, now, happened = SlidingShare(60.0), 1000.0, list[tuple[float, bool]]()
    for elapsed, bad in events:
        now += elapsed
        share.note(bad, now)
        happened.append((now, bad))
    now += after
    slot = 60.0 / SLOTS
    surely = [bad for at, bad in happened if now - at < 60.0 - slot]
    at_most = [bad for at, bad in happened if now - at <= 60.0]
    assert len(surely) <= share.samples(now) <= len(at_most)
    assert sum(surely) <= share.bad(now) <= sum(at_most)
    assert share.share(now) == (share.bad(now) / share.samples(now) if share.samples(now) else 0.0)


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.integers(0, 3)), max_size=60))
def test_whether_it_is_asked_in_between_changes_nothing(steps: list[tuple[float, int]]) -> None:
    asked, left_alone, now = SlidingCount(60.0), SlidingCount(60.0), 0.0
    for elapsed, count in steps:
        now += elapsed
        assert asked.total(now) >= 0
        for one in (asked, left_alone):
            for _ in range(count):
                one.add(now)
    assert asked.total(now) == left_alone.total(now)


def test_a_clock_that_runs_backwards_loses_no_event() -> None:
    count = SlidingCount(60.0)
    for now in (100.0, 10.0, 100.0):
        count.add(now)
    assert count.total(100.0) == 3
    assert count.total(200.0) == 0
