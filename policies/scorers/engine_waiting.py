"""The number of requests that wait inside an engine.

Floor: `policies`, pure. The engine's own word, as old as its last scrape: for profiles in the manner of other routers,
or a small weight beside a prediction.
"""

from __future__ import annotations

from typing import ClassVar

from policies.endpoint_state import EndpointState
from policies.scorers.engine_load import STALE_SECONDS, freshness
from policies.view import View
from policies.waiting import Waiting


class EngineWaiting:
    """Requests waiting per unit of the endpoint's weight; where no scrape is young enough, those that we have sent and
    that have no first token yet. In between a mixture."""

    name: ClassVar[str] = "engine-waiting"

    def __init__(self, stale_seconds: float = STALE_SECONDS) -> None:
        self._stale = stale_seconds

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [self._waiting(state, view.now) / state.endpoint.weight for state in view.states]

    def _waiting(self, state: EndpointState, now: float) -> float:
        own = float(state.pending_prefills)
        if state.engine_waiting is None:
            return own
        return own + (state.engine_waiting - own) * freshness(state, now, self._stale)
