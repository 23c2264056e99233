"""What stands beside the study's A to D: D with F and L, the greedy oracle, and the bound of an infinite shared cache.

Floor: benchmarks, pure. As in `study.py`, nothing of `policies/` is used here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.engine.cost import PER_ATTENTION_PAIR, PER_CONTEXT_TOKEN, PER_DECODE, PER_PREFILL_TOKEN, STEP_OVERHEAD
from benchmarks.engine.model import TOKEN_BUDGET
from benchmarks.replay_parts.baselines import AtOnce, BlockLru, cached_tokens
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.study import PolicyD, Rates
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job

OUTPUT_WEIGHT = 0.02
"""Of the latest answer in the mean answer length."""


class CopyLru(BlockLru):
    """F: an index that does what the engine's cache does: pins blocks in flight, touches them again at the finish, and
    leaves room for answers."""

    def __init__(self, engine_blocks: int) -> None:
        super().__init__(engine_blocks)
        self._engine_blocks = engine_blocks
        self._references: Counter[int] = Counter()
        self._in_flight = 0
        self._mean_output: float | None = None

    def touch(self, blocks: Sequence[int]) -> None:
        self._in_flight += 1
        self._references.update(blocks)
        super().touch(blocks)

    def finish(self, blocks: Sequence[int], output: int) -> None:
        """The request is over: its blocks that nobody else has in flight become the newest, its head at last."""
        mean = self._mean_output
        self._mean_output = output if mean is None else mean + OUTPUT_WEIGHT * (output - mean)
        self._in_flight -= 1
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                self._blocks[block] = None
                self._blocks.move_to_end(block)
        self._evict()

    def _evict(self) -> None:
        room = int(self._in_flight * ((self._mean_output or 0.0) / TRACE_BLOCK + 0.5))
        present, pinned = self._blocks, 0
        while len(present) > self._engine_blocks - room and pinned < len(present):
            block, _ = present.popitem(last=False)
            if block in self._references:
                present[block] = None
                pinned += 1


class PolicyDFL(PolicyD):
    """D with F and with L: the own prefill counts twice only as far as engines are busy reading prompts."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._copies = [CopyLru(setup.kv_tokens // TRACE_BLOCK) for _ in self.views]
        for view, copy in zip(self.views, self._copies, strict=True):
            view.index = copy

    def finish(self, job: Job, engine: int, now: float) -> None:
        self._copies[engine].finish(job.blocks, job.output)
        super().finish(job, engine, now)

    def _scale(self) -> float:
        return sum(bool(view.pending) for view in self.views) / len(self.views)


class Bound(PolicyD):
    """D on a fleet with one cache for all engines that never forgets: no routing can save more prefill."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        shared = BlockLru(1 << 40)
        for view in self.views:
            view.index = shared


class Oracle(AtOnce):
    """Greedy with exact knowledge: sends at once to where the first token comes first, by the engines' true state.

    A prompt waiting at an engine counts with what was cached, or on its way into the cache, when it was sent there.
    """

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._rates = Rates(PER_PREFILL_TOKEN, PER_ATTENTION_PAIR)
        self._owns: dict[str, float] = {}
        self._coming: list[Counter[int]] = [Counter() for _ in range(setup.endpoints)]

    def choose(self, job: Job, now: float) -> int:
        return self.least([self._ttft(job, engine, now) for engine in range(self.setup.endpoints)])

    def sent(self, job: Job, engine: int, now: float) -> None:
        self._owns[str(job.number)] = self._own(job, engine)
        self._coming[engine].update(job.blocks)

    def prefilled(self, job: Job, engine: int, now: float) -> None:
        del self._owns[str(job.number)]
        coming = self._coming[engine]
        for block in job.blocks:
            if coming[block] > 1:
                coming[block] -= 1
            else:
                del coming[block]

    def _ttft(self, job: Job, number: int, now: float) -> float:
        engine = self.fleet.engines[number]
        decodes, context, wait, reading = 0, 0, 0.0, False
        for sequence in engine.model.sequences():
            if sequence.running and sequence.produced:
                decodes += 1
                context += sequence.computed
            elif sequence.running:
                reading = True
                wait += self._rates.own(sequence.prompt_tokens - sequence.computed, sequence.computed)
            elif sequence.produced:  # preempted: it reads its prompt and its answer again
                wait += self._rates.own(sequence.prompt_tokens + sequence.produced, 0)
            else:
                wait += self._owns[sequence.id]
        if reading:
            wait = max(0.0, wait - (now - engine.step_began))
        step = STEP_OVERHEAD + PER_DECODE * decodes + PER_CONTEXT_TOKEN * context
        return (wait + self._own(job, number)) * (1 + step / (TOKEN_BUDGET * PER_PREFILL_TOKEN)) + step

    def _own(self, job: Job, engine: int) -> float:
        cached, coming = cached_tokens(self.fleet, engine, job), self._coming[engine]
        for block in job.blocks[cached // TRACE_BLOCK :]:
            if block not in coming:
                break
            cached += TRACE_BLOCK
        cached = min(cached, job.prompt - 1)
        return self._rates.own(job.prompt - cached, cached)
