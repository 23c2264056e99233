"""One pass over a pool: who of the waiting is sent where, now.

Floor: `policies`, pure. Choosing and charging happen here in one synchronous run, so a later request of the pass sees
the load and the affinity of those sent before it, and no await can come between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policies.decision import Decision
from policies.endpoint_state import EndpointState
from policies.interface import QueueOrder
from policies.profile import Profile
from policies.types import InferenceRequest, Rejection

# Waiting requests looked at in one pass (facts/routing.md, W): enough for the order to matter, and few enough that a
# pass over 16 endpoints and prompts of 500 blocks takes a few milliseconds.
WINDOW = 64


def plan(
    waiting: Sequence[InferenceRequest],
    states: Sequence[EndpointState],
    profile: Profile,
    order: QueueOrder,
    now: float,
    commit: Callable[[InferenceRequest, Decision], None],
    window: int = WINDOW,
    excluded: Callable[[InferenceRequest], frozenset[str]] = lambda request: frozenset(),
) -> int:
    """Send what can be sent and return how many were.

    `commit` must reserve on the decision's choice before it returns; it may take the request out of `waiting`. At most
    `window` requests are looked at: when that many were sent there may be more to send, and the caller runs again.
    `excluded`: the endpoints that have failed a request already.
    """
    if not waiting or profile.blocked(states, now) is not None:
        return 0  # the usual end under overload, before any ordering is paid for
    sent = 0
    for request in order.first(waiting, states, now, window):
        failed = excluded(request)
        decision = profile.rank(request, states, now, failed)
        if isinstance(decision, Rejection):
            if failed:
                continue  # others may still go where this one must not
            break  # filters judge endpoints, not requests: what stops this one stops all that follow
        commit(request, decision)
        sent += 1
    return sent
