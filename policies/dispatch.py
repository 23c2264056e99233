"""One pass over a pool: who of the waiting is sent where, now.

Floor: `policies`, pure. Choosing and charging happen here in one synchronous run, so a later request of the pass sees
the load and the affinity of those sent before it, and no await can come between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from policies.decision import Decision
from policies.endpoint_state import EndpointState
from policies.profile import Profile
from policies.types import Rejection
from policies.view import View, Whole
from policies.waiting import Waiting

# W, waiting requests looked at in one pass (facts/routing.md): enough for the order to matter, and few enough that a
# pass over 16 endpoints takes well under a millisecond (`make bench-decide`).
WINDOW = 64

# Requests sent in one pass over a part of a pool: by then half of those with the least to do have more, and others of
# the pool may have less.
SENT_OF_PART = 12


class Line(Protocol):
    """Who waits, in order."""

    def __len__(self) -> int: ...

    def next(self, view: View, window: int) -> Sequence[Waiting]:
        """At most `window` of the waiting requests, the next one first, refreshed for this view."""

    def again(self, view: View, window: int) -> Sequence[Waiting]:
        """At most `window` of those that have failed at an endpoint, the one that came first first."""

    def allows(self, waiting: Waiting) -> bool:
        """Whether it may be sent after all that this pass has sent."""


def plan(
    line: Line,
    states: Sequence[EndpointState],
    profile: Profile,
    now: float,
    commit: Callable[[Waiting, Decision], None],
    window: int = WINDOW,
    whole: Whole | None = None,
) -> int:
    """Send what can be sent and return how many were. `whole`: what the states are a part of; no more than
    `SENT_OF_PART` are sent then.

    `commit` must reserve on the decision's choice before it returns; it may take the request out of the line. At most
    `window` requests are looked at: when as many were sent as could be there may be more, and the caller runs again.
    """
    if not len(line):
        return 0
    view = profile.look(states, now)
    if isinstance(view, Rejection):
        view = View(states, [], now)
    if whole is not None:
        view.belongs(whole)
    # Shut: the usual end under load, before any ordering is paid for. Only those whose endpoints have failed them are
    # looked at then: a standby may be open to them that others need not.
    shut = profile.shut(view)
    narrow: dict[frozenset[str], View | Rejection] = {}  # the pool without what has failed, since the last send
    sent = 0
    for waiting in line.again(view, window) if shut else line.next(view, window):
        if (shut and not waiting.excluded) or not line.allows(waiting):
            continue
        own: View | Rejection = view
        if waiting.excluded:
            own = _narrowed(view, waiting.excluded, profile, narrow)
        if isinstance(own, Rejection) or (waiting.excluded and profile.shut(own)):
            continue
        if own is not view:  # each plans for all
            own.forget_terms()
            view.forget_terms()
        decision = profile.place(waiting, own)
        if decision is not None:
            commit(waiting, decision)
            view.sent(decision.column)
            profile.sent(view)
            narrow.clear()
            sent += 1
            if whole is not None and sent >= SENT_OF_PART:
                break
        shut = profile.shut(view)
    return sent


def _narrowed(
    view: View, excluded: frozenset[str], profile: Profile, known: dict[frozenset[str], View | Rejection]
) -> View | Rejection:
    own = known.get(excluded)
    if own is None:
        own = known[excluded] = profile.look(view.states, view.now, excluded)
        if isinstance(own, View):
            if view.whole is not None:
                own.belongs(view.whole)
            own.planned, own.kept_kv = view.planned, view.kept_kv  # what is held back counts for all
    return own
