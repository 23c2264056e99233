"""What a request costs by its engine's time.

Floor: tests only.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.admission.engine_time import MOST, charged, engine_cost, highest_cost
from policies.admission.fairness import work_seconds
from policies.admission.limit import Prices, Use
from policies.admission.limits import LimitGrant, LimitRules, TenantLimits, in_memory
from policies.endpoint_state import EndpointState
from policies.types import LimitSpec, Rejection, RejectReason
from tests.policies.builders import make_state


def state(hourly_cost: float) -> EndpointState:
    one = make_state("e0")
    one.endpoint = replace(one.endpoint, hourly_cost=hourly_cost)
    return one


def test_an_hour_of_work_costs_what_the_hour_does() -> None:
    one = state(4.0)
    use = Use(2_000, 300, cached=500)
    seconds = work_seconds(one.rates, 1_500, 500, 300)
    assert engine_cost(one, use) == pytest.approx(seconds / 3600 * 4_000_000, abs=1)
    assert engine_cost(one, use) >= seconds / 3600 * 4_000_000, "rounded up: many small requests are not free"


def test_more_cached_than_there_is_of_a_prompt_is_all_of_it() -> None:
    one = state(4.0)
    assert engine_cost(one, Use(100, 0, cached=1_000)) == engine_cost(one, Use(100, 0, cached=100))


def test_a_finished_request_is_charged_by_its_prices_or_by_its_engines_time() -> None:
    one, use = state(4.0), Use(2_000, 300, cached=500)
    micro_seconds = round(work_seconds(one.rates, 1_500, 500, 300) * 1e6)
    assert charged(one, use, None) == (micro_seconds, engine_cost(one, use))
    assert charged(one, use, Prices(2.0, 10.0, 0.5)) == (micro_seconds, 2 * 1_500 + 250 + 3_000)


def test_absurd_counts_make_no_sum_that_a_database_cannot_hold() -> None:
    assert charged(state(1e6), Use(2**40, 2**40), None) == (MOST, MOST)
    assert charged(state(1e6), Use(2**40, 2**40), Prices(1e6, 1e6, 1e6))[1] == MOST


def test_before_an_endpoint_is_chosen_the_dearest_counts() -> None:
    cheap, dear = state(1.0), state(10.0)
    use = Use(1_000, 100)
    assert highest_cost([cheap, dear], use) == engine_cost(dear, use) > engine_cost(cheap, use)
    assert highest_cost([], use) == engine_cost(state(0.0), use) == 0


def test_a_limit_of_money_counts_engine_time_where_there_are_no_prices() -> None:
    limits = TenantLimits(LimitRules(LimitSpec(money_per_month=100), prices={}), in_memory(1_770_000_000.0))
    grant = limits.admit(0.0, Use(engine_cost=100), model="big")
    assert isinstance(grant, LimitGrant)
    refused = limits.admit(1.0, Use(engine_cost=1), model="big")
    assert isinstance(refused, Rejection)
    assert refused.reason is RejectReason.MONEY_PER_MONTH
    grant.settle(2.0, Use(engine_cost=40))
    assert isinstance(limits.admit(3.0, Use(engine_cost=60), model="big"), LimitGrant)
    assert isinstance(limits.admit(3.0, Use(engine_cost=1), model="big"), Rejection)
