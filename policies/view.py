"""One look at a pool: its endpoints as columns, so that a whole row of costs is one expression.

Floor: `policies`, pure. A view lives for one pass. What a pass sends is seen at once by what follows (`sent`), and so
is the work of a request that was held back (`held`): a later, smaller one must not take its place for free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policies.cost import slowdown, step_seconds, wait_seconds
from policies.endpoint_state import EndpointState
from policies.waiting import Versions, Waiting

# Seconds of waiting after which a request that stays back keeps its place in the engine's KV cache too: without it one
# that needs much KV and little work would wait as long as smaller ones keep coming; and if all kept theirs at once, an
# engine would run dry for the largest. vLLM itself admits nobody past the first that does not fit.
KV_PATIENCE = 5.0


class Whole(NamedTuple):
    """What a view shows only a part of: all `states` of a pool. Of those that may be sent to: their requests in flight,
    their weight, and the share of them that have a prefill pending."""

    states: Sequence[EndpointState]
    in_flight: int
    weight: float
    busy_share: float


class View:
    """`open`: the columns of the endpoints that may be sent to. Per column: `waits`, the predicted prefill of what was
    sent before, and `planned`, the same and what was held back for this endpoint in this pass (seconds); `steps`, a
    step of its decodes alone (seconds); `slowdowns`, by how much decodes stretch a prefill; `slower`, by how much more
    than at the priors' GPU a prefill takes, at least 1; `late`, for how long a sign of life is overdue (seconds);
    `versions`, see `Waiting`; `kept_kv`, KV tokens kept for those held back. `busy_share`: of the open endpoints, those
    that have a prefill pending (facts/routing.md, L).
    `whole`: of what, where the states are those alone that are worth a look (`policies.shortlist`).
    `slowest`: the most of `slower`. `unshut`: the open column that the gate last found not to be shut, -1 for none.
    """

    __slots__ = (
        "_found", "_share", "_stale", "_weight", "busy_share", "kept_kv", "late", "now", "open", "planned", "slowdowns",
        "slower", "slowest", "states", "steps", "unshut", "versions", "waits", "whole",
    )  # fmt: skip

    def __init__(self, states: Sequence[EndpointState], open_columns: list[int], now: float) -> None:
        self.states = states
        self.whole: Whole | None = None
        self.open = open_columns
        self.now = now
        # Every request pays for this: all are taken for idle at first, and only of the others more is asked.
        rates = [state.rates for state in states]
        none = [0.0] * len(rates)
        self.waits = waits = none.copy()
        self.late = none
        self.kept_kv = none.copy()
        self.steps = [one.step for one in rates]
        self.slowdowns = [one.idle_slowdown for one in rates]
        self.slower = [one.slower for one in rates]
        self.slowest = max(self.slower) if rates else 1.0
        self.versions: Versions = tuple([state.index.version for state in states])
        self._stale: dict[int, tuple[Versions, list[int]]] = {}
        busy = [column for column, state in enumerate(states) if state.in_flight]
        for column in busy:
            self._add_load(column)
        self.planned = waits.copy()
        self.unshut = -1
        self.busy_share = self._busy_share() if busy else 0.0
        # Of an idle pool it is known what `terms` would make of it.
        self._weight: float | None = None if busy else 1.0
        self._found, self._share = self.steps.copy(), self.slowdowns

    def _add_load(self, column: int) -> None:
        state, now = self.states[column], self.now
        step = self.steps[column] = step_seconds(state)
        self.waits[column] = wait_seconds(state, now)
        self.slowdowns[column] = slowdown(state.rates, step)
        self.late[column] = state.silence.overdue(now)

    def belongs(self, whole: Whole) -> None:
        """The endpoints are a few of these."""
        self.whole = whole
        self.busy_share, self._weight = whole.busy_share, None

    def refresh(self, waiting: Waiting) -> None:
        """Bring what is predicted of the request up to date with this view."""
        if waiting.versions is not self.versions:
            waiting.predict(self.states, self.versions, self._changed_since(waiting.versions))

    def terms(self, weight: float) -> tuple[list[float], list[float]]:
        """Per column, what a request finds there, wait·f + weight·dstep and what is overdue, and what each second of
        its own prefill counts for there, weight·f; seconds. Both are kept from one request of a pass to the next."""
        if weight != self._weight:
            self._weight = weight
            columns = zip(self.planned, self.slowdowns, self.steps, self.late, strict=True)
            self._found = [wait * slow + weight * step + late for wait, slow, step, late in columns]
            self._share = [weight * slow for slow in self.slowdowns]
        return self._found, self._share

    def forget_terms(self) -> None:
        """What is planned has been changed by another view of the same pass."""
        self._weight = None

    def held(self, column: int, waiting: Waiting) -> None:
        """A request stays back that would go here."""
        own = waiting.own[column]
        self.planned[column] += own
        self._found[column] += own * self.slowdowns[column]
        if self.now - waiting.request.arrived_at >= KV_PATIENCE:
            self.kept_kv[column] += self.states[column].added_kv(waiting.request)

    def sent(self, column: int) -> None:
        """A request went here and its reservation has been charged."""
        state = self.states[column]
        before = self.waits[column]
        self.waits[column] = wait_seconds(state, self.now)
        self.planned[column] += self.waits[column] - before
        self.versions = (*self.versions[:column], state.index.version, *self.versions[column + 1 :])
        self._stale = {}
        self._weight = None
        self.unshut = -1
        if state.full or (len(self.open) > 1 and state.gentle(self.now)):
            self.open = [other for other in self.open if other != column]
        self.busy_share = self._busy_share()

    def _changed_since(self, earlier: Versions) -> list[int]:
        """The columns that have changed. Asked once for all that were last looked at in the same pass: the answer is
        kept, with the tuple, as what an identity stands for must not be gone."""
        now = self.versions
        if len(earlier) != len(now):
            return []  # never looked at, or for other endpoints: all is predicted
        known = self._stale.get(id(earlier))
        if known is None:
            pairs = enumerate(zip(earlier, now, strict=True))
            changed = [column for column, (then, version) in pairs if then != version]
            known = self._stale[id(earlier)] = (earlier, changed)
        return known[1]

    def _busy_share(self) -> float:
        if self.whole is not None:
            return self.whole.busy_share
        states, columns = self.states, self.open
        return sum([states[column].pending_prefills > 0 for column in columns]) / len(columns) if columns else 0.0
