"""What cannot be written is kept as far as there is room, counted beyond it, and told once in the chain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.ledger.backlog import Backlog, Gap, OnFull, Trouble


def backlog(rule: OnFull = OnFull.REFUSE) -> Backlog:
    return Backlog(rule, most=10, stuck_seconds=5.0)


def test_with_allow_requests_go_on_whatever_happens() -> None:
    one = backlog(OnFull.ALLOW)
    one.trouble, one.writing_since = Trouble.DISK_FULL, 0.0
    assert one.accepts(10, 100.0)


def test_with_refuse_they_go_on_until_records_cannot_be_written() -> None:
    one = backlog()
    assert one.accepts(9, 0.0)
    assert not one.accepts(10, 0.0), "no room for another record"
    one.trouble = Trouble.SPOOL_FULL
    assert not one.accepts(0, 0.0)
    one.trouble = None
    assert one.accepts(0, 0.0)


def test_with_refuse_a_disk_that_hangs_counts_as_one_that_is_full() -> None:
    one = backlog()
    one.writing_since = 100.0
    assert one.accepts(0, 105.0)
    assert not one.accepts(0, 105.1)
    one.writing_since = None
    assert one.accepts(0, 200.0)


def test_a_gap_says_how_many_are_lost_and_since_when() -> None:
    one = backlog(OnFull.ALLOW)
    assert one.gap(1.0) is None
    one.lose(2.0)
    one.lose(3.0)
    one.drop(1)
    assert one.gap(4.0) == Gap(3, 2.0, 4.0)
    one.told(Gap(3, 2.0, 4.0))
    assert one.gap(5.0) is None
    one.lose(6.0)
    assert one.gap(7.0) == Gap(1, 6.0, 7.0)


@given(st.lists(st.sampled_from(["lose", "drop", "fail", "write"])))
def test_all_that_are_lost_stand_in_gaps_in_the_end(steps: list[str]) -> None:
    one, told = backlog(OnFull.ALLOW), 0
    for now, step in enumerate([*steps, "write"]):
        if step == "lose":
            one.lose(now)
        elif step == "drop":
            one.drop(2)
        elif (gap := one.gap(now)) is not None and step == "write":
            one.told(gap)
            told += gap.lost
    assert told == one.lost + one.dropped == steps.count("lose") + 2 * steps.count("drop")
    assert one.lost_untold == 0
