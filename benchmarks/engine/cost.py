"""How long one step of the engine takes.

Floor: pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_OVERHEAD = 2.5e-3
WEIGHT_READ = 9.7e-3
PER_PREFILL_TOKEN = 67e-6
PER_DECODE = 20e-6
PER_CONTEXT_TOKEN = 76e-9
PER_ATTENTION_PAIR = 2.8e-9
"""Seconds: an 8B model on an A100-80GB. Weight read and prefill token are measured by others, the rest assumed."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step = overhead + max(weights, token·(P+D)) + attention·Σp(s+p/2) + decode·D + context·S.

    P prefill tokens, D decodes, S context tokens of the decodes, p and s length and start of each prefill chunk.
    """

    overhead: float = STEP_OVERHEAD
    weights: float = WEIGHT_READ
    token: float = PER_PREFILL_TOKEN
    attention: float = PER_ATTENTION_PAIR
    decode: float = PER_DECODE
    context: float = PER_CONTEXT_TOKEN

    @classmethod
    def scaled(cls, prefill_tokens_per_second: float, decode_step_seconds: float) -> StepCost:
        """The same shape at another speed: `decode_step_seconds` is the step of one sequence with a short context."""
        token = 1.0 / prefill_tokens_per_second
        slower = decode_step_seconds / (STEP_OVERHEAD + WEIGHT_READ + PER_DECODE)
        return cls(
            overhead=STEP_OVERHEAD * slower,
            weights=WEIGHT_READ * slower,
            token=token,
            attention=PER_ATTENTION_PAIR * token / PER_PREFILL_TOKEN,
            decode=PER_DECODE * slower,
            context=PER_CONTEXT_TOKEN * slower,
        )

    def seconds(self, prefill: int, pairs: float, decodes: int, context: int) -> float:
        compute = max(self.weights, self.token * (prefill + decodes))
        return self.overhead + compute + self.attention * pairs + self.decode * decodes + self.context * context
