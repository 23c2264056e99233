"""Which endpoint of a pool fails far more often than the others, and how many may be out at once.

Floor: `policies`, pure. A circuit sees failures in a row; an endpoint at which every fifth request fails is never seen
by it. Both, and the verdict that an engine hangs, take an endpoint out only while enough others are left: where all
fail, the cause is hardly an endpoint's own, and trying a doubtful engine beats refusing everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policies.types import Role

if TYPE_CHECKING:  # states hold their health, and that its fellows
    from policies.endpoint_state import EndpointState
    from policies.health import EndpointHealth

WINDOW_SECONDS = 30.0

# From how many attempts on a share means something, and failures that are more than a run of bad luck.
LEAST_ATTEMPTS = 10
LEAST_FAILURES = 5

# Far above the others: so many times their share of failures, and a tenth of all attempts more. Of two endpoints that
# both fail at one request in fifty neither is ever out.
FACTOR = 3.0
EXCESS = 0.1

# Endpoints of a pool that may be out at once: half of them carry the load for a while, fewer would fall over too.
MAX_EJECTED_SHARE = 0.5


class Fellows:
    """The endpoints of one pool, as far as the ejection of one depends on the others."""

    __slots__ = ("_max_share", "_states")

    def __init__(self, states: Sequence[EndpointState], max_share: float = MAX_EJECTED_SHARE) -> None:
        self._states = states
        self._max_share = max_share

    def join(self) -> None:
        """From now on these bounds count for the states."""
        for state in self._states:
            state.health.fellows = self

    def may_eject(self, health: EndpointHealth) -> bool:
        """Whether this one may be taken out too: within the share, and somebody is left who is not known dead."""
        out = sum([state.health.ejected for state in self._states])
        if out + 1 > self._max_share * len(self._states) + 1e-9:
            return False
        return any(state.health is not health and _stays(state) for state in self._states)

    def is_outlier(self, health: EndpointHealth, now: float) -> bool:
        """Whether it fails far more often than the others together."""
        attempts, failures = health.errors.samples(now), health.errors.bad(now)
        if attempts < LEAST_ATTEMPTS or failures < LEAST_FAILURES:
            return False
        others = [state.health.errors for state in self._states if state.health is not health]
        tried, failed = sum([one.samples(now) for one in others]), sum([one.bad(now) for one in others])
        if tried < LEAST_ATTEMPTS:
            return False  # nobody to compare it with
        return failures / attempts > FACTOR * failed / tried + EXCESS


def _stays(state: EndpointState) -> bool:
    """A standby counts though it may not run yet: it is brought up when the hot ones are out."""
    if state.draining or state.withdrawn or state.health.ejected:
        return False
    return state.health.reachable or state.endpoint.role is not Role.HOT
