"""The engine without a server: iteration-level continuous batching over a KV cache of blocks.

Floor: pure. Time comes in as `now` (seconds on any clock) and goes out as a step's duration, so the same object runs
behind the HTTP server (`runtime.py`) and on a virtual clock in replays.

    submit ──> waiting (priority, then arrival) ──admit: prefix hit, blocks──> running ──last token──> gone
                  ^──────────────── preempted: no block left for it ─────────────┘

One step: every running sequence first (a decode, or the next chunk of its prefill), then new ones while there are
seats, blocks and token budget left. What a step did counts when it is over: `settle`, which the next `step` also does.
A replay need not make every step by itself: `decode_ends` foresees the steps in which nothing but decodes happens, and
`decode` does many of them at once, to the same end.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.engine.cache import BlockHash, BlockTable, KVCache
from benchmarks.engine.cost import StepCost

TOKEN_BUDGET = 8_192
"""Tokens computed in one step, prefill and decode together (vLLM's `max_num_batched_tokens` on a large GPU)."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    kv_blocks: int = 25_600
    block_size: int = 16
    max_num_seqs: int = 256
    token_budget: int = TOKEN_BUDGET
    whole_prompt_must_fit: bool = False
    """Admit a prompt only when all of it fits (vLLM's `scheduler_reserve_full_isl`, on by default in 0.32);
    otherwise its first chunk is enough, and prompts admitted together may then push each other out."""
    cost: StepCost = field(default_factory=StepCost)


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and its answer. The caller gives the first five; the model owns the rest.

    `block_hashes`: one per full block, of the prompt at least; the caller may append those of the output as it grows.
    `output_tokens`: how many to produce, 0 for a request that is only a prefill (an embedding). Lower `priority` first.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    block_hashes: list[BlockHash]
    priority: int = 0

    order: int = 0
    computed: int = 0
    produced: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    arrived_at: float = 0.0
    scheduled_at: float | None = None
    table: BlockTable = field(default_factory=list)
    running: bool = False
    gone: bool = False

    @property
    def remaining(self) -> int:
        """Tokens whose KV is still missing before the next token can be produced."""
        return self.prompt_tokens + self.produced - self.computed

    @property
    def key(self) -> tuple[int, int]:
        return (self.priority, self.order)


class Event(NamedTuple):
    """At the end of the step this sequence has token `number` (from 0; -1: it was only a prefill)."""

    sequence: Sequence
    number: int
    last: bool


class StepResult(NamedTuple):
    """`duration` seconds after `now` the `events` are true. `tokens` were computed, `admitted` joined the batch."""

    duration: float
    events: tuple[Event, ...]
    tokens: int
    admitted: tuple[Sequence, ...]
    preempted: int


IDLE = StepResult(0.0, (), 0, (), 0)


class EngineModel:
    """The scheduler and its cache. Not thread-safe; one owner calls `step` and waits for its duration in between."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.cache = KVCache(config.kv_blocks)
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: list[Sequence] = []
        self._live: dict[str, Sequence] = {}
        self._plan: list[tuple[Sequence, int]] = []
        self._orders = 0
        self._stuck = False  # whoever waits could not be admitted, and will not be until somebody comes or leaves

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._live) - len(self._running)

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue it. ValueError when it can never fit into the cache or its id is in use."""
        if -(-(sequence.prompt_tokens + sequence.output_tokens) // self.config.block_size) > self.cache.capacity:
            raise ValueError(f"sequence {sequence.id} needs more blocks than the cache has")
        if sequence.id in self._live:
            raise ValueError(f"sequence id {sequence.id} is in use")
        sequence.order = self._orders = self._orders + 1
        sequence.arrived_at = now
        self._live[sequence.id] = sequence
        self._stuck = False
        self._enqueue(sequence)

    def find(self, sequence_id: str) -> Sequence | None:
        return self._live.get(sequence_id)

    def sequences(self) -> Collection[Sequence]:
        """All that are here, waiting and running, in order of arrival."""
        return self._live.values()

    def abort(self, sequence_id: str) -> bool:
        """Take it out at once: its seat and its blocks are free. False when it is not here (any more)."""
        sequence = self._live.get(sequence_id)
        if sequence is None:
            return False
        self._remove(sequence)
        return True

    def step(self, now: float) -> StepResult:
        """Plan one iteration. `IDLE` when there is nothing to compute."""
        self.settle()
        budget, preempted = self._plan_running()
        admitted = [] if preempted else self._admit(budget, now)
        if not self._plan:
            return IDLE
        tokens, duration = self._duration()
        events = tuple(self._event(one) for one, tokens in self._plan if tokens == one.remaining)
        return StepResult(duration, events, tokens, tuple(admitted), preempted)

    def settle(self) -> None:
        """The planned step is over: count its tokens, cache its full blocks, let the finished go."""
        plan, self._plan = self._plan, []
        for sequence, tokens in plan:
            if sequence.gone:
                continue
            complete = tokens == sequence.remaining
            self._commit_blocks(sequence, sequence.computed + tokens)
            if complete:
                sequence.produced += 1
                if sequence.produced >= sequence.output_tokens:
                    self._remove(sequence)

    def decode_ends(self, now: float) -> list[float]:
        """When the coming steps end, from `now` on, that hold decodes of the running sequences and nothing else.

        The last is the one in which a sequence finishes, or before blocks run out. Empty: make a `step`. Good until
        somebody comes (`submit`) or leaves (`abort`).
        """
        self.settle()
        running = self._running
        if not running or (not self._stuck and self.waiting) or len(running) > self.config.token_budget:
            return []
        size, steps, context = self.config.block_size, running[0].output_tokens, 0
        for sequence in running:
            computed, produced = sequence.computed, sequence.produced
            if not produced or sequence.prompt_tokens + produced != computed + 1:
                return []  # a prefill, or one that was preempted and computes again
            if len(sequence.block_hashes) > computed // size:
                return []  # blocks of the answer become cached on the way, and who is first matters
            steps = min(steps, sequence.output_tokens - produced)
            context += computed
        return self._ends(now, self._affordable(steps), context)

    def decode(self, steps: int) -> list[Sequence]:
        """Do that many of the steps that `decode_ends` has foreseen. Returns who finished in the last of them."""
        for sequence in self._running:
            sequence.computed += steps
            sequence.produced += steps
            self._grow(sequence, sequence.computed)
        finished = [one for one in self._running if one.produced >= one.output_tokens]
        for sequence in finished:
            self._remove(sequence)
        return finished

    def _affordable(self, steps: int) -> int:
        """How many of that many decode steps the cache has blocks for.

        While somebody waits whose first chunk must fit, nothing may be evicted: whoever has lost cached blocks begins
        with a smaller chunk.
        """
        size = self.config.block_size
        chunk_may_fit = self.waiting and not self.config.whole_prompt_must_fit
        free = self.cache.unused if chunk_may_fit else self.cache.available
        needed: list[int] = []  # a step's number for every block that is taken in it
        for sequence in self._running:
            needed.extend(range(-sequence.computed % size, steps, size))
        return steps if len(needed) <= free else sorted(needed)[free]

    def _ends(self, now: float, steps: int, context: int) -> list[float]:
        """The very sums that `_duration` makes for each step, so that both ways give the same times."""
        cost, decodes, ends = self.config.cost, len(self._running), []
        fixed, rate = cost.seconds(0, 0.0, decodes, 0), cost.context
        for grown in range(context, context + steps * decodes, decodes):
            now += fixed + rate * grown
            ends.append(now)
        return ends

    def _commit_blocks(self, sequence: Sequence, computed: int) -> None:
        size, hashes = self.config.block_size, sequence.block_hashes
        first = sequence.computed // size
        sequence.computed = computed
        if first < len(hashes):
            self._stuck = False  # who waits may share these blocks, and then need fewer of its own
            for index in range(first, min(computed // size, len(hashes))):
                self.cache.commit(sequence.table, index, hashes[index])

    def _plan_running(self) -> tuple[int, int]:
        """Give every running sequence its tokens, best first; returns the budget left and how many were preempted."""
        budget, preempted, size = self.config.token_budget, 0, self.config.block_size
        for sequence in list(self._running):
            if not sequence.running or budget <= 0:
                continue
            tokens = min(sequence.prompt_tokens + sequence.produced - sequence.computed, budget)
            if sequence.computed + tokens <= len(sequence.table) * size:  # nearly every decode
                self._plan.append((sequence, tokens))
                budget -= tokens
                continue
            while not self._grow(sequence, sequence.computed + tokens):
                preempted += 1
                if self._preempt(self._running[-1]) is sequence:
                    break
            if sequence.running:
                self._plan.append((sequence, tokens))
                budget -= tokens
        return budget, preempted

    def _admit(self, budget: int, now: float) -> list[Sequence]:
        admitted = []
        while self._waiting and budget > 0:
            sequence = self._waiting[0][2]
            if sequence.gone:
                heapq.heappop(self._waiting)
                continue
            tokens = self._start(sequence, budget) if len(self._running) < self.config.max_num_seqs else 0
            if tokens == 0:
                self._stuck = True
                break
            heapq.heappop(self._waiting)
            if sequence.scheduled_at is None:
                sequence.scheduled_at = now
                sequence.cached_tokens = sequence.computed
                admitted.append(sequence)
            sequence.running = True
            insort(self._running, sequence, key=lambda other: other.key)
            self._plan.append((sequence, tokens))
            budget -= tokens
        return admitted

    def _start(self, sequence: Sequence, budget: int) -> int:
        """Take cached blocks and new ones for the first chunk; 0 when there are too few.

        One token is always computed: the last one's output is what is wanted.
        """
        size = self.config.block_size
        hits = self.cache.match(sequence.block_hashes, (sequence.prompt_tokens + sequence.produced - 1) // size)
        if self.config.whole_prompt_must_fit:
            blocks = -(-(sequence.prompt_tokens + sequence.produced) // size)
            if blocks - self.cache.held(sequence.block_hashes[:hits]) > self.cache.available:
                return 0
        sequence.table = self.cache.acquire(sequence.block_hashes[:hits])
        sequence.computed = hits * size
        tokens = min(sequence.remaining, budget)
        if self._grow(sequence, sequence.computed + tokens):
            return tokens
        self.cache.release(sequence.table)
        sequence.computed = 0
        return 0

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        return self.cache.grow(sequence.table, -(-tokens // self.config.block_size))

    def _preempt(self, sequence: Sequence) -> Sequence:
        """Back to the queue, at its old place; it computes again what the cache does not keep."""
        self._running.remove(sequence)
        sequence.running = self._stuck = False
        self.cache.release(sequence.table)
        sequence.computed = 0
        sequence.preemptions += 1
        self._enqueue(sequence)
        return sequence

    def _enqueue(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.priority, sequence.order, sequence))

    def _remove(self, sequence: Sequence) -> None:
        sequence.gone = True
        self._stuck = False
        del self._live[sequence.id]
        if sequence.running:
            self._running.remove(sequence)
            sequence.running = False
        self.cache.release(sequence.table)

    def _duration(self) -> tuple[int, float]:
        """How many tokens the planned step computes, and how long that takes."""
        prefill, pairs, decodes, context = 0, 0.0, 0, 0
        for sequence, tokens in self._plan:
            if tokens == 1 and sequence.produced and sequence.remaining == 1:
                decodes += 1
                context += sequence.computed
            else:
                prefill += tokens
                pairs += tokens * (sequence.computed + tokens / 2)
        return prefill + decodes, self.config.cost.seconds(prefill, pairs, decodes, context)

    @staticmethod
    def _event(sequence: Sequence) -> Event:
        if sequence.output_tokens == 0:
            return Event(sequence, -1, True)
        return Event(sequence, sequence.produced, sequence.produced + 1 >= sequence.output_tokens)
