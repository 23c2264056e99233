"""The policies A to D of the routing study (facts/routing.md), to compare with.

Floor: benchmarks, pure. Written apart from `policies/`, so that a mistake there does not hide itself here. The rates
are the engines' own, as the study had them, unless the setup asks for wrong ones.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.engine.cost import PER_ATTENTION_PAIR, PER_CONTEXT_TOKEN, PER_DECODE, PER_PREFILL_TOKEN, STEP_OVERHEAD
from benchmarks.engine.model import TOKEN_BUDGET
from benchmarks.replay_parts.baselines import AtOnce, BlockLru
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job

CREDIT = 0.5
"""Share of the time since the last first token that counts as progress on what is pending."""
KAPPA = 0.05
"""Seconds of prefill that a second of age is worth in the order."""
WINDOW = 64
"""Waiting requests looked at in a pass."""
THETA = 0.4
"""Seconds of predicted wait at an engine above which nothing more is sent there."""
KV_SHARE = 0.95
"""Share of an engine's cache that requests in flight may need."""
LAMBDA = 1.0
"""How much more an own prefill counts than the wait."""


class Charge(NamedTuple):
    """What a request sent to an engine is believed to cost there."""

    own: float
    context: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds, as in `benchmarks.engine.cost`."""

    token: float
    pair: float

    def own(self, uncached: int, cached: int) -> float:
        """The prefill of `uncached` tokens after `cached` ones."""
        return self.token * uncached + self.pair * uncached * (cached + uncached / 2) + STEP_OVERHEAD


class View:
    """What the router believes of one engine."""

    def __init__(self, setup: Setup) -> None:
        self.index = BlockLru(setup.kv_tokens // TRACE_BLOCK)
        self.rates = Rates(PER_PREFILL_TOKEN * setup.rate_error, PER_ATTENTION_PAIR * setup.rate_error)
        self.pending: dict[int, Charge] = {}
        self.pending_seconds = 0.0
        self.last_first_token = 0.0
        self.decodes = 0
        self.context = 0.0
        self.blocks: Counter[int] = Counter()
        self.kv_tokens = 0.0

    @property
    def idle(self) -> bool:
        return not self.pending and not self.decodes

    def wait(self, now: float) -> float:
        if not self.pending:
            return 0.0
        mean = self.pending_seconds / len(self.pending)
        return self.pending_seconds - CREDIT * min(now - self.last_first_token, mean)

    def step(self) -> float:
        """A step of the decodes alone, without the weights' read."""
        return STEP_OVERHEAD + PER_DECODE * self.decodes + PER_CONTEXT_TOKEN * self.context

    def slowdown(self, step: float) -> float:
        return 1.0 + step / (TOKEN_BUDGET * self.rates.token)

    def own(self, job: Job, prompt: int) -> float:
        cached = min(self.index.match(job.blocks) * TRACE_BLOCK, prompt - 1)
        return self.rates.own(prompt - cached, cached)

    def sent(self, job: Job, charge: Charge, output: int, now: float) -> None:
        if not self.pending:
            self.last_first_token = now
        self.pending[job.number] = charge
        self.pending_seconds += charge.own
        self.index.touch(job.blocks)
        self.kv_tokens += self._distinct(job, 1) + job.prompt % TRACE_BLOCK + output

    def first_token(self, job: Job, now: float) -> None:
        charge = self.pending.pop(job.number)
        self.pending_seconds = self.pending_seconds - charge.own if self.pending else 0.0
        self.last_first_token = now
        self.decodes += 1
        self.context += charge.context

    def left(self, job: Job, charge: Charge, output: int) -> None:
        self.decodes -= 1
        self.context = self.context - charge.context if self.decodes else 0.0
        self.kv_tokens -= self._distinct(job, -1) + job.prompt % TRACE_BLOCK + output

    def needs(self, job: Job, output: int) -> float:
        """KV tokens that the request would add, shared blocks counted once."""
        new = sum(block not in self.blocks for block in job.blocks)
        return new * TRACE_BLOCK + job.prompt % TRACE_BLOCK + output

    def _distinct(self, job: Job, change: int) -> int:
        """Count the blocks in or out; returns the tokens of those that nobody else in flight has."""
        tokens, blocks = 0, self.blocks
        for block in job.blocks:
            held = blocks[block] + change
            if held:
                blocks[block] = held
            else:
                del blocks[block]
            tokens += TRACE_BLOCK * (held == (1 if change > 0 else 0))
        return tokens


class PolicyA(AtOnce):
    """A: the least predicted time to first token, (wait + own) · f + dstep, sent at once."""

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self.views = [View(setup) for _ in range(setup.endpoints)]
        self._charges: dict[int, Charge] = {}

    def arrive(self, job: Job, now: float) -> None:
        prompt = self.guess.prompt(job)
        costs, owns = [], []
        for view in self.views:
            own, step = view.own(job, prompt), view.step()
            costs.append((view.wait(now) + own) * view.slowdown(step) + step)
            owns.append(own)
        engine = self.tie(job, costs)
        self.send(job, engine, Charge(owns[engine], prompt + self.guess.output(job) / 2), now)

    def tie(self, job: Job, costs: list[float]) -> int:
        """The least; within a millisecond of it always the same engine for the same second block."""
        bound = min(costs) + 0.001
        near = [engine for engine, cost in enumerate(costs) if cost <= bound]
        key = job.blocks[1] if len(job.blocks) > 1 else job.number
        return near[0] if len(near) == 1 else min(near, key=lambda engine: hash((key, engine)))

    def send(self, job: Job, engine: int, charge: Charge, now: float) -> None:
        self._charges[job.number] = charge
        self.views[engine].sent(job, charge, self.guess.output(job), now)
        self.fleet.send(engine, job, self.priority(job, charge, now))

    def priority(self, job: Job, charge: Charge, now: float) -> int:
        return 0

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self.views[engine].first_token(job, now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        self.views[engine].left(job, self._charges.pop(job.number), self.guess.output(job))


class PolicyB(PolicyA):
    """B: A, and engines serve their queue by priority = own + 0.05 · arrival time (here in milliseconds)."""

    def priority(self, job: Job, charge: Charge, now: float) -> int:
        return round(1000 * (charge.own + KAPPA * now))


class Held(NamedTuple):
    """A waiting request: the order's key first, then the number to break ties."""

    key: float
    number: int
    job: Job
    prompt: int


class PolicyD(PolicyA):
    """D: hold at the gateway, shortest predicted prefill first with ageing, sent when an engine's wait is below 0.4 s.

    The order's key: own prefill at the best engine + κ · arrival, which orders as own - κ · age does. It is kept from
    arrival on; among those looked at in a pass own prefills are predicted anew.
    """

    first_come = False

    def __init__(self, fleet: Fleet, setup: Setup, name: str) -> None:
        super().__init__(fleet, setup, name)
        self._waiting: list[Held] = []
        self._kv_bound = KV_SHARE * setup.kv_tokens

    def arrive(self, job: Job, now: float) -> None:
        prompt = self.guess.prompt(job)
        insort(self._waiting, Held(self._key(job, prompt, now), job.number, job, prompt))
        self._pass(now)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        super().first_token(job, engine, now)
        self._pass(now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        super().finish(job, engine, now)
        self._pass(now)

    def _key(self, job: Job, prompt: int, at: float) -> float:
        if self.first_come:
            return at
        return min(view.own(job, prompt) for view in self.views) + KAPPA * at

    def _pass(self, now: float) -> None:
        waits = [view.wait(now) for view in self.views]
        if not self._waiting or (min(waits) >= THETA and not any(view.idle for view in self.views)):
            return
        looked = self._waiting[:WINDOW]
        arrived = self.fleet.log.arrived
        if not self.first_come:
            looked = sorted(one._replace(key=self._key(one.job, one.prompt, arrived[one.number])) for one in looked)
        sent = set()
        for one in looked:
            if self._place(one, waits, now):
                sent.add(one.number)
            elif min(waits) >= THETA:
                break
        if sent:
            self._waiting = [one for one in self._waiting if one.number not in sent]

    def _place(self, one: Held, waits: list[float], now: float) -> bool:
        """Plan one request on its best engine; True when that may have it now."""
        job, costs, owns = one.job, [], []
        factor = LAMBDA * self._scale()
        for view, wait in zip(self.views, waits, strict=True):
            own, step = view.own(job, one.prompt), view.step()
            slowdown = view.slowdown(step)
            costs.append(wait * slowdown + (1 + factor) * (own * slowdown + step))
            owns.append(own)
        engine = self.tie(job, costs)
        view = self.views[engine]
        output = self.guess.output(job)
        room = waits[engine] < THETA and view.kv_tokens + view.needs(job, output) <= self._kv_bound
        waits[engine] += owns[engine]
        if room or view.idle:
            self.send(job, engine, Charge(owns[engine], one.prompt + output / 2), now)
            return True
        return False

    def _scale(self) -> float:
        return 1.0


class PolicyC(PolicyD):
    """C: D with first come, first served."""

    first_come = True
