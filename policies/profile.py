"""A routing policy for one request: filters, then weighted scorers, then a picker, and where it holds back a gate.

Floor: `policies`, pure. This is the hot path of every request, so scorers work on all endpoints at once (`View`), a
ranking is made only for a request that is sent, and an explanation only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from policies.cost import ttft
from policies.decision import Candidate, Decision, Explanation
from policies.endpoint_state import EndpointState
from policies.filters import USUAL, BestRole, NotTried, usual_columns
from policies.gate import Gate
from policies.interface import Filter, Picker, Scorer
from policies.pickers import DRAWN, BoundedLoad
from policies.scorers.session import SessionRank
from policies.types import Rejection
from policies.view import View
from policies.waiting import Waiting

# Candidates that a decision names: the choice and what it was preferred to. More would cost every request a
# microsecond each and tell its reader little.
RANKED = 4


class Profile:
    """A policy by name. Use one profile per pool: a picker may remember whose turn it is.

    `gate`: who may be sent though an endpoint has a seat; None sends at once. `engine_priority`: whether engines are
    told in which order to serve what they were sent (`policies/priority.py`).
    """

    def __init__(
        self,
        name: str,
        filters: Sequence[Filter],
        scorers: Sequence[tuple[Scorer, float]],
        picker: Picker,
        gate: Gate | None = None,
        *,
        engine_priority: bool = False,
    ) -> None:
        self.name = name
        self.gate = gate
        self.engine_priority = engine_priority
        self._filters = tuple(filters)
        self._usual = self._are_usual()
        self._scorers = tuple(scorers)
        self._picker = picker
        self._filters_anew = False

    def replace_filter(self, other: Filter) -> None:
        """From now on `other` in place of the filter of its name; nothing where there is none. What it keeps may change
        with every request that a pass sends."""
        self._filters = tuple(other if one.name == other.name else one for one in self._filters)
        self._usual = self._are_usual()
        self._filters_anew = True

    def _are_usual(self) -> bool:
        return tuple(map(type, self._filters)) == USUAL

    @property
    def by_role(self) -> bool:
        """Whether standbys wait until the others cannot."""
        return any(isinstance(one, BestRole) for one in self._filters)

    @property
    def judges_all(self) -> bool:
        """Whether a filter's verdict of one endpoint depends on how all the others fare."""
        return self._filters_anew

    @property
    def drawn(self) -> bool:
        """Whether any endpoint may be the one, whatever it costs."""
        return isinstance(self._picker, DRAWN)

    @property
    def bounded(self) -> bool:
        """Whether of endpoints that cost the same the one with the fewest requests is the best."""
        return isinstance(self._picker, BoundedLoad)

    @property
    def by_session(self) -> bool:
        """Whether each session has an order of the endpoints."""
        return any(isinstance(scorer, SessionRank) for scorer, _ in self._scorers)

    def standing(self, waiting: Waiting, states: Sequence[EndpointState], now: float) -> list[float]:
        """What such a request costs at each, none having anything of it: by what they can be put in order before it is
        known which request comes. Sessions apart."""
        view = View(states, list(range(len(states))), now)
        view.busy_share = 0.0  # of these few it says nothing
        view.refresh(waiting)
        scorers = [one for one in self._scorers if not isinstance(one[0], SessionRank)]
        return _summed(scorers, waiting, view)

    def look(
        self, states: Sequence[EndpointState], now: float, exclude: frozenset[str] = frozenset()
    ) -> View | Rejection:
        """The pool as it is now, or why nothing can be sent. `exclude`: endpoints that have failed the request."""
        if self._usual and not exclude:
            columns = usual_columns(states, now)
            if columns:
                return View(states, columns, now)
        kept = self._kept(states, now, exclude)
        if isinstance(kept, Rejection):
            return kept
        passed = set(map(id, kept))
        return View(states, [column for column, state in enumerate(states) if id(state) in passed], now)

    def blocked(
        self, states: Sequence[EndpointState], now: float, exclude: frozenset[str] = frozenset()
    ) -> Rejection | None:
        """Why nothing can be sent, as `look` says it; None where something can."""
        kept = self._kept(states, now, exclude)
        return kept if isinstance(kept, Rejection) else None

    def shut(self, view: View) -> bool:
        """Whether nothing more can be sent in this pass."""
        return not view.open or (self.gate is not None and self.gate.shut(view))

    def place(self, waiting: Waiting, view: View) -> Decision | None:
        """Where the request goes now; None when it is better held back, which later requests of the pass will see."""
        if not view.open:
            return None
        costs, column = self._choose(waiting, view)
        if self.gate is not None and not self.gate.admits(view, column, waiting):
            view.held(column, waiting)
            return None
        self._picker.sent(view, column)
        return self._decision(waiting, view, costs, column)

    def sent(self, view: View) -> None:
        """A request of this pass was sent and its reservation charged: closes what the filters keep out since then."""
        if self._filters_anew:
            kept = self._kept(view.states, view.now, frozenset())
            passed = set() if isinstance(kept, Rejection) else set(map(id, kept))
            view.open = [column for column in view.open if id(view.states[column]) in passed]

    def preview(self, waiting: Waiting, view: View) -> tuple[Decision, bool]:
        """Where the request would go, and whether at once. Takes nobody's turn; some endpoint must be open."""
        costs, column = self._choose(waiting, view)
        at_once = self.gate is None or self.gate.admits(view, column, waiting)
        return self._decision(waiting, view, costs, column), at_once

    def explain(self, waiting: Waiting, states: Sequence[EndpointState], now: float) -> tuple[Explanation, ...]:
        """Every filter's verdict and every score, per endpoint in the given order. Changes nothing, also no turn."""
        verdicts = self._verdicts(states, now, waiting.excluded)
        view = View(states, list(range(len(states))), now)
        view.refresh(waiting)
        rows = [(scorer.name, scorer.score(waiting, view)) for scorer, _ in self._scorers]
        costs = self._costs(waiting, view)
        candidates = [_candidate(waiting, view, view.waits, costs, column) for column in range(len(states))]
        return tuple(
            Explanation(
                state.endpoint.name,
                tuple(verdicts[column]),
                candidate._replace(scores=tuple((name, row[column]) for name, row in rows)),
                self.gate is None or self.gate.admits(view, column, waiting),
            )
            for column, (state, candidate) in enumerate(zip(states, candidates, strict=True))
        )

    def _kept(
        self, states: Sequence[EndpointState], now: float, exclude: frozenset[str]
    ) -> Sequence[EndpointState] | Rejection:
        kept = states if not exclude else NotTried(exclude).keep(states, now)
        for one in self._filters:
            kept = one.keep(kept, now)
            if not kept:
                return Rejection(one.reason, detail=one.name)
        return kept

    def _verdicts(
        self, states: Sequence[EndpointState], now: float, exclude: frozenset[str]
    ) -> list[list[tuple[str, bool]]]:
        verdicts: dict[int, list[tuple[str, bool]]] = {id(state): [] for state in states}
        left: Sequence[EndpointState] = states
        for one in (NotTried(exclude), *self._filters):
            kept = one.keep(left, now)
            for state in left:
                verdicts[id(state)].append((one.name, state in kept))
            left = kept
        return list(verdicts.values())

    def _choose(self, waiting: Waiting, view: View) -> tuple[list[float], int]:
        view.refresh(waiting)
        costs = self._costs(waiting, view)
        return costs, self._picker.choose(waiting.request, view, costs)

    def _costs(self, waiting: Waiting, view: View) -> list[float]:
        return _summed(self._scorers, waiting, view)

    def _decision(self, waiting: Waiting, view: View, costs: list[float], column: int) -> Decision:
        choice = _candidate(waiting, view, view.waits, costs, column)
        others = partial(_others, waiting, view, view.waits.copy(), costs, view.open, column)
        return Decision(choice, self.name, column, others)


def _summed(scorers: Sequence[tuple[Scorer, float]], waiting: Waiting, view: View) -> list[float]:
    if not scorers:
        return [0.0] * len(view.states)
    (first, weight), *others = scorers
    costs = first.score(waiting, view)
    if weight != 1.0:
        costs = [weight * cost for cost in costs]
    for scorer, weight in others:
        costs = [cost + weight * more for cost, more in zip(costs, scorer.score(waiting, view), strict=True)]
    return costs


def _candidate(waiting: Waiting, view: View, waits: Sequence[float], costs: Sequence[float], column: int) -> Candidate:
    own = waiting.own[column]
    seconds = ttft(waits[column], own, view.slowdowns[column], view.steps[column])
    return Candidate(view.states[column], costs[column], waiting.cached[column], own, seconds)


def _others(
    waiting: Waiting, view: View, waits: Sequence[float], costs: Sequence[float], columns: Sequence[int], chosen: int
) -> tuple[Candidate, ...]:
    """The next best few. `waits` and `columns`: as they were when it was decided; nothing else of a view changes, nor
    of a request that has been sent."""
    ranked = sorted(columns, key=costs.__getitem__)
    ranked.remove(chosen)
    return tuple([_candidate(waiting, view, waits, costs, column) for column in ranked[: RANKED - 1]])
