"""The predicted time to first token, in which own work counts more than the wait.

Floor: `policies`, pure. In seconds, so it needs no tuning against load: the wait, the uncached prefill and the decodes
beside it are all in it (`policies/cost.py`).
"""

from __future__ import annotations

from typing import ClassVar

from policies.view import View
from policies.waiting import Waiting

# λ, how much an own prefill counts beyond its time, because it also delays all that come after it: at a pool whose
# endpoints are all busy twice. From 0 to 2 nothing changes much, beyond that it is worse (facts/routing.md).
STICKINESS = 1.0


class PredictedTtft:
    """Seconds until the first token if sent now, and λ times the part of it that is the request's own:
    wait·f + (1+λ)·(own·f + dstep), policy D of facts/routing.md.

    λ = `stickiness` · share of endpoints with a pending prefill (L there): where engines are idle, waiting for a cached
    prefix is not paid for twice. `stickiness` 0 is the plain time to first token. Seconds for which an endpoint has
    been late with a sign of life are added (`policies.silence`).
    """

    name: ClassVar[str] = "predicted-ttft"

    def __init__(self, stickiness: float = STICKINESS) -> None:
        self._stickiness = stickiness

    def score(self, waiting: Waiting, view: View) -> list[float]:
        found, share = view.terms(1.0 + self._stickiness * view.busy_share)
        return [before + part * own for before, part, own in zip(found, share, waiting.own, strict=True)]
