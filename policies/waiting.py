"""A request that has no endpoint yet, and what is known of it at each.

Floor: `policies`, pure. A pass looks at up to 64 requests beside 16 endpoints; matching each prompt with each index
would cost more than all the rest. So what was found is kept with the request, and only endpoints whose index or rates
have changed since are asked again.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.cost import cached_tokens, own_seconds
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest


class Waiting:
    """`cached`: predicted cached prompt tokens per endpoint, `own`: the predicted prefill of the rest in seconds, both
    in the order of the states they were `refresh`ed with. `excluded`: endpoints that have failed the request."""

    __slots__ = ("_versions", "cached", "excluded", "own", "request")

    def __init__(self, request: InferenceRequest, excluded: frozenset[str] = frozenset()) -> None:
        self.request = request
        self.excluded = excluded
        self.cached: list[int] = []
        self.own: list[float] = []
        self._versions: list[int] = []

    def refresh(self, states: Sequence[EndpointState], versions: list[int]) -> None:
        """Bring `cached` and `own` up to date. `versions`: each state's, as it is now; the list is not changed."""
        known = self._versions
        if known == versions:
            return
        if len(known) != len(versions):
            self.cached, self.own, known = [0] * len(versions), [0.0] * len(versions), [-1] * len(versions)
        request = self.request
        for column, version in enumerate(versions):
            if known[column] != version:
                state = states[column]
                cached = self.cached[column] = cached_tokens(state, request)
                self.own[column] = own_seconds(state.rates, request.prompt_tokens - cached, cached)
        self._versions = versions.copy()

    def least_own(self, columns: Sequence[int]) -> float:
        """The shortest predicted prefill (seconds) over these endpoints; 0 without any."""
        own = self.own
        return min([own[column] for column in columns], default=0.0)
