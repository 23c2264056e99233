"""The work an endpoint has still to do, in tokens.

Floor: `policies`, pure. Blind to caches, but better than counting requests: prompts differ by a
factor of 1000.
"""

from __future__ import annotations

from typing import ClassVar

from policies.cost import Forecast, expected_output
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest


class OutstandingTokens:
    """Tokens outstanding once this request is there, per unit of the endpoint's weight."""

    name: ClassVar[str] = "outstanding-tokens"

    def score(self, request: InferenceRequest, state: EndpointState, forecast: Forecast, now: float) -> float:
        added = request.prompt_tokens + expected_output(request)
        return (state.outstanding_tokens + added) / state.endpoint.weight
