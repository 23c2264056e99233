"""What a replay is about besides the trace: the fleet, and what routers may know.

Floor: benchmarks, pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from benchmarks.engine.model import ModelConfig
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job

DEFAULT_OUTPUT = 256
"""Tokens an answer is expected to have: what the gateway assumes where a client gives no bound."""


@dataclass(frozen=True, slots=True)
class Setup:
    """`length_error`: estimated prompt lengths are off by up to this share, at random. `rate_error`: routers that
    predict seconds believe engines take this many times as long. `true_outputs`: they know each answer's length (else
    all expect `DEFAULT_OUTPUT` tokens). `index_share`: part of an engine's cache that the gateway's index copies.
    `index_error`: the gateway's
    indexes begin this many times as large as they should be. `learn`: the gateway learns rates and
    index size as in serving. `max_waiting`, `max_wait` (seconds): bounds of the gateway's queue."""

    endpoints: int = 8
    block_size: int = TRACE_BLOCK
    kv_tokens: int = 409_600
    seed: int = 1
    length_error: float = 0.0
    rate_error: float = 1.0
    true_outputs: bool = False
    index_share: float = 0.9
    index_error: float = 1.0
    learn: bool = True
    max_waiting: int = 1_000_000
    max_wait: float = float("inf")

    def engine(self) -> ModelConfig:
        return ModelConfig(self.kv_tokens // self.block_size, self.block_size, whole_prompt_must_fit=True)

    def rng(self, name: str) -> Random:
        """Randomness of its own for every user, the same in every run."""
        return Random(f"{self.seed} {name}")


class Guess:
    """What a router believes of a request: its prompt's tokens and its answer's."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._rng = setup.rng("lengths")

    def prompt(self, job: Job) -> int:
        error = self._setup.length_error
        if not error:
            return job.prompt
        return max(1, round(job.prompt * self._rng.uniform(1 - error, 1 + error)))

    def output(self, job: Job) -> int:
        return job.output if self._setup.true_outputs else DEFAULT_OUTPUT
