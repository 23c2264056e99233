"""What a request costs by the time that it takes of an engine, where its model has no prices.

Floor: `policies`, pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from policies.admission.fairness import work_seconds
from policies.admission.limit import Prices, Use
from policies.endpoint_state import EndpointState

_MICRO_PER_HOUR: Final = 1_000_000 / 3600
# 36 years, and 10^9 of a currency: an engine that reports absurd counts must not make a sum that no database can hold.
MOST: Final = 2**50


def engine_seconds(state: EndpointState, use: Use) -> float:
    """Of the engine's time: those of `fairness.work_seconds`, at the speed that has been learned of it."""
    cached = min(use.cached, use.prompt)
    return work_seconds(state.rates, use.prompt - cached, cached, use.output)


def time_cost(state: EndpointState, seconds: float) -> int:
    """Micro-units of the currency of `hourly_cost` for so much of the endpoint's time, rounded up."""
    return math.ceil(seconds * state.endpoint.hourly_cost * _MICRO_PER_HOUR)


def engine_cost(state: EndpointState, use: Use) -> int:
    """Micro-units of the currency of `hourly_cost`, rounded up: the endpoint's cost per second times the seconds of
    `engine_seconds`. Its idle time is nobody's."""
    return time_cost(state, engine_seconds(state, use))


def charged(state: EndpointState, use: Use, prices: Prices | None) -> tuple[int, int]:
    """What a finished request has cost: microseconds of its engine (to the nearest), and micro-units of money, by its
    model's prices or, without them, by `engine_cost`. No more of either than MOST."""
    seconds = min(engine_seconds(state, use), MOST / 1e6)
    cost = time_cost(state, seconds) if prices is None else prices.of(use)
    return round(seconds * 1e6), min(cost, MOST)


def highest_cost(states: Iterable[EndpointState], use: Use) -> int:
    """The same before an endpoint is chosen, by the dearest."""
    return max((engine_cost(state, use) for state in states), default=0)
