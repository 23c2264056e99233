"""One endpoint as it is now, and the reservations that charge it.

Floor: `policies`, pure. A state is owned by one pool and changed by it alone. Load and affinity are written at
dispatch, by `reserve`, not when an answer comes: a burst must see itself. What a reservation charged leaves with it,
once, whatever the order in which first token and release are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from policies.cache_feedback import CacheFeedback
from policies.cost import Rates, expected_output
from policies.health import EndpointHealth
from policies.kv_fill import KvFill
from policies.kv_need import KvNeed
from policies.learning import RateLearner
from policies.pool_rates import PoolRates, differ
from policies.prefix_index import Hold, PrefixIndex
from policies.reservation import Reservation
from policies.silence import Silence
from policies.types import Endpoint, EngineModel, InferenceRequest, Role

# The cache of an engine of unknown size (tokens): an 8B model on a 24 GB GPU has about this. When unsure go low, as
# phantom hits cost far more than missed ones (facts/routing.md).
UNKNOWN_KV_TOKENS = 32_768

# Share of the engine's cache that the index copies: the rest holds outputs, and absorbs the error of tokens per block.
INDEX_SHARE = 0.8

# A change of the index's bound by less than this share waits: every change makes all predictions be made anew.
FIT_STEP = 0.01

TOKENS_PER_BLOCK = 64.0  # what a prefix block stands for, whatever its bytes (`block_size.py`)

RANKS = {Role.HOT: 0, Role.WARM: 1, Role.COLD: 2}

PRIORS = Rates()  # one object: predictions for endpoints with the same rates are made once


@dataclass(slots=True, eq=False)
class EndpointState:
    """Live state of an endpoint. Sums are over its in-flight requests, never negative, and 0 when there are none.

    `outstanding_tokens`: uncached prompt tokens without a first token yet, and expected output still to come.
    `kv_need`: KV that they need together, shared prefixes once. `context_tokens`: the same with what is shared counted
    for each, as attention reads it; `decode_tokens`: the part of that which belongs to decoding requests.
    `prefill_since`: since when the present prefill may have been under way.
    `rank`: of the available endpoints those of the lowest serve; by its role, unless a standby's level says otherwise.
    `engine_*` and `kv_usage` (0..1) are the engine's own figures, `scraped_at` their age and `in_flight_scraped` our
    own part of them. `served`: the models that it serves, None where it has not said. `paused`: it says that it
    computes nothing for now. `withdrawn`: why it gets nothing new by what its source tells (`policies.discovery`), in
    one word; empty when it does.
    """

    endpoint: Endpoint
    health: EndpointHealth = field(default_factory=EndpointHealth)
    rates: Rates = PRIORS
    index: PrefixIndex = field(default_factory=lambda: PrefixIndex(index_blocks(UNKNOWN_KV_TOKENS, TOKENS_PER_BLOCK)))
    sleeping: bool = False
    draining: bool = False
    withdrawn: str = field(default="", init=False)
    paused: bool = field(default=False, init=False)
    served: tuple[EngineModel, ...] | None = field(default=None, init=False)
    in_flight: int = field(default=0, init=False)
    pending_prefills: int = field(default=0, init=False)
    pending_prefill_seconds: float = field(default=0.0, init=False)
    prefill_since: float = field(default=0.0, init=False)
    learns_rates: bool = True
    learner: RateLearner = field(default_factory=RateLearner, init=False)
    pool_rates: PoolRates | None = field(default=None, init=False)
    _own_rates: Rates = field(init=False)
    feedback: CacheFeedback = field(default_factory=CacheFeedback, init=False)
    kv_fill: KvFill = field(default_factory=KvFill, init=False)
    silence: Silence = field(default_factory=Silence, init=False)
    last_first_token_at: float | None = field(default=None, init=False)
    outstanding_tokens: float = field(default=0.0, init=False)
    kv_need: KvNeed = field(default_factory=KvNeed, init=False)
    context_tokens: float = field(default=0.0, init=False)
    decode_tokens: float = field(default=0.0, init=False)
    rank: int = field(default=0, init=False)
    engine_running: float | None = None
    engine_waiting: float | None = None
    kv_usage: float | None = None
    scraped_at: float | None = None
    in_flight_scraped: int = 0
    kv_capacity_tokens: int | None = field(default=None, init=False)
    nominal_blocks: int = field(default=0, init=False)
    on_change: Callable[[EndpointState], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.learner = RateLearner(self.rates)
        self._own_rates = self.rates
        self.nominal_blocks = self.index.capacity
        self.rank = RANKS[self.endpoint.role]
        if self.endpoint.weight <= 0:
            raise ValueError(f"endpoint {self.endpoint.name}: weight must be above 0")
        if self.endpoint.kv_capacity_tokens is not None:
            self.learn_kv_capacity(self.endpoint.kv_capacity_tokens)

    def take_rates(self) -> None:
        """Take what has been learned of the endpoint's speed, if that is to be; the others of its pool learn of it."""
        own = self.learner.rates
        if not self.learns_rates or own is self._own_rates:
            return
        self._own_rates = own
        if self.pool_rates is not None:
            self.pool_rates.learned(self)
        else:
            self.rates = own
            self.index.version += 1
            if self.on_change is not None:
                self.on_change(self)

    def show_rates(self, rates: Rates) -> None:
        """What is believed of the endpoint's speed, all that its pool knows considered."""
        if rates is not self.rates and differ(rates, self.rates):
            self.rates = rates
            self.index.version += 1
            if self.on_change is not None:
                self.on_change(self)

    def added_kv(self, request: InferenceRequest) -> float:
        """KV tokens that the request would add to `kv_tokens`."""
        blocks = request.prefix_blocks
        shared = len(blocks) - self.index.unheld(blocks)
        return max(0.0, request.prompt_tokens - shared * request.tokens_per_block) + expected_output(request)

    def available(self, now: float) -> bool:
        """May be sent to at all; says nothing of room."""
        return not self.sleeping and not self.draining and not self.withdrawn and self.health.admits(now)

    def status(self, now: float) -> str:
        """What keeps it from getting all that it could, in one word; `healthy` when nothing does."""
        if self.withdrawn:
            return self.withdrawn
        if self.draining or self.sleeping or self.paused:
            return "draining" if self.draining else "sleeping" if self.sleeping else "paused"
        health = self.health
        if health.cause is not None and health.ejected:
            return "half-open" if health.state(now) == "half-open" else health.cause.value
        starts = health.well and not health.suspected and health.slow_start.under_way(now)
        return "starting" if starts else health.state(now)

    def gentle(self, now: float) -> bool:
        """In its slow start it has what it is to get while others can take more."""
        slow = self.health.slow_start
        return slow.since is not None and self.in_flight >= slow.seats(self.endpoint.max_in_flight, now)

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
        self.size_index(index_blocks(self.kv_capacity_tokens, tokens_per_block, share))

    @property
    def kv_tokens(self) -> float:
        """KV that the requests in flight need together, shared prefixes once."""
        return self.kv_need.tokens(self.index.held)

    @property
    def kv_room_tokens(self) -> float | None:
        """The cache's size in tokens as they are counted here. None where it is not known."""
        capacity = self.kv_capacity_tokens
        return None if capacity is None else capacity * self.kv_fill.factor

    def scraped_usage(self, usage: float | None, waiting: float | None) -> None:
        """The engine says which share of its cache (0..1) is in use now, and how many requests wait inside it."""
        self.kv_usage, self.engine_waiting = usage, waiting
        inside = self.kv_need.inside(self.index.held, queued=waiting is None or waiting > 0)
        self.kv_fill.read(usage, inside, self.kv_capacity_tokens)
        self._fit_index()

    def size_index(self, blocks: int) -> None:
        """Bound the index to `blocks`, times what the engine's reports have taught."""
        self.nominal_blocks = blocks
        self._fit_index()

    def scraped_cache(self, queries: float | None, hits: float | None) -> None:
        """The engine's counters of prompt tokens looked up in its cache and found, since its start."""
        verdict = self.feedback.scraped(queries, hits) if self.index.estimates else 0
        if verdict < 0:
            self.feedback.phantom(0.0)
        elif verdict > 0 and self.index.full:
            self.feedback.missed()
        self._fit_index()

    def restarted(self) -> None:
        """Another engine process answers here: its cache begins empty, and it may be another kind of engine."""
        self.index.clear()
        self.feedback = CacheFeedback()
        self.kv_fill = KvFill()
        self._fit_index()
        self.learner = RateLearner(self.rates)
        self._own_rates = self.rates
        self.silence.forget()

    def _fit_index(self) -> None:
        blocks = int(self.nominal_blocks * self.kv_fill.factor * self.feedback.factor)
        if abs(blocks - self.index.capacity) > FIT_STEP * self.index.capacity:
            self.index.resize(blocks)

    def judge(self, hold: Hold, prompt: int, predicted: float, found: int) -> None:
        """An answer came of a request that held this: what its `found` cached tokens say of the index."""
        verdict = self.feedback.answered(prompt, predicted, found)
        if not self.index.estimates:
            return  # what it said came from the engine: nothing to tune
        if verdict < 0 and hold.last_use is not None and self.nominal_blocks:
            left = self.index.forget_unused_since(hold.last_use)
            self.feedback.phantom(left / (self.nominal_blocks * self.kv_fill.factor))
            self._fit_index()
        elif verdict > 0 and hold.evicted:
            self.feedback.missed()
            self._fit_index()

    def reserve(self, request: InferenceRequest, cached_tokens: int, own_seconds: float, now: float) -> Reservation:
        """Charge a dispatch: load, affinity, and the health trial if this endpoint is on one."""
        if not self.pending_prefills:
            self.prefill_since = now
        self.in_flight += 1
        self.pending_prefills += 1
        self.pending_prefill_seconds += own_seconds
        reservation = Reservation(self, request, cached_tokens, own_seconds, now)
        self.outstanding_tokens += reservation.uncached_tokens + reservation.output_tokens
        self.context_tokens += request.prompt_tokens
        self.feedback.dispatched(request.prompt_tokens, cached_tokens)
        self.health.on_dispatch(now)
        if self.on_change is not None:
            self.on_change(self)
        return reservation


def index_blocks(kv_tokens: int, tokens_per_block: float, share: float = INDEX_SHARE) -> int:
    """The index's bound in blocks for an engine cache of `kv_tokens`."""
    return int(kv_tokens * share / tokens_per_block)
