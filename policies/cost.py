"""What a request would cost at an endpoint, in seconds: its prefill, the wait before it, the decodes beside it.

Floor: `policies`, pure. The model is one engine step of a continuously batching server (facts/routing.md):
    step = o + b·P + e·Σp(s + p/2) + c·D + d·S
with P prompt tokens computed in the step, p and s a chunk's length and start, D decoding requests and S their context
tokens. The constants of `Rates` are its priors; estimates wrong by 2 in the rate move the result by only 2 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policies.types import InferenceRequest

if TYPE_CHECKING:  # the state holds its `Rates`
    from policies.endpoint_state import EndpointState

STEP_TOKENS = 8192  # vLLM's usual token budget of one step (`--max-num-batched-tokens` on large GPUs)

# Share of the elapsed time that is believed to have been spent on the pending prefills. More is dangerous: at 1.0 an
# error of 20 % in the rate drops goodput from .89 to .20 (facts/routing.md).
PROGRESS_CREDIT = 0.5

# Seconds per uncached prompt token of the priors' GPU, which what is said in seconds of it is scaled by.
PRIOR_PREFILL = 67e-6


@dataclass(slots=True, init=False, unsafe_hash=True)
class Rates:
    """How fast an endpoint is. Priors: an 8B model on an A100-80GB (facts/routing.md; b measured, the rest assumed).

    Two times o: what a step takes whatever is in it, which in what is learned has the weights' reading in it, and what
    a prefill takes besides its tokens: they read the weights anyway, and those of one step share the rest. Nothing
    changes them: many predictions are kept with the object that they were made from."""

    prefill: float  # b: seconds per uncached prompt token
    attention: float  # e: seconds per uncached prompt token and token before it
    step: float  # o: seconds per step of decodes, whatever is in it
    decode: float  # c: seconds per step and decoding request
    context: float  # d: seconds per step and context token of the decoding requests
    overhead: float  # o: seconds per prefill
    slower: float = field(init=False, repr=False, compare=False)  # times than the priors' GPU; 1 where it is faster
    idle_slowdown: float = field(init=False, repr=False, compare=False)  # `slowdown` where nobody decodes

    def __init__(
        self,
        prefill: float = PRIOR_PREFILL,
        attention: float = 2.8e-9,
        step: float = 2.5e-3,
        decode: float = 20e-6,
        context: float = 76e-9,
        overhead: float = 2.5e-3,
    ) -> None:
        if prefill <= 0:
            raise ValueError("prefill rate must be above 0 seconds per token")
        self.prefill = prefill
        self.attention = attention
        self.step = step
        self.decode = decode
        self.context = context
        self.overhead = overhead
        self.slower = max(1.0, prefill / PRIOR_PREFILL)
        self.idle_slowdown = slowdown(self, step)


def expected_output(request: InferenceRequest) -> int:
    """Output tokens to reckon with."""
    return request.max_output_tokens


def cached_tokens(state: EndpointState, request: InferenceRequest) -> int:
    """Prompt tokens the endpoint probably holds. Never all: an engine always computes at least the last token."""
    return tokens_of(state.index.match(request.prefix_blocks), request)


def tokens_of(matched: int, request: InferenceRequest) -> int:
    """Prompt tokens that so many leading blocks stand for; less than the whole prompt."""
    return max(0, min(int(matched * request.tokens_per_block), request.prompt_tokens - 1))


def own_seconds(rates: Rates, uncached: int, cached: int) -> float:
    """Predicted prefill time of `uncached` tokens that follow `cached` ones: b·u + e·u·(m + u/2) + o."""
    return rates.prefill * uncached + rates.attention * uncached * (cached + uncached / 2) + rates.overhead


def wait_seconds(state: EndpointState, now: float) -> float:
    """Predicted prefill time of what was sent before and has no first token yet, less what has been done of it.

    The credit is `PROGRESS_CREDIT` · min(time on the present prefill, mean pending prefill). The time counts from the
    last first token, or from when work began to wait if that was later: an idle endpoint earns no credit.
    """
    pending = state.pending_prefills
    if not pending:
        return 0.0
    total = state.pending_prefill_seconds
    return total - PROGRESS_CREDIT * min(max(now - state.prefill_since, 0.0), total / pending)


def step_seconds(state: EndpointState) -> float:
    """Predicted time of a step of the decodes alone: o + c·D + d·S."""
    rates = state.rates
    return rates.step + rates.decode * (state.in_flight - state.pending_prefills) + rates.context * state.decode_tokens


def ttft(wait: float, own: float, slow: float, step: float) -> float:
    """Seconds to the first token if sent now: (wait + own)·f + dstep, the study's policy A (facts/routing.md)."""
    return (wait + own) * slow + step


def slowdown(rates: Rates, step: float) -> float:
    """How much longer a prefill takes as its steps also carry the decodes: f = 1 + dstep/(8192·b)."""
    return 1.0 + step / (STEP_TOKENS * rates.prefill)
