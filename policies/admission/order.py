"""Who goes next: the shortest predicted prefill, with ageing, tiers and lanes.

Floor: `policies`, pure. Ordering the wait matters more than knowing the caches exactly (facts/routing.md, policy D):
at 105 % load short prompts wait 1.3 s instead of 44-400 s. As age grows for all alike, own - κ·age orders as
own + κ·arrival does: a key that never changes, so the queue can be kept sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.types import InferenceRequest, Lane

# κ, seconds of prefill that a second of age is worth; .01 to 1 make no difference (facts/routing.md).
AGEING = 0.05

# One step of tier priority, in seconds of prefill (about 7,500 tokens, or 10 s of age at κ = 0.05): a better tier goes
# ahead of all usual prompts, but cannot starve the next tier.
TIER_SECONDS = 0.5

# How far the batch lane stands behind, in seconds of prefill. More than the prefill of a 75,000-token prompt (13 s at
# the priors), so interactive work goes first; and after 15/0.05 = 300 s a batch request stands level with a fresh
# one, before the 600 s at which OpenAI's SDKs give up.
BATCH_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ShortestPrefillFirst:
    """Ascending: predicted own prefill at the best endpoint + tier + lane - κ·age, all in seconds.

    As only age grows, every request comes first in the end. `ageing`: κ.
    """

    ageing: float = AGEING
    tier_seconds: float = TIER_SECONDS
    batch_seconds: float = BATCH_SECONDS

    def standing(self, request: InferenceRequest) -> float:
        """The part of the key that never changes: all but the own prefill. Seconds, lower goes first."""
        lane = self.batch_seconds if request.lane is Lane.BATCH else 0.0
        return lane + self.tier_seconds * request.tier_priority + self.ageing * request.arrived_at
