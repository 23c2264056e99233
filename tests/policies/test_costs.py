"""Whoever bears what, nothing is left over and nothing is made up.

Floor: tests only.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.costs import MICRO, Paid, attribute, bearers, paid, split
from policies.types import Role

HOUR = 3600 * MICRO
keys = st.tuples(st.sampled_from(["acme", "globex", "initech"]), st.sampled_from(["big", "small"]))
amounts = st.integers(0, 2**50)


@given(total=amounts, weights=st.lists(amounts, min_size=1, max_size=20))
def test_parts_add_up_and_each_is_less_than_one_from_its_exact_share(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    shares = weights if any(weights) else [1] * len(weights)
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - Fraction(total * share, sum(shares))) < 1
        assert part == 0 or share > 0, "who has no share bears nothing"


@given(total=amounts, work=st.dictionaries(keys, amounts), weights=st.dictionaries(keys, st.floats(1e-6, 1e6)))
def test_all_of_a_pools_cost_is_borne_where_there_is_anybody(
    total: int, work: dict[tuple[str, str], int], weights: dict[tuple[str, str], float]
) -> None:
    borne = attribute(total, work, weights)
    assert sum(borne.values()) == (total if any(work.values()) or weights else 0)
    if any(work.values()):
        assert {key for key, cost in borne.items() if cost} <= {key for key, amount in work.items() if amount}


def test_idle_time_is_borne_as_the_work_is_and_by_weight_where_there_was_none() -> None:
    weights = {("acme", "big"): 3.0, ("globex", "big"): 1.0}
    assert attribute(1000, {("acme", "big"): 10, ("globex", "big"): 30}, weights) == {
        ("acme", "big"): 250,
        ("globex", "big"): 750,
    }
    assert attribute(1000, {("acme", "big"): 0}, weights) == {("acme", "big"): 750, ("globex", "big"): 250}
    assert attribute(1000, {}, {}) == {}


def test_a_remainder_goes_to_the_largest_fraction_first() -> None:
    assert split(10, [1, 1, 1]) == [4, 3, 3]
    assert split(7, [10, 45, 45]) == [1, 3, 3]
    assert split(5, [0, 0]) == [3, 2]


@pytest.mark.parametrize(("total", "weights"), [(1, []), (-1, [1]), (1, [1, -1])])
def test_what_cannot_be_split_is_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="split"):
        split(total, weights)


def test_a_dedicated_pool_is_its_tenants_whoever_was_let_in() -> None:
    work, own = {("acme", "big"): 10, ("globex", "big"): 30}, {("acme", "big"): 1.0}
    assert attribute(100, bearers(work, own, dedicated=True), own) == {("acme", "big"): 100}
    assert attribute(100, bearers({("globex", "big"): 30}, own, dedicated=True), own) == {("acme", "big"): 100}
    assert bearers(work, own, dedicated=False) == work
    assert bearers(work, {}, dedicated=True) == work, "of a pool that is no more nobody knows whose it was"


def test_an_hour_costs_what_an_hour_does_asleep_or_awake() -> None:
    assert paid(Role.HOT, HOUR, 0, 0, 2.5) == Paid(HOUR, 2_500_000)
    assert paid(Role.WARM, 0, HOUR, 0, 2.5) == Paid(HOUR, 2_500_000)
    assert paid(Role.HOT, 0, 0, HOUR, 2.5) == Paid(HOUR, 2_500_000), "its engine is gone, its machine is not"
    assert paid(Role.COLD, 0, 0, HOUR, 2.5) == Paid(0, 0), "it is not rented before it is started"
    assert paid(Role.COLD, HOUR, 0, HOUR, 2.5) == Paid(HOUR, 2_500_000)
    assert paid(Role.WARM, HOUR, 0, 0, 2.5, pools=2) == Paid(HOUR // 2, 1_250_000)


@given(times=st.lists(st.integers(0, HOUR), min_size=1, max_size=50), cost=st.floats(0, 1e4))
def test_rounding_of_periods_loses_less_than_half_a_micro_unit_each(times: list[int], cost: float) -> None:
    found = sum(paid(Role.HOT, time, 0, 0, cost).cost for time in times)
    assert abs(found - Fraction(sum(times) * round(cost * MICRO), HOUR)) <= Fraction(len(times), 2)
