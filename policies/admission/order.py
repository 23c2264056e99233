"""Who goes next: the shortest predicted prefill, with ageing, tiers and lanes.

Floor: `policies`, pure. Ordering the wait matters more than knowing the caches exactly (facts/routing.md, policy D):
at 105 % load short prompts wait 1.3 s instead of 44-400 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from operator import itemgetter

from policies.cost import cached_tokens, own_seconds
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, Lane

# One step of tier priority, in seconds of prefill (about 7,500 tokens, or 10 s of age at κ = 0.05): a better tier goes
# ahead of all usual prompts, but cannot starve the next tier.
TIER_SECONDS = 0.5

# How far the batch lane stands behind, in seconds of prefill. More than the prefill of a 75,000-token prompt (13 s at
# the priors), so interactive work goes first; and after 15/0.05 = 300 s a batch request stands level with a fresh
# one, before the 600 s at which OpenAI's SDKs give up.
BATCH_SECONDS = 15.0


class ShortestPrefillFirst:
    """Ascending: predicted own prefill at the best endpoint + tier + lane less κ·age, all in seconds.

    As only age grows, every request comes first in the end. `kappa`: seconds of prefill that a second of age is worth.
    """

    def __init__(self, kappa: float = 0.05) -> None:
        self._kappa = kappa

    def first(
        self, waiting: Sequence[InferenceRequest], states: Sequence[EndpointState], now: float, window: int
    ) -> Sequence[InferenceRequest]:
        """At most `window` requests, the next one first; equals in the order in which they were given.

        Of more than `window` those are looked at that stand best before their prefill is known: matching every prompt
        of a long queue with every endpoint would cost more than the order gains.
        """
        if len(waiting) > window:
            waiting = nsmallest(window, waiting, key=lambda request: self._standing(request, now))
        if len(waiting) < 2:
            return list(waiting)
        available = [state for state in states if state.available(now)]
        keyed = [(self._standing(one, now) + _least_own(one, available), one) for one in waiting]
        keyed.sort(key=itemgetter(0))
        return [request for _, request in keyed]

    def _standing(self, request: InferenceRequest, now: float) -> float:
        lane = BATCH_SECONDS if request.lane is Lane.BATCH else 0.0
        return lane + TIER_SECONDS * request.tier_priority - self._kappa * (now - request.arrived_at)


def _least_own(request: InferenceRequest, states: Sequence[EndpointState]) -> float:
    """The shortest predicted prefill (seconds) over the endpoints; 0 without any."""
    least = None
    for state in states:
        cached = cached_tokens(state, request)
        own = own_seconds(state.rates, request.prompt_tokens - cached, cached)
        if least is None or own < least:
            least = own
    return least or 0.0
