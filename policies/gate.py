"""May this endpoint have this request now, or is it better held back?

Floor: `policies`, pure. Late binding: what waits at the gateway can still go elsewhere and be overtaken by shorter
work, what waits inside an engine cannot. Ordering the wait is worth more than knowing the caches exactly
(facts/routing.md, policy D: .90 X goodput against .77 sent at once and .81 of an oracle that sends at once).
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.view import View
from policies.waiting import Waiting

# θ, seconds of predicted prefill in front of a request at an engine. Enough that the engine never runs dry between two
# passes, small enough that little is bound early; .1 to 2 make no difference (facts/routing.md). That was seen on an
# A100; where all takes ten times as long so does θ, or such an engine would run dry at every first token: what is sent
# then misses the step that begins (closed loop, prompts of 1,000 tokens, answers of 8: 15 % of the throughput).
WAIT_SECONDS = 0.4

# Share of an engine's KV cache that requests in flight may need together. Above it the engine preempts or queues what
# it was sent, out of our order. The rest absorbs answers that get longer than expected.
KV_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Gate:
    """`wait_seconds`: θ at an engine that is as fast as the priors (`policies.cost.Rates`) or faster; slower ones have
    as many times more. `kv_share`: of the KV capacity, where that is known."""

    wait_seconds: float = WAIT_SECONDS
    kv_share: float = KV_SHARE

    def shut(self, view: View) -> bool:
        """Whether nothing at all can be sent now: the usual end of a pass under load."""
        theta, planned, slower, states = self.wait_seconds, view.planned, view.slower, view.states
        column = view.unshut
        if column >= 0 and planned[column] < theta * slower[column]:
            return False
        for column in view.open:  # a generator would cost twice as much, and every look at a request asks
            if planned[column] < theta * slower[column] or not states[column].in_flight:
                view.unshut = column
                return False
        return True

    def admits(self, view: View, column: int, waiting: Waiting) -> bool:
        """Whether the endpoint may have the request. An idle engine always takes one: a request larger than the gate
        would wait forever otherwise."""
        state = view.states[column]
        if not state.in_flight:
            return True
        if view.planned[column] >= self.wait_seconds * view.slower[column]:
            return False
        capacity = state.kv_room_tokens
        if capacity is None:
            return True
        needed = state.kv_tokens + view.kept_kv[column] + state.added_kv(waiting.request)
        return needed <= self.kv_share * capacity
