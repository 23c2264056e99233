"""A routing policy for one request: filters, then weighted scorers, then a picker.

Floor: `policies`, pure. This is the hot path of every request, so an explanation is made only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.cost import forecast
from policies.decision import Candidate, Decision, Explanation
from policies.endpoint_state import EndpointState
from policies.filters import NotTried
from policies.interface import Filter, Picker, Scorer
from policies.types import InferenceRequest, Rejection


class Profile:
    """A policy by name. Use one profile per pool: a picker may remember whose turn it is."""

    def __init__(
        self, name: str, filters: Sequence[Filter], scorers: Sequence[tuple[Scorer, float]], picker: Picker
    ) -> None:
        self.name = name
        self._filters = tuple(filters)
        self._scorers = tuple((scorer.score, weight) for scorer, weight in scorers)
        self._scorer_names = tuple(scorer.name for scorer, _ in scorers)
        self._picker = picker

    def rank(
        self,
        request: InferenceRequest,
        states: Sequence[EndpointState],
        now: float,
        exclude: frozenset[str] = frozenset(),
    ) -> Decision | Rejection:
        """The endpoints that may take the request now, best first. `exclude`: names it has already failed at."""
        kept = self._filter(states, now, exclude)
        if isinstance(kept, Rejection):
            return kept
        candidates = [self._candidate(request, state, now) for state in kept]
        return Decision(tuple(self._picker.pick(request, candidates)), self.name)

    def blocked(self, states: Sequence[EndpointState], now: float) -> Rejection | None:
        """Why no request at all can be sent now; None when one could."""
        kept = self._filter(states, now, frozenset())
        return kept if isinstance(kept, Rejection) else None

    def explain(
        self,
        request: InferenceRequest,
        states: Sequence[EndpointState],
        now: float,
        exclude: frozenset[str] = frozenset(),
    ) -> tuple[Explanation, ...]:
        """Every filter's verdict and every score, per endpoint in the given order. Changes nothing, also no turn."""
        verdicts: dict[str, list[tuple[str, bool]]] = {state.endpoint.name: [] for state in states}
        left: Sequence[EndpointState] = states
        for one in (NotTried(exclude), *self._filters):
            kept = one.keep(left, now)
            for state in left:
                verdicts[state.endpoint.name].append((one.name, state in kept))
            left = kept
        return tuple(
            Explanation(
                state.endpoint.name,
                tuple(verdicts[state.endpoint.name]),
                self._candidate(request, state, now)._replace(scores=self._scores(request, state, now)),
            )
            for state in states
        )

    def _filter(
        self, states: Sequence[EndpointState], now: float, exclude: frozenset[str]
    ) -> Sequence[EndpointState] | Rejection:
        if exclude:
            states = NotTried(exclude).keep(states, now)
        for one in self._filters:
            states = one.keep(states, now)
            if not states:
                return Rejection(one.reason, detail=one.name)
        return states

    def _candidate(self, request: InferenceRequest, state: EndpointState, now: float) -> Candidate:
        predicted = forecast(state, request, now)
        cost = 0.0
        for score, weight in self._scorers:
            cost += weight * score(request, state, predicted, now)
        return Candidate(state, cost, *predicted)

    def _scores(self, request: InferenceRequest, state: EndpointState, now: float) -> tuple[tuple[str, float], ...]:
        predicted = forecast(state, request, now)
        values = (score(request, state, predicted, now) for score, _ in self._scorers)
        return tuple(zip(self._scorer_names, values, strict=True))
