"""Which requests wait for another replica's that were decided just before, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.coordination.order import SHORT_SECONDS, WAY_SECONDS, LeavingOrder

LONG = 20 * SHORT_SECONDS


def test_a_long_one_behind_another_replicas_leaves_when_that_has_arrived() -> None:
    order = LeavingOrder()
    order.told("e0", "b", 10.0)
    assert order.pause("e0", "a", LONG, 10.0) == pytest.approx(WAY_SECONDS)
    assert order.pause("e0", "a", LONG, 10.0 + WAY_SECONDS / 4) == pytest.approx(WAY_SECONDS * 3 / 4)
    assert order.pause("e0", "a", LONG, 10.0 + 2 * WAY_SECONDS) == 0


def test_short_ones_other_engines_and_what_goes_the_same_way_do_not_pause() -> None:
    order = LeavingOrder()
    assert order.pause("e0", "a", LONG, 10.0) == 0  # nobody was told anything
    order.told("e0", "b", 10.0)
    assert order.pause("e0", "a", SHORT_SECONDS, 10.0) == 0
    assert order.pause("e1", "a", LONG, 10.0) == 0
    assert order.pause("e0", "b", LONG, 10.0) == 0


def test_the_last_of_another_replica_counts_though_its_own_has_come_since() -> None:
    order = LeavingOrder()
    order.told("e0", "b", 10.0)
    order.told("e0", "c", 10.0 + WAY_SECONDS / 2)
    order.told("e0", "c", 10.0 + WAY_SECONDS / 2)
    assert order.pause("e0", "c", LONG, 10.0 + WAY_SECONDS / 2) == pytest.approx(WAY_SECONDS / 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.01), st.floats(0, 3))))
def test_nobody_pauses_for_longer_than_a_way_however_many_came_before(told: list[tuple[str, float, float]]) -> None:
    order, now = LeavingOrder(), 0.0
    for other, later, own_seconds in told:
        now += later
        assert 0 <= order.pause("e0", other, own_seconds, now) <= WAY_SECONDS
        order.told("e0", other, now)
