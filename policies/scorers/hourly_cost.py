"""What an endpoint costs.

Floor: `policies`, pure. Beside a time in seconds its weight is what an hour's unit of currency is worth in seconds of
waiting: with `hourly-cost: 0.01`, a GPU that costs 4 more an hour is preferred only where it is 40 ms faster.
"""

from __future__ import annotations

from typing import ClassVar

from policies.view import View
from policies.waiting import Waiting


class HourlyCost:
    """The configured cost per hour, whatever the load."""

    name: ClassVar[str] = "hourly-cost"

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [state.endpoint.hourly_cost for state in view.states]
