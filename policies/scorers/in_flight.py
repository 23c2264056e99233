"""The number of requests an endpoint has.

Floor: `policies`, pure. The plainest load there is, kept for comparison.
"""

from __future__ import annotations

from typing import ClassVar

from policies.view import View
from policies.waiting import Waiting


class InFlight:
    """Requests in flight once this one is there, per unit of the endpoint's weight."""

    name: ClassVar[str] = "in-flight"

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [(state.in_flight + 1) / state.endpoint.weight for state in view.states]
