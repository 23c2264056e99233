"""What one simulated engine is: its speed, its memory, its limits and where it listens.

Floor: plain values. Nothing here opens a socket or reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.engine.cost import StepCost
from benchmarks.engine.model import ModelConfig

DEFAULT_MODEL_LEN = 32_768
"""Tokens. Long enough for the traces' prompts; never more than the KV cache holds (`context_limit`)."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Rates are tokens per second, times are seconds, `kv_blocks` counts blocks of `block_size` tokens.

    `port` 0 picks a free one; `control_port` None means no second listener. `reply_tokens` is the length of a chat
    answer that is not cut short, its end token included. `computes`: text, vectors or both. Two engines with the same
    `model` and `seed` say the same.
    """

    model: str = "tiny"
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None
    prefill_tokens_per_second: float = 15_000.0
    decode_step_seconds: float = 0.012
    kv_blocks: int = 25_600
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_queued_reqs: int | None = None
    max_model_len: int = DEFAULT_MODEL_LEN
    wake_seconds: float = 1.0
    reply_tokens: int = 64
    seed: int = 0
    keep_alive_seconds: float = 5.0
    computes: str = "both"

    @property
    def context_limit(self) -> int:
        """Prompt and output tokens of one request: a real engine does not start when the cache holds less."""
        return min(self.max_model_len, self.kv_blocks * self.block_size)

    def model_config(self) -> ModelConfig:
        return ModelConfig(
            kv_blocks=self.kv_blocks,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            cost=StepCost.scaled(self.prefill_tokens_per_second, self.decode_step_seconds),
        )
