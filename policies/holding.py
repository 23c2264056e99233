"""Who may wait while a standby wakes: so many requests of each tier, each for so long.

Floor: `policies`, pure. A request that is held is on the books until it is released, served or not.
"""

from __future__ import annotations

from policies.waiting import Waiting


class Holding:
    """The held requests of one pool, counted by tier."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}  # by tier; bounded by the configuration's tiers

    def __len__(self) -> int:
        return sum(self.held.values())

    def keep(self, waiting: Waiting, now: float) -> bool:
        """Whether the request may go on waiting though nobody can take it now."""
        tier = waiting.request.tier
        if waiting.held_since is not None:
            return now - waiting.held_since < tier.hold_seconds
        count = self.held.get(tier.name, 0)
        if count >= tier.hold_requests or tier.hold_seconds <= 0:
            return False
        self.held[tier.name] = count + 1
        waiting.held_since = now
        return True

    def release(self, waiting: Waiting) -> None:
        """The request waits no longer; idempotent, and nothing for one that was not held."""
        if waiting.held_since is not None:
            waiting.held_since = None
            self.held[waiting.request.tier.name] -= 1
