"""What one dispatch charged to an endpoint, until it is settled.

Floor: `policies`, pure. What a reservation charged leaves with it, once, whatever the order in which first token and
release are told; what its end teaches of the endpoint is told on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.cost import expected_output, slowdown, step_seconds
from policies.kv_need import KvCharge
from policies.types import InferenceRequest

if TYPE_CHECKING:  # the state makes its reservations
    from policies.endpoint_state import EndpointState


class EngineReport:
    """What an engine says of a request that ended well, tokens; None where it does not say."""

    __slots__ = ("cached_tokens", "output_tokens", "prompt_tokens")

    def __init__(
        self, prompt_tokens: int | None = None, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.output_tokens = output_tokens


class Reservation:
    """What one dispatch charged to an endpoint. Settled exactly once: later and repeated calls do nothing."""

    __slots__ = (
        "_charge",
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
        blocks = len(self._hold.blocks)
        rest = request.prompt_tokens - blocks * size + self.output_tokens
        self._charge = KvCharge(blocks, blocks * size, rest, self.output_tokens)
        self.kv_tokens = max(0.0, rest + self._hold.new * size)
        state.kv_need.add(self._charge, self.kv_tokens)
        self._open = True
        self._prefilling = True
        # A stream shows its first token, and what generates nothing ends with it.
        shows_first = request.stream or not self.output_tokens
        state.learner.dispatched(id(self), self.uncached_tokens, cached_tokens, shows_first, now)
        state.silence.expects(id(self), self._sign_seconds(shows_first), now, first=shows_first)

    @property
    def prefilled(self) -> bool:
        """Whether its first token has come, or is believed to have; also once it is released."""
        return not self._prefilling

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
            state.silence.heard(id(self), now)
        if not self._prefilling:
            return  # told before, or released
        self._end_prefill()
        state.last_first_token_at = state.prefill_since = now
        state.context_tokens += self.output_tokens / 2
        state.decode_tokens += self.decode_tokens
        state.kv_need.prefilled(self._charge, self.kv_tokens)
        if state.on_change is not None:
            state.on_change(state)

    def release(self, now: float, report: EngineReport | None = None) -> None:
        """The request has left the endpoint, however it ended. `report`: what the engine said of it at its end; None
        where it did not end well."""
        if not self._open:
            return
        state = self.state
        self._learn(report, now)
        # An answer in one piece may be here before its first token was believed to be.
        state.index.let_go(self._hold, computed=report is not None or not self._prefilling)
        state.kv_need.remove(self._charge, self.kv_tokens, prefilling=self._prefilling)
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
            state.kv_need.nothing()
        if state.on_change is not None:
            state.on_change(state)

    def _learn(self, report: EngineReport | None, now: float) -> None:
        state, request = self.state, self.request
        if report is None:
            state.silence.left(id(self))
            state.learner.left(id(self), now)
        else:
            state.silence.heard(id(self), now)
            prompt, cached, output = report.prompt_tokens, report.cached_tokens, report.output_tokens
            per_choice = None if output is None else output // max(1, request.choices)
            state.learner.finished(id(self), now, per_choice, prompt, cached)
            if prompt and cached is not None:
                predicted = self.cached_tokens * prompt / max(1, request.prompt_tokens)
                state.judge(self._hold, prompt, predicted, cached)
        state.take_rates()

    def _sign_seconds(self, shows_first: bool) -> float:
        """When something will be seen of it: its first token, or else its end."""
        state, step = self.state, step_seconds(self.state)
        first = state.pending_prefill_seconds * slowdown(state.rates, step) + step
        return first if shows_first else first + step * self.output_tokens / max(1, self.request.choices)

    def _end_prefill(self) -> None:
        state = self.state
        self._prefilling = False
        state.pending_prefills -= 1
        left = state.pending_prefill_seconds - self.own_seconds
        state.pending_prefill_seconds = max(0.0, left) if state.pending_prefills else 0.0
        state.outstanding_tokens = max(0.0, state.outstanding_tokens - self.uncached_tokens)
