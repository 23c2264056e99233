"""The oldest records go first, from the beginning of a chain, until neither bound is exceeded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.ledger.retention import DAY, Retention, Span, due, leading

NOW = 1000 * DAY


def test_without_bounds_all_are_kept() -> None:
    assert due(Retention(), [Span("a", 0, 10**9, 0.0)], NOW) is None
    assert due(Retention(days=1, max_rows=1), [], NOW) is None


def test_the_chain_with_the_oldest_record_is_cut_by_age() -> None:
    old, new = Span("a", 5, 10, NOW - 3 * DAY), Span("b", 0, 10, NOW - 2.5 * DAY)
    assert due(Retention(days=2), [new, old], NOW) == (old, None)
    assert due(Retention(days=4), [new, old], NOW) is None


def test_what_is_too_many_of_all_chains_together_goes_where_the_oldest_are() -> None:
    old, new = Span("a", 5, 10, NOW - 3), Span("b", 0, 10, NOW - 2)
    assert due(Retention(max_rows=12), [new, old], NOW) == (old, 3)
    assert due(Retention(max_rows=15), [new, old], NOW) is None


def test_a_chain_without_records_is_let_be() -> None:
    assert due(Retention(days=1), [Span("a", 10, 10, 0.0)], NOW) is None


@given(st.lists(st.floats(0, 100)), st.floats(0, 100))
def test_only_those_before_the_first_that_stays_are_counted(moments: list[float], before: float) -> None:
    count = leading(moments, before)
    assert all(at < before for at in moments[:count])
    assert count == len(moments) or moments[count] >= before
