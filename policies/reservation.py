"""What one dispatch charged to an endpoint, until it is settled.

Floor: `policies`, pure. What a reservation charged leaves with it, once, whatever the order in which first token and
release are told; what its end teaches of the endpoint is told on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.cost import expected_output
from policies.types import InferenceRequest

if TYPE_CHECKING:  # the state makes its reservations
    from policies.endpoint_state import EndpointState


class EngineReport(NamedTuple):
    """What an engine says of a request that ended well, tokens; None where it does not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


class Reservation:
    """What one dispatch charged to an endpoint. Settled exactly once: later and repeated calls do nothing."""

    __slots__ = (
        "_hold",
        "_open",
        "_prefilling",
        "cached_tokens",
        "kv_tokens",
        "output_tokens",
        "own_seconds",
        "request",
        "state",
        "uncached_tokens",
    )

    def __init__(
        self, state: EndpointState, request: InferenceRequest, cached_tokens: int, own_seconds: float, now: float
    ) -> None:
        self.state = state
        self.request = request
        self.cached_tokens = cached_tokens
        self.uncached_tokens = max(0, request.prompt_tokens - cached_tokens)
        self.output_tokens = expected_output(request)
        self.own_seconds = own_seconds
        size = request.tokens_per_block
        # Half a block more, as the prompt's last block is part full on average.
        self._hold = state.index.hold(request.prefix_blocks, self.output_tokens / size + 0.5 if size > 0 else 0.0)
        shared = len(self._hold.blocks) - self._hold.new
        self.kv_tokens = max(0.0, request.prompt_tokens - shared * size) + self.output_tokens
        self._open = True
        self._prefilling = True
        # A stream shows its first token, and what generates nothing ends with it.
        shows_first = request.stream or not self.output_tokens
        state.learner.dispatched(id(self), self.uncached_tokens, cached_tokens, shows_first, now)

    @property
    def decode_tokens(self) -> float:
        """Context while decoding: the prompt and, over its life, half of the output on average."""
        return self.request.prompt_tokens + self.output_tokens / 2

    def first_token(self, now: float, *, seen: bool = False) -> None:
        """The prefill is done, or believed to be: the request decodes from now on.

        `seen`: output has come, so the endpoint's health and rates learn of it.
        """
        state = self.state
        if seen and self._open:
            state.health.on_first_token(now)
            state.learner.first_token(id(self), now)
        if not self._prefilling:
            return  # told before, or released
        self._end_prefill()
        state.last_first_token_at = state.prefill_since = now
        state.context_tokens += self.output_tokens / 2
        state.decode_tokens += self.decode_tokens

    def release(self, now: float, report: EngineReport | None = None) -> None:
        """The request has left the endpoint, however it ended. `report`: what the engine said of it at its end; None
        where it did not end well."""
        if not self._open:
            return
        state = self.state
        self._learn(report, now)
        # An answer in one piece may be here before its first token was believed to be.
        self._free_kv(computed=report is not None or not self._prefilling)
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
            state.outstanding_tokens = state.context_tokens = state.decode_tokens = state.kv_tokens = 0.0

    def _learn(self, report: EngineReport | None, now: float) -> None:
        state, request = self.state, self.request
        if report is None:
            state.learner.left(id(self), now)
        else:
            prompt, cached, output = report
            per_choice = None if output is None else output // max(1, request.choices)
            state.learner.finished(id(self), now, per_choice, prompt, cached)
            if prompt and cached is not None:
                predicted = self.cached_tokens * prompt / max(1, request.prompt_tokens)
                state.judge(self._hold, prompt, predicted, cached)
        state.take_rates()

    def _free_kv(self, computed: bool) -> None:
        """What others of the chain's holders still need stays; it is theirs to free."""
        state, hold = self.state, self._hold
        freed = state.index.let_go(hold, computed=computed)
        kept = (hold.new - freed) * self.request.tokens_per_block
        state.kv_tokens = max(0.0, state.kv_tokens - self.kv_tokens + kept)

    def _end_prefill(self) -> None:
        state = self.state
        self._prefilling = False
        state.pending_prefills -= 1
        left = state.pending_prefill_seconds - self.own_seconds
        state.pending_prefill_seconds = max(0.0, left) if state.pending_prefills else 0.0
        state.outstanding_tokens = max(0.0, state.outstanding_tokens - self.uncached_tokens)
