"""The ports of a policy: what a profile is made of, and who hears of outcomes.

Floor: `policies`, pure. A new idea is one class that fits one of these, one test and one line in the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from policies.cost import Forecast
from policies.decision import Candidate
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, Outcome, RejectReason


class Filter(Protocol):
    """Narrows the endpoints. It sees them all at once, as "the best role present" is a question about all."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> RejectReason:
        """The answer to a request when this filter leaves no endpoint."""

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        """The endpoints that pass, in their order. The verdict is about endpoints, the same for every request."""


class Scorer(Protocol):
    """A cost of sending a request to an endpoint: lower is better, seconds wherever it predicts time."""

    @property
    def name(self) -> str: ...

    def score(self, request: InferenceRequest, state: EndpointState, forecast: Forecast, now: float) -> float: ...


class Picker(Protocol):
    """Orders candidates (at least one), best first; all of them, as those behind the first serve failover."""

    def pick(self, request: InferenceRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]: ...


class QueueOrder(Protocol):
    """Who goes next."""

    def first(
        self, waiting: Sequence[InferenceRequest], states: Sequence[EndpointState], now: float, window: int
    ) -> Sequence[InferenceRequest]:
        """At most `window` of the waiting requests, the next one first, in a sequence of its own."""


class OutcomeObserver(Protocol):
    """Learns from what became of an attempt."""

    def record(self, outcome: Outcome, now: float) -> None: ...
