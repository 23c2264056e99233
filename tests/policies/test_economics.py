"""What tokens cost: realised, saturated, bought, and with another fleet.

Floor: tests only.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.economics import DAY, Observed, break_even, floor_cost, per_million, utilisation

counts = st.integers(1, 10**15)


def test_the_realised_cost_is_that_of_all_time_and_the_floor_that_of_the_work() -> None:
    # A day at 24.00, a quarter of it work, for 40 million tokens.
    assert per_million(24_000_000, 40_000_000) == 600_000
    assert floor_cost(DAY // 4, DAY, 24_000_000) == 6_000_000
    assert utilisation(DAY // 4, DAY) == 0.25
    assert per_million(1, 0) is None
    assert floor_cost(5, 0, 7) == 0
    assert utilisation(5, 0) is None


@given(cost=counts, work=counts, idle=st.integers(0, 10**15))
def test_the_floor_is_never_above_what_is_paid(cost: int, work: int, idle: int) -> None:
    assert floor_cost(work, work + idle, cost) <= cost
    assert floor_cost(work, work, cost) == cost


def test_own_endpoints_break_even_where_the_api_would_cost_as_much() -> None:
    found = break_even(cost=24_000_000, api_cost=12_000_000, tokens=10_000_000, used=0.2)
    assert (found.tokens, found.utilisation) == (20_000_000, 0.4)
    assert break_even(24, 0, 10, 0.2).tokens is None
    assert break_even(24, 12, 0, None).tokens is None


@given(cost=counts, api=counts, tokens=counts)
def test_at_the_break_even_the_api_costs_no_less(cost: int, api: int, tokens: int) -> None:
    equal = break_even(cost, api, tokens, 0.5).tokens
    assert equal is not None
    assert equal * api >= cost * tokens > (equal - 1) * api


def test_backwards_from_a_demand_and_from_a_budget() -> None:
    seen = Observed(work=DAY // 4, tokens=1_000_000, cost=24_000_000, paid=DAY)  # 4 million a day when full; 24.00 each
    need = seen.for_demand(10_000_000, target=1.0)
    assert (need.endpoints, need.tokens, need.cost) == (3, 12_000_000, 72_000_000)
    assert seen.for_demand(10_000_000, target=0.5).endpoints == 5
    can = seen.for_budget(100_000_000, target=0.5)
    assert (can.endpoints, can.tokens, can.cost) == (4, 8_000_000, 96_000_000)
    assert can.per_million == 12_000_000
    assert seen.for_budget(1, 0.5).endpoints == 0
    with pytest.raises(ValueError, match="nothing"):
        Observed(work=1, tokens=1, cost=0, paid=1).for_budget(5, 0.5)
    with pytest.raises(ValueError, match="no engine"):
        Observed(work=0, tokens=1, cost=1, paid=1)


@given(
    work=st.integers(10**3, 10**12),
    tokens=st.integers(10**3, 10**12),
    demand=st.integers(1, 10**12),
    target=st.floats(0.05, 1.0),
)
def test_the_fewest_endpoints_that_do(work: int, tokens: int, demand: int, target: float) -> None:
    seen = Observed(work, tokens, 1, DAY)
    need = seen.for_demand(demand, target)
    assert need.tokens >= demand
    assert need.endpoints == 1 or seen.fleet(need.endpoints - 1, target).tokens < demand
