"""The engine's order is the gateway's own, with the arrival in Unix time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.admission.order import BATCH_SECONDS, ShortestPrefillFirst
from policies.priority import priority
from policies.types import Lane
from tests.policies.builders import make_request

WALL = 1_800_000_000.0  # a Unix time of 2027
SECONDS = st.floats(0.0, 100.0)


def test_it_is_milliseconds_of_own_prefill_and_a_twentieth_of_the_arrival() -> None:
    assert priority(make_request(), 0.25, WALL) == 250 + 90_000_000_000
    assert priority(make_request(), 0.25, WALL + 1.0) == 300 + 90_000_000_000


def test_the_monotonic_arrival_does_not_matter_so_that_replicas_compare() -> None:
    assert priority(make_request(arrived_at=5.0), 1.0, WALL) == priority(make_request(arrived_at=9e6), 1.0, WALL)


@given(SECONDS, SECONDS, SECONDS, SECONDS)
def test_whoever_goes_first_at_the_gateway_goes_first_in_the_engine(
    a: float, b: float, own_a: float, own_b: float
) -> None:
    order = ShortestPrefillFirst()
    first, second = make_request("a", arrived_at=a), make_request("b", arrived_at=b)
    gateway = (own_a + order.standing(first)) - (own_b + order.standing(second))
    engine = priority(first, own_a, WALL + a) - priority(second, own_b, WALL + b)
    if abs(gateway) > 0.002:
        assert (gateway > 0) == (engine > 0)


def test_a_better_tier_goes_first_and_batch_work_last() -> None:
    usual, gold = make_request(tier_priority=20), make_request(tier_priority=10)
    assert priority(gold, 1.0, WALL) < priority(usual, 1.0, WALL)
    batch = replace(usual, lane=Lane.BATCH)
    assert priority(batch, 1.0, WALL) - priority(usual, 1.0, WALL) == 1000 * BATCH_SECONDS


def test_it_fits_into_what_vllm_takes_for_any_configuration() -> None:
    worst = ShortestPrefillFirst(ageing=100.0, tier_seconds=86_400.0, batch_seconds=86_400.0)
    request = replace(make_request(tier_priority=1_000_000), lane=Lane.BATCH)
    assert abs(priority(request, 86_400.0, 4e9, worst)) < 2**63
