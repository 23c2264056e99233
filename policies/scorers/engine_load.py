"""The number of requests at an engine, also those that others have sent there.

Floor: `policies`, pure. Routers that only read the engine's gauges send a whole burst to the engine that was empty a
scrape ago (facts/routing.md: stale load is the real danger). So our own requests are counted as they are now, and only
those of others are taken from the last scrape.
"""

from __future__ import annotations

from typing import ClassVar

from policies.endpoint_state import EndpointState
from policies.view import View
from policies.waiting import Waiting

# Age (seconds) at which an engine's own figures count no more: five scrapes missed at the default interval. From half
# of it on they count less and less, so that nothing changes all at once where scraping is slow or broken.
STALE_SECONDS = 10.0
FADES_FROM = 0.5


class EngineLoad:
    """Requests running or waiting in the engine once this one is there, per unit of the endpoint's weight.

    Engine-reported ones beyond what we had there at that scrape, and what we have there now. The first fade with their
    age, and count no more after `stale_seconds`.
    """

    name: ClassVar[str] = "engine-load"

    def __init__(self, stale_seconds: float = STALE_SECONDS) -> None:
        self._stale = stale_seconds

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [(state.in_flight + self._foreign(state, view.now) + 1) / state.endpoint.weight for state in view.states]

    def _foreign(self, state: EndpointState, now: float) -> float:
        if state.engine_running is None:
            return 0.0
        foreign = state.engine_running + (state.engine_waiting or 0.0) - state.in_flight_scraped
        return max(0.0, foreign) * freshness(state, now, self._stale)


def freshness(state: EndpointState, now: float, stale_seconds: float) -> float:
    """How much the engine's own figures count, by their age: 1 while they are young, 0 from `stale_seconds` on."""
    if state.scraped_at is None:
        return 0.0
    left = 1.0 - (now - state.scraped_at) / stale_seconds
    return max(0.0, min(1.0, left / (1.0 - FADES_FROM)))
