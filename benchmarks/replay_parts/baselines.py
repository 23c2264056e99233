"""Other routers' rules, written anew from what is published. Each class names its source.

Floor: benchmarks, pure. All send at once: none of them holds a request. These count their own requests, so what they
know of load is exact; those that read engines' metrics are in `scraping.py`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Guess, Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job


class AtOnce:
    """Chooses when a request arrives and never again. `in_flight` counts requests per engine."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        self.fleet = fleet
        self.setup = setup
        self.rng = setup.rng(name)
        self.guess = Guess(setup)
        self.in_flight = [0] * setup.endpoints

    def arrive(self, job: Job, now: float) -> None:
        engine = self.choose(job, now)
        self.in_flight[engine] += 1
        self.sent(job, engine, now)
        self.fleet.send(engine, job)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self.prefilled(job, engine, now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        self.in_flight[engine] -= 1
        self.left(job, engine, now)

    def choose(self, job: Job, now: float) -> int:
        """The engine: here the first of all."""
        return 0

    def sent(self, job: Job, engine: int, now: float) -> None:
        """Charge it."""

    def prefilled(self, job: Job, engine: int, now: float) -> None:
        """Its first token is out."""

    def left(self, job: Job, engine: int, now: float) -> None:
        """It is over."""

    def least(self, costs: Sequence[float]) -> int:
        """The engine of the lowest cost; any of those that share it, by chance."""
        lowest = min(costs)
        ties = [engine for engine, cost in enumerate(costs) if cost == lowest]
        return ties[0] if len(ties) == 1 else self.rng.choice(ties)


class RoundRobin(AtOnce):
    """Each engine in turn (nginx, Envoy and vLLM production-stack by default)."""

    _turn = -1

    def choose(self, job: Job, now: float) -> int:
        self._turn = (self._turn + 1) % self.setup.endpoints
        return self._turn


class LeastInFlight(AtOnce):
    """The fewest requests in flight (nginx `least_conn`, Envoy least request over all hosts)."""

    def choose(self, job: Job, now: float) -> int:
        return self.least(self.in_flight)


class LeastTokens(AtOnce):
    """The fewest outstanding tokens: prompts and expected answers of all requests in flight, caches ignored."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._tokens = [0] * setup.endpoints
        self._charged: dict[int, int] = {}

    def choose(self, job: Job, now: float) -> int:
        return self.least(self._tokens)

    def sent(self, job: Job, engine: int, now: float) -> None:
        self._charged[job.number] = charge = self.guess.prompt(job) + self.guess.output(job)
        self._tokens[engine] += charge

    def left(self, job: Job, engine: int, now: float) -> None:
        self._tokens[engine] -= self._charged.pop(job.number)


class BlockLru:
    """Blocks that a router believes an engine to hold, the least recently routed forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def match(self, blocks: Iterable[int]) -> int:
        count, present = 0, self._blocks
        for block in blocks:
            if block not in present:
                break
            count += 1
        return count

    def touch(self, blocks: Sequence[int]) -> None:
        """Tail first, so that the end of a prefix is forgotten before its beginning."""
        present = self._blocks
        for block in reversed(blocks):
            present[block] = None
            present.move_to_end(block)
        self._evict()

    def _evict(self) -> None:
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def __len__(self) -> int:
        return len(self._blocks)


class CacheAware(AtOnce):
    """sglang-router / SMG `cache_aware` (its source, policies/cache_aware.rs): thresholds 0.5 / 32 / 1.1.

    Loads apart by more than 32 and by more than 1.1 times: the fewest in flight. Else the worker whose tree matches
    most, if that is more than half of the prompt; else the smallest tree. A tree holds 2^24 characters (here tokens of
    4 characters) and learns every prompt when it is sent.
    """

    MATCH, ABSOLUTE, RELATIVE = 0.5, 32, 1.1
    TREE_BLOCKS = (1 << 24) // 4 // TRACE_BLOCK

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._trees = [BlockLru(self.TREE_BLOCKS) for _ in range(setup.endpoints)]

    def choose(self, job: Job, now: float) -> int:
        most, fewest = max(self.in_flight), min(self.in_flight)
        if most - fewest > self.ABSOLUTE and most > self.RELATIVE * fewest:
            return self.least(self.in_flight)
        matches = [tree.match(job.blocks) for tree in self._trees]
        best = max(matches)
        if best * TRACE_BLOCK > self.MATCH * job.prompt:
            return matches.index(best)
        return self.least([len(tree) for tree in self._trees])

    def sent(self, job: Job, engine: int, now: float) -> None:
        self._trees[engine].touch(job.blocks)


class Dynamo(AtOnce):
    """NVIDIA Dynamo's KV router (its documentation and kv-router/scheduler.rs): overlap weight 1, temperature 0.

    Cost = blocks to prefill (pending ones and this prompt's uncached) + distinct blocks of active requests, this one's
    included. Overlap by KV events: the engine's true cache.
    """

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._prefill = [0.0] * setup.endpoints
        self._active: list[Counter[int]] = [Counter() for _ in range(setup.endpoints)]
        self._private = [0.0] * setup.endpoints  # the part of a block at each prompt's end, in blocks
        self._charged: dict[int, float] = {}

    def choose(self, job: Job, now: float) -> int:
        return self.least([self._cost(job, engine) for engine in range(self.setup.endpoints)])

    def _cost(self, job: Job, engine: int) -> float:
        active = self._active[engine]
        new = len(job.blocks)
        for block in job.blocks:  # chained: the shared ones come first
            if block not in active:
                break
            new -= 1
        decode = len(active) + self._private[engine] + new + self._rest(job)
        return (self._prefill[engine] + self._uncached(job, engine)) / TRACE_BLOCK + decode

    def _uncached(self, job: Job, engine: int) -> int:
        return job.prompt - cached_tokens(self.fleet, engine, job)

    def _rest(self, job: Job) -> float:
        return job.prompt / TRACE_BLOCK - len(job.blocks)

    def sent(self, job: Job, engine: int, now: float) -> None:
        self._charged[job.number] = charge = self._uncached(job, engine)
        self._prefill[engine] += charge
        self._active[engine].update(job.blocks)
        self._private[engine] += self._rest(job)

    def prefilled(self, job: Job, engine: int, now: float) -> None:
        self._prefill[engine] -= self._charged.pop(job.number)

    def left(self, job: Job, engine: int, now: float) -> None:
        active = self._active[engine]
        for block in job.blocks:
            if active[block] > 1:
                active[block] -= 1
            else:
                del active[block]
        self._private[engine] -= self._rest(job)


def cached_tokens(fleet: Fleet, engine: int, job: Job) -> int:
    """What the engine's cache truly holds of a prompt now; at least one token is always computed."""
    size = fleet.config.block_size
    return size * fleet.engines[engine].model.cache.match(job.hashes, (job.prompt - 1) // size)
