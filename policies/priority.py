"""In which order engines should serve what they were sent: vLLM's `priority`, for profiles that send at once.

Floor: `policies`, pure. Policy B of facts/routing.md: the fallback where requests do not wait at the gateway. The key
is that of the gateway's own queue (`admission/order.py`), with the arrival in Unix time, so that what several replicas
and restarted ones send to an engine compares. vLLM takes any 64-bit integer and serves the lowest first under
`--scheduling-policy priority`; under its default policy the number does nothing (run on 0.32).
"""

from __future__ import annotations

from policies.admission.order import ShortestPrefillFirst
from policies.types import InferenceRequest

UNITS_PER_SECOND = 1000  # priorities are whole numbers: milliseconds of prefill, 20 ms of age at κ = 0.05


def priority(
    request: InferenceRequest,
    own_seconds: float,
    wall_arrival: float,
    order: ShortestPrefillFirst = ShortestPrefillFirst(),  # noqa: B008 - frozen
) -> int:
    """The engine's priority for a request: lower goes first. `own_seconds`: its predicted prefill where it is sent;
    `wall_arrival`: Unix seconds."""
    standing = order.standing(request) + order.ageing * (wall_arrival - request.arrived_at)
    return round(UNITS_PER_SECOND * (own_seconds + standing))
