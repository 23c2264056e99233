"""Routers that score engines by their scraped metrics: llm-d and Kthena, written anew from what is published.

Floor: benchmarks, pure. Queue lengths and KV use are up to 50 ms old.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.replay_parts.baselines import AtOnce, BlockLru
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job

SCRAPE_SECONDS = 0.05
"""How old the engine figures of scraping routers may be: the refresh interval of the endpoint picker (llm-d)."""


class Scraping(AtOnce):
    """A router that reads engines' metrics: waiting and running requests, KV use, each up to 50 ms old."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._scraped_at = -1.0
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.kv_use: list[float] = []

    def scrape(self, now: float) -> None:
        if 0 <= now - self._scraped_at < SCRAPE_SECONDS:
            return
        self._scraped_at = now
        models = [engine.model for engine in self.fleet.engines]
        self.waiting = [model.waiting for model in models]
        self.running = [model.running for model in models]
        self.kv_use = [model.cache.used / model.cache.capacity for model in models]


class LlmD(Scraping):
    """llm-d / Gateway API inference extension: 3 · prefix + 2 · queue + 2 · (1 - KV use), the highest score.

    Prefix: matched share of the prompt, by an index of what was sent, LRU at the engine's size. Queue: 1 at the
    shortest queue, 0 at the longest, between them in proportion.
    """

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._index = [BlockLru(setup.kv_tokens // TRACE_BLOCK) for _ in range(setup.endpoints)]

    def choose(self, job: Job, now: float) -> int:
        self.scrape(now)
        longest, shortest = max(self.waiting), min(self.waiting)
        costs = []
        for engine, index in enumerate(self._index):
            queue = (longest - self.waiting[engine]) / (longest - shortest) if longest > shortest else 1.0
            prefix = index.match(job.blocks) * TRACE_BLOCK / job.prompt
            costs.append(-(3 * prefix + 2 * queue + 2 * (1 - self.kv_use[engine])))
        return self.least(costs)

    def sent(self, job: Job, engine: int, now: float) -> None:
        self._index[engine].touch(job.blocks)


class Kthena(Scraping):
    """Kthena router's default (its source, scheduler/plugins): least-request, least-latency and prefix-cache, 1 each.

    Only engines with fewer than 10 waiting, if there are any. Least request: running + 100 · waiting, against the most.
    Least latency: half TTFT and half TPOT, each in proportion between least and most (its last observed values).
    Prefix: matched share of the first 128 blocks of 64 bytes, about 2,048 tokens, recorded when the answer ended.
    """

    MAX_WAITING = 10
    MATCH_BLOCKS = 128 * 64 // 4 // TRACE_BLOCK
    STORE_BLOCKS = 50_000 * 64 // 4 // TRACE_BLOCK

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._store = [BlockLru(self.STORE_BLOCKS) for _ in range(setup.endpoints)]
        self._ttft = [0.0] * setup.endpoints
        self._tpot = [0.0] * setup.endpoints

    def choose(self, job: Job, now: float) -> int:
        self.scrape(now)
        every = range(self.setup.endpoints)
        kept = [engine for engine in every if self.waiting[engine] < self.MAX_WAITING] or list(every)
        base = {engine: self.running[engine] + 100 * self.waiting[engine] for engine in kept}
        most = max(base.values())
        head = job.blocks[: self.MATCH_BLOCKS]
        costs = [float("inf")] * self.setup.endpoints
        for engine in kept:
            request = int(100 * (most - base[engine]) / most) if most else 100
            prefix = int(100 * self._store[engine].match(head) / len(head)) if head else 0
            costs[engine] = -(request + self._latency(engine, kept) + prefix)
        return self.least(costs)

    def _latency(self, engine: int, kept: Sequence[int]) -> int:
        if not self._ttft[engine] or not self._tpot[engine]:
            return 100
        seen = [one for one in kept if self._ttft[one] and self._tpot[one]]
        parts = [_share(values[engine], [values[one] for one in seen]) for values in (self._ttft, self._tpot)]
        return int(50 * sum(parts))

    def prefilled(self, job: Job, engine: int, now: float) -> None:
        self._ttft[engine] = now - self.fleet.log.arrived[job.number]

    def left(self, job: Job, engine: int, now: float) -> None:
        self._store[engine].touch(job.blocks[: self.MATCH_BLOCKS])
        first = self.fleet.log.first[job.number]
        if first is not None and job.output > 1:
            self._tpot[engine] = (now - first) / (job.output - 1)


def _share(value: float, values: Sequence[float]) -> float:
    """1 at the least of the values, 0 at the most."""
    least, most = min(values), max(values)
    return (most - value) / (most - least) if most > least else 1.0
