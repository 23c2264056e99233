"""One endpoint as it is now, and the reservations that charge it.

Floor: `policies`, pure. A state is owned by one pool and changed by it alone. Load and affinity are written at
dispatch, by `reserve`, not when an answer comes: a burst must see itself. What a reservation charged leaves with it,
once, whatever the order in which first token and release are told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.cost import Rates, expected_output
from policies.health import EndpointHealth
from policies.prefix_index import PrefixIndex
from policies.types import Endpoint, InferenceRequest

# The cache of an engine of unknown size (tokens): an 8B model on a 24 GB GPU has about this. When unsure go low, as
# phantom hits cost far more than missed ones (facts/routing.md).
UNKNOWN_KV_TOKENS = 32_768

# Share of the engine's cache that the index copies: the rest holds outputs, and absorbs the error of tokens per block.
INDEX_SHARE = 0.8

TOKENS_PER_BLOCK = 64.0  # of 256 bytes, at 4 bytes per token, until a calibrated value is known


@dataclass(slots=True, eq=False)
class EndpointState:
    """Live state of an endpoint. Sums are over its in-flight requests, never negative, and 0 when there are none.

    `outstanding_tokens`: uncached prompt tokens without a first token yet, and expected output still to come.
    `context_tokens`: KV held (estimate); `decode_tokens`: the part of it that belongs to decoding requests.
    `prefill_since`: since when the present prefill may have been under way.
    `engine_*` and `kv_usage` (0..1) are the engine's own figures, `scraped_at` their age.
    """

    endpoint: Endpoint
    health: EndpointHealth = field(default_factory=EndpointHealth)
    rates: Rates = field(default_factory=Rates)
    index: PrefixIndex = field(default_factory=lambda: PrefixIndex(index_blocks(UNKNOWN_KV_TOKENS, TOKENS_PER_BLOCK)))
    sleeping: bool = False
    draining: bool = False
    in_flight: int = field(default=0, init=False)
    pending_prefills: int = field(default=0, init=False)
    pending_prefill_seconds: float = field(default=0.0, init=False)
    prefill_since: float = field(default=0.0, init=False)
    last_first_token_at: float | None = field(default=None, init=False)
    outstanding_tokens: float = field(default=0.0, init=False)
    context_tokens: float = field(default=0.0, init=False)
    decode_tokens: float = field(default=0.0, init=False)
    engine_running: float | None = None
    engine_waiting: float | None = None
    kv_usage: float | None = None
    scraped_at: float | None = None
    kv_capacity_tokens: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.endpoint.weight <= 0:
            raise ValueError(f"endpoint {self.endpoint.name}: weight must be above 0")
        if self.endpoint.kv_capacity_tokens is not None:
            self.learn_kv_capacity(self.endpoint.kv_capacity_tokens)

    def available(self, now: float) -> bool:
        """May be sent to at all; says nothing of room."""
        return not self.sleeping and not self.draining and self.health.admits(now)

    @property
    def full(self) -> bool:
        """Has as many in-flight requests as its endpoint allows."""
        return self.in_flight >= self.endpoint.max_in_flight

    def learn_kv_capacity(
        self, tokens: int, tokens_per_block: float = TOKENS_PER_BLOCK, share: float = INDEX_SHARE
    ) -> None:
        """Take the engine's cache size (tokens) and bound the index to `share` of it. Of a configured and a learned
        size the smaller counts, as too large an index is the worse mistake."""
        configured = self.endpoint.kv_capacity_tokens
        self.kv_capacity_tokens = tokens if configured is None else min(tokens, configured)
        self.index.resize(index_blocks(self.kv_capacity_tokens, tokens_per_block, share))

    def reserve(self, request: InferenceRequest, cached_tokens: int, own_seconds: float, now: float) -> Reservation:
        """Charge a dispatch: load, affinity, and the health trial if this endpoint is on one."""
        if not self.pending_prefills:
            self.prefill_since = now
        self.in_flight += 1
        self.pending_prefills += 1
        self.pending_prefill_seconds += own_seconds
        reservation = Reservation(self, request, cached_tokens, own_seconds)
        self.outstanding_tokens += reservation.uncached_tokens + reservation.output_tokens
        self.context_tokens += request.prompt_tokens
        self.index.touch(request.prefix_blocks)
        self.health.on_dispatch(now)
        return reservation


class Reservation:
    """What one dispatch charged to an endpoint. Settled exactly once: later and repeated calls do nothing."""

    __slots__ = (
        "_open",
        "_prefilling",
        "cached_tokens",
        "output_tokens",
        "own_seconds",
        "request",
        "state",
        "uncached_tokens",
    )

    def __init__(self, state: EndpointState, request: InferenceRequest, cached_tokens: int, own_seconds: float) -> None:
        self.state = state
        self.request = request
        self.cached_tokens = cached_tokens
        self.uncached_tokens = max(0, request.prompt_tokens - cached_tokens)
        self.output_tokens = expected_output(request)
        self.own_seconds = own_seconds
        self._open = True
        self._prefilling = True

    @property
    def decode_tokens(self) -> float:
        """Context while decoding: the prompt and, over its life, half of the output on average."""
        return self.request.prompt_tokens + self.output_tokens / 2

    def first_token(self, now: float) -> None:
        """The prefill is done, or believed to be: the request decodes from now on. Charges only: a caller that has seen
        output, not predicted it, tells `health.on_first_token` as well."""
        if not self._prefilling:
            return  # told before, or released
        state = self.state
        self._end_prefill()
        state.last_first_token_at = state.prefill_since = now
        state.context_tokens += self.output_tokens / 2
        state.decode_tokens += self.decode_tokens

    def release(self, now: float) -> None:
        """The request has left the endpoint, however it ended. `now` is for observers of finishes."""
        if not self._open:
            return
        state = self.state
        if self._prefilling:
            self._end_prefill()
            held = float(self.request.prompt_tokens)
        else:
            held = self.decode_tokens
            state.decode_tokens = max(0.0, state.decode_tokens - held)
        self._open = False
        state.in_flight -= 1
        state.context_tokens = max(0.0, state.context_tokens - held)
        state.outstanding_tokens = max(0.0, state.outstanding_tokens - self.output_tokens)
        if not state.in_flight:  # what is left is float drift
            state.outstanding_tokens = state.context_tokens = state.decode_tokens = 0.0

    def _end_prefill(self) -> None:
        state = self.state
        self._prefilling = False
        state.pending_prefills -= 1
        left = state.pending_prefill_seconds - self.own_seconds
        state.pending_prefill_seconds = max(0.0, left) if state.pending_prefills else 0.0
        state.outstanding_tokens = max(0.0, state.outstanding_tokens - self.uncached_tokens)


def index_blocks(kv_tokens: int, tokens_per_block: float, share: float = INDEX_SHARE) -> int:
    """The index's bound in blocks for an engine cache of `kv_tokens`."""
    return int(kv_tokens * share / tokens_per_block)
