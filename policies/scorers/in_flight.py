"""The number of requests an endpoint has.

Floor: `policies`, pure. The plainest load there is, kept for comparison.
"""

from __future__ import annotations

from typing import ClassVar

from policies.cost import Forecast
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest


class InFlight:
    """Requests in flight once this one is there, per unit of the endpoint's weight."""

    name: ClassVar[str] = "in-flight"

    def score(self, request: InferenceRequest, state: EndpointState, forecast: Forecast, now: float) -> float:
        return (state.in_flight + 1) / state.endpoint.weight
