"""Warm endpoints that take what the hot ones have no room for.

Floor: `policies`, pure. In place of `best-role` in pools that ask for it; others do not pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.admission.saturation import pool_load
from policies.endpoint_state import EndpointState
from policies.filters import BestRole
from policies.types import Role


class Overflow(BestRole):
    """As `BestRole`, and from a saturation of the serving endpoints of `above` on the available warm ones too, while
    one more there is no more than `share` of what is in flight: .2 is a split of 80 to 20. One they may always have:
    hot endpoints can be full with a single prompt."""

    def __init__(self, share: float, above: float) -> None:
        self._share = share
        self._above = above

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        kept = super().keep(states, now)
        if len(kept) == len(states) or pool_load(kept, now).saturation < self._above:
            return kept
        spare = [state for state in states if state.endpoint.role is Role.WARM and state not in kept]
        theirs = sum([state.in_flight for state in spare])
        ours = sum([state.in_flight for state in kept])
        helps = not theirs or theirs + 1 <= self._share * (ours + theirs + 1) + 1e-9
        return [*kept, *spare] if helps else kept
