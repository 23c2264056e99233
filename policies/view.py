"""One look at a pool: its endpoints as columns, so that a whole row of costs is one expression.

Floor: `policies`, pure. A view lives for one pass. What a pass sends is seen at once by what follows (`sent`), and so
is the work of a request that was held back (`held`): a later, smaller one must not take its place for free.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.cost import slowdown, step_seconds, wait_seconds
from policies.endpoint_state import EndpointState
from policies.waiting import Versions, Waiting

# Seconds of waiting after which a request that stays back keeps its place in the engine's KV cache too: without it one
# that needs much KV and little work would wait as long as smaller ones keep coming; and if all kept theirs at once, an
# engine would run dry for the largest. vLLM itself admits nobody past the first that does not fit.
KV_PATIENCE = 5.0


class View:
    """`open`: the columns of the endpoints that may be sent to. Per column: `waits`, the predicted prefill of what was
    sent before, and `planned`, the same and what was held back for this endpoint in this pass (seconds); `steps`, a
    step of its decodes alone (seconds); `slowdowns`, by how much decodes stretch a prefill; `slower`, by how much more
    than at the priors' GPU a prefill takes, at least 1; `late`, for how long a sign of life is overdue (seconds);
    `versions`, see `Waiting`; `kept_kv`, KV tokens kept for those held back. `busy_share`: of the open endpoints, those
    that have a prefill pending (facts/routing.md, L). `any_late`: whether any of `late` is above 0;
    `slowest`: the most of `slower`.
    """

    __slots__ = (
        "_stale", "any_late", "busy_share", "kept_kv", "late", "now", "open", "planned", "slowdowns", "slower",
        "slowest", "states", "steps", "versions", "waits",
    )  # fmt: skip

    def __init__(self, states: Sequence[EndpointState], open_columns: list[int], now: float) -> None:
        self.states = states
        self.open = open_columns
        self.now = now
        self.waits: list[float] = []
        self.steps: list[float] = []
        self.slowdowns: list[float] = []
        self.slower: list[float] = []
        self.late: list[float] = []
        for state in states:  # every request pays for this: what an idle endpoint has nothing of is not asked for
            rates = state.rates
            if state.in_flight:
                step = step_seconds(state)
                self.waits.append(wait_seconds(state, now))
                self.steps.append(step)
                self.slowdowns.append(slowdown(rates, step))
                self.late.append(state.silence.overdue(now))
            else:
                self.waits.append(0.0)
                self.steps.append(rates.step)
                self.slowdowns.append(rates.idle_slowdown)
                self.late.append(0.0)
            self.slower.append(rates.slower)
        self.versions: Versions = tuple([state.index.version + state.rates_version for state in states])
        self._stale: dict[int, tuple[Versions, list[int]]] = {}
        self.planned = self.waits.copy()
        self.kept_kv = [0.0] * len(states)
        self.any_late = any(self.late)
        self.slowest = max(self.slower, default=1.0)
        self.busy_share = self._busy_share()

    def refresh(self, waiting: Waiting) -> None:
        """Bring what is predicted of the request up to date with this view."""
        if waiting.versions is not self.versions:
            waiting.predict(self.states, self.versions, self._changed_since(waiting.versions))

    def held(self, column: int, waiting: Waiting) -> None:
        """A request stays back that would go here."""
        self.planned[column] += waiting.own[column]
        if self.now - waiting.request.arrived_at >= KV_PATIENCE:
            self.kept_kv[column] += self.states[column].added_kv(waiting.request)

    def sent(self, column: int) -> None:
        """A request went here and its reservation has been charged."""
        state = self.states[column]
        before = self.waits[column]
        self.waits[column] = wait_seconds(state, self.now)
        self.planned[column] += self.waits[column] - before
        self.versions = (*self.versions[:column], state.version, *self.versions[column + 1 :])
        self._stale = {}
        if state.full or (len(self.open) > 1 and state.gentle(self.now)):
            self.open = [other for other in self.open if other != column]
        self.busy_share = self._busy_share()

    def _changed_since(self, earlier: Versions) -> list[int]:
        """The columns that have changed. Asked once for all that were last looked at in the same pass: the answer is
        kept, with the tuple, as what an identity stands for must not be gone."""
        known = self._stale.get(id(earlier))
        if known is None:
            now = self.versions
            changed = [column for column, version in enumerate(now) if earlier[column : column + 1] != (version,)]
            known = self._stale[id(earlier)] = (earlier, changed)
        return known[1]

    def _busy_share(self) -> float:
        states, columns = self.states, self.open
        return sum([states[column].pending_prefills > 0 for column in columns]) / len(columns) if columns else 0.0
