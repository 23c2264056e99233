"""What happens to endpoints, told to operators: a log line for each change, with its reason, and a count of ejections.

Floor: an adapter. It finds out by looking, as what decides (`policies`) tells nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from policies.endpoint_state import EndpointState
from policies.health import Cause
from router.metrics import Metrics

_log = logging.getLogger("promptlane.health")

REASONS = {
    "draining": "it gets nothing new",
    "failures": "requests fail there in a row",
    "half-open": "its time is over; a canary or a request is to show whether it works",
    "healthy": "it gets all that it can take",
    "hung": "it is silent, and a canary got no answer",
    "outlier": "requests fail there far more often than at the pool's other endpoints",
    "paused": "it says that it computes nothing for now",
    "sleeping": "it says that it sleeps",
    "starting": "it works, and gets more and more",
    "suspected": "it has been silent for longer than ever before; a canary is under way",
    "unhealthy": "its probes fail",
    "unready": "its pod is not ready, and gets nothing new",
    "unknown": "it has not been probed yet",
}
WARNED_OF = frozenset({"failures", "hung", "outlier", "paused", "unhealthy"})


class StatusLog:
    """Of one pool's endpoints."""

    def __init__(self, pool: str, states: Sequence[EndpointState], metrics: Metrics, now: float) -> None:
        self._pool = pool
        self._metrics = metrics
        self._status: dict[int, str] = {}
        self._ejections: dict[int, dict[Cause, int]] = {}
        self.follow(states, now)

    def follow(self, states: Sequence[EndpointState], now: float) -> None:
        """From now on of these; nothing is told of those that are new."""
        known, ejections = self._status, self._ejections
        self._status = {id(state): known.get(id(state), state.status(now)) for state in states}
        self._ejections = {id(state): ejections.get(id(state), dict(state.health.ejections)) for state in states}

    def look(self, state: EndpointState, now: float) -> None:
        """Tells what has changed since the last look."""
        status, before = state.status(now), self._status[id(state)]
        if status != before:
            self._status[id(state)] = status
            level = logging.WARNING if status in WARNED_OF else logging.INFO
            _log.log(level, "endpoint %s was %s and is %s: %s", state.endpoint.name, before, status, REASONS[status])
        counted = self._ejections[id(state)]
        for cause, number in state.health.ejections.items():
            if number > counted[cause]:
                labels = (self._pool, state.endpoint.name, cause.value)
                self._metrics.add("promptlane_endpoint_ejections", *labels, amount=number - counted[cause])
                counted[cause] = number
