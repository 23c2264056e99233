"""What a request costs by the time that it takes of an engine, where its model has no prices.

Floor: `policies`, pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from policies.admission.fairness import work_seconds
from policies.admission.limit import Use
from policies.endpoint_state import EndpointState

_MICRO_PER_HOUR: Final = 1_000_000 / 3600


def engine_cost(state: EndpointState, use: Use) -> int:
    """Micro-units of the currency of `hourly_cost`, rounded up: the endpoint's cost per second times the seconds of
    `fairness.work_seconds`, at the speed that has been learned of it. Its idle time is nobody's."""
    cached = min(use.cached, use.prompt)
    seconds = work_seconds(state.rates, use.prompt - cached, cached, use.output)
    return math.ceil(seconds * state.endpoint.hourly_cost * _MICRO_PER_HOUR)


def highest_cost(states: Iterable[EndpointState], use: Use) -> int:
    """The same before an endpoint is chosen, by the dearest."""
    return max((engine_cost(state, use) for state in states), default=0)
