"""The predicted time to first token.

Floor: `policies`, pure. In seconds, so it needs no tuning against load: the wait, the uncached prefill and the decodes
beside it are all in it (`policies/cost.py`).
"""

from __future__ import annotations

from typing import ClassVar

from policies.cost import Forecast
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest


class PredictedTtft:
    """Seconds until the first token if the request were sent now."""

    name: ClassVar[str] = "predicted-ttft"

    def score(self, request: InferenceRequest, state: EndpointState, forecast: Forecast, now: float) -> float:
        return forecast.ttft_seconds
