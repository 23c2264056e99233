"""The ports of a policy: what a profile is made of.

Floor: `policies`, pure. A new idea is one class that fits one of these, one test and one line in the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, RejectReason
from policies.view import View
from policies.waiting import Waiting


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

    def score(self, waiting: Waiting, view: View) -> list[float]:
        """One cost per state of the view, in their order, also for those that are not open; a list of its own."""


class Picker(Protocol):
    """From costs to one of the view's open columns (at least one)."""

    def choose(self, request: InferenceRequest, view: View, costs: Sequence[float]) -> int:
        """The column that should have the request. Changes nothing: it may still be held back."""

    def sent(self, view: View, column: int) -> None:
        """A request goes to this column."""
