"""How full an engine's KV cache is.

Floor: `policies`, pure. An engine whose cache is full preempts or queues what it gets.
"""

from __future__ import annotations

from typing import ClassVar

from policies.endpoint_state import EndpointState
from policies.scorers.engine_load import STALE_SECONDS, freshness
from policies.view import View
from policies.waiting import Waiting


class KvUsage:
    """Share in use, 0 to 1: the larger of what the engine last reported and what our requests in flight need.

    The first is as old as the scrape, fades with its age and does not count after `stale_seconds`; the second knows
    this very moment but nothing of other clients. 0 where neither is known.
    """

    name: ClassVar[str] = "kv-usage"

    def __init__(self, stale_seconds: float = STALE_SECONDS) -> None:
        self._stale = stale_seconds

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [max(self._reported(state, view.now), _sent(state)) for state in view.states]

    def _reported(self, state: EndpointState, now: float) -> float:
        return state.kv_usage * freshness(state, now, self._stale) if state.kv_usage is not None else 0.0


def _sent(state: EndpointState) -> float:
    capacity = state.kv_capacity_tokens
    return min(1.0, state.kv_tokens / capacity) if capacity else 0.0
