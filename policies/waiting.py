"""A request that has no endpoint yet, and what is known of it at each.

Floor: `policies`, pure. A pass looks at up to 64 requests beside 16 endpoints; matching each prompt with each index
would cost more than all the rest. So what was found is kept with the request, and only endpoints whose index or rates
have changed since are asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policies.cost import own_seconds, tokens_of
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest

# `EndpointState.version` of each endpoint. Those of one pass share one tuple, so that it is known by its identity.
Versions = tuple[int, ...]


class Waiting:
    """`cached`: predicted cached prompt tokens per endpoint, `own`: the predicted prefill of the rest in seconds, both
    in the order of the states they were predicted for; `least`: the shortest of `own`, 0 without any. `versions`: what
    the states' versions were then. `excluded`: endpoints that have failed the request. `held_since`: since when it is
    held for a standby that wakes; `on_hold` is called then."""

    __slots__ = ("cached", "excluded", "held_since", "least", "on_hold", "own", "request", "versions")

    def __init__(
        self,
        request: InferenceRequest,
        excluded: frozenset[str] = frozenset(),
        on_hold: Callable[[float], None] | None = None,
    ) -> None:
        self.request = request
        self.excluded = excluded
        self.on_hold = on_hold
        self.held_since: float | None = None
        self.cached: list[int] = []
        self.own: list[float] = []
        self.least = 0.0
        self.versions: Versions = ()

    def predict(self, states: Sequence[EndpointState], versions: Versions, stale: Sequence[int]) -> None:
        """Predict for the columns in `stale`, the others being right. `versions`: each state's, as it is now."""
        request = self.request
        blocks = request.prefix_blocks
        head = blocks[0] if blocks else None
        if len(self.own) != len(states):
            self.cached, self.own = [0] * len(states), _uncached(states, request)
            stale = [column for column, state in enumerate(states) if head in state.index.heads]
        known, seconds = self.cached, self.own
        rates, none_cached = None, 0.0  # most endpoints have nothing of the prompt, and those of a pool are alike
        for column in stale:
            state = states[column]
            index = state.index
            if head in index.heads and (matched := index.match(blocks)):
                cached = known[column] = tokens_of(matched, request)
                seconds[column] = own_seconds(state.rates, request.prompt_tokens - cached, cached)
                continue
            if state.rates is not rates:
                rates = state.rates
                none_cached = own_seconds(rates, request.prompt_tokens, 0)
            known[column] = 0
            seconds[column] = none_cached
        self.least = min(seconds) if seconds else 0.0
        self.versions = versions

    def forget(self) -> None:
        """What was predicted was for other endpoints."""
        self.cached, self.own, self.versions = [], [], ()

    def least_own(self, columns: Sequence[int]) -> float:
        """The shortest predicted prefill (seconds) over these endpoints; 0 without any."""
        own = self.own
        if len(columns) == len(own):
            return self.least
        return min([own[column] for column in columns], default=0.0)


def _uncached(states: Sequence[EndpointState], request: InferenceRequest) -> list[float]:
    """The predicted prefill at each with nothing of it cached. Those of a pool are mostly alike: one calculation."""
    rates = [state.rates for state in states]
    if not rates or (rates[0] is rates[-1] and rates.count(rates[0]) == len(rates)):
        return [own_seconds(one, request.prompt_tokens, 0) for one in rates[:1]] * len(rates)
    seconds: dict[int, float] = {}
    for one in rates:
        if id(one) not in seconds:
            seconds[id(one)] = own_seconds(one, request.prompt_tokens, 0)
    return [seconds[id(one)] for one in rates]
