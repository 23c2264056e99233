"""The share of what was bad within a window, whatever the course of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sliding import SLOTS, SlidingShare


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
    share, now, happened = SlidingShare(60.0), 1000.0, []
    for elapsed, bad in events:
        now += elapsed
        share.note(bad, now)
        happened.append(now)
    now += after
    slot = 60.0 / SLOTS
    surely = sum(now - at < 60.0 - slot for at in happened)
    at_most = sum(now - at <= 60.0 for at in happened)
    assert surely <= share.samples(now) <= at_most
