"""The gateway's own policies, by the very objects that serve: profile, order, plan, states, reservations.

Floor: benchmarks, pure. What `router/pools.py` does with futures is done here on the virtual clock: a pass on every
arrival, first token and finish. What the router learns from answers is told as the router tells it.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.replay_parts.fleet import Fleet, Log
from benchmarks.replay_parts.setup import Guess, Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job
from policies.admission.desk import Desk, Turn
from policies.admission.order import ShortestPrefillFirst
from policies.cost import Rates
from policies.decision import Decision
from policies.dispatch import WINDOW, plan
from policies.endpoint_state import EndpointState
from policies.health import EndpointHealth
from policies.learning import RateLearner
from policies.pool_rates import PoolRates
from policies.registry import make_profile
from policies.reservation import EngineReport, Reservation
from policies.types import Endpoint, InferenceRequest, Lane, Outcome, Rejection
from policies.waiting import Waiting

SCRAPE_SECONDS = 2.0
"""How often the prober reads an engine's metrics: the gateway's default."""
LONG_TOKENS = 2048
"""Prompts of more tokens are long: the gateway's default."""


class Gateway:
    """One pool under a profile of `policies.registry`."""

    def __init__(self, fleet: Fleet, setup: Setup, profile: str) -> None:
        self._fleet = fleet
        self._setup = setup
        self._guess = Guess(setup)
        self.profile = make_profile(profile, setup.rng("profile"))
        self.states = tuple(make_state(number, setup) for number in range(setup.endpoints))
        PoolRates(self.states).join()
        self._numbers = {state.endpoint.name: number for number, state in enumerate(self.states)}
        self._desk = Desk(ShortestPrefillFirst(), bounds=dict.fromkeys(Lane, setup.max_waiting))
        self._jobs: dict[str, Job] = {}
        self._sent: dict[int, tuple[Reservation, Turn]] = {}
        self._scrape_at = 0.0

    def arrive(self, job: Job, now: float) -> None:
        prompt, output = self._guess.prompt(job), self._guess.output(job)
        request = make_request(job, prompt, output, now, self._setup.max_wait)
        if isinstance(self._desk.enter(Waiting(request), self.states, now), Rejection):
            self._fleet.reject(job)
            return
        self._jobs[request.id] = job
        self._pass(now)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self._sent[job.number][0].first_token(now, seen=True)
        self._pass(now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        reservation, turn = self._sent.pop(job.number)
        cached = self._fleet.log.cached[job.number]
        reservation.release(now, EngineReport(job.prompt, cached, job.output) if self._setup.learn else None)
        self._desk.ended(turn)
        self.states[engine].health.record(make_outcome(self._fleet.log, job), now)
        self._pass(now)

    def _pass(self, now: float) -> None:
        self._turn_away_the_late(now)
        if now >= self._scrape_at and self._setup.learn:
            self._scrape_at = now + SCRAPE_SECONDS
            self._scrape()
        while plan(self._desk, self.states, self.profile, now, self._commit) >= WINDOW:
            pass

    def _scrape(self) -> None:
        scrape(self.states, self._fleet)

    def _commit(self, waiting: Waiting, decision: Decision) -> None:
        request, choice, now = waiting.request, decision.choice, self._fleet.now
        job = self._jobs.pop(request.id)
        reservation = choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, now)
        self._sent[job.number] = reservation, self._desk.sent(waiting, choice.state.rates, choice.cached_tokens, now)
        self._fleet.send(self._numbers[choice.state.endpoint.name], job)

    def _turn_away_the_late(self, now: float) -> None:
        if self._setup.max_wait == float("inf"):
            return
        for waiting in list(self._desk.queue):
            if waiting.request.deadline > now:
                return  # in order of arrival, all with the same patience
            self._desk.leave(waiting, now)
            self._fleet.reject(self._jobs.pop(waiting.request.id))


def scrape(states: Sequence[EndpointState], fleet: Fleet) -> None:
    """What the prober reads of every engine's metrics."""
    for state, engine in zip(states, fleet.engines, strict=True):
        model = engine.model
        state.scraped_usage(model.cache.used / model.cache.capacity, model.waiting)


def make_request(job: Job, prompt: int, output: int, now: float, patience: float) -> InferenceRequest:
    """`prompt` and `output`: tokens as the gateway believes them; `patience`: seconds that the request may wait."""
    return InferenceRequest(
        id=str(job.number),
        tenant="acme",
        tier_priority=0,
        model="m",
        api="chat",
        lane=Lane.SHORT if prompt <= LONG_TOKENS else Lane.LONG,
        prompt_tokens=prompt,
        max_output_tokens=output,
        prefix_blocks=job.blocks,
        tokens_per_block=TRACE_BLOCK * prompt / job.prompt,
        stream=True,
        arrived_at=now,
        deadline=now + patience,
    )


def make_outcome(log: Log, job: Job) -> Outcome:
    """What a request that ends now has told."""
    arrived, first, finished = log.arrived[job.number], log.first[job.number], log.finished[job.number]
    return Outcome(
        status=200,
        started=True,
        ttft_seconds=None if first is None else first - arrived,
        total_seconds=None if finished is None else finished - arrived,
        prompt_tokens=job.prompt,
        cached_tokens=log.cached[job.number],
        completion_tokens=job.output,
    )


def make_state(number: int, setup: Setup) -> EndpointState:
    """As a probe leaves it: healthy, its cache's size read from the engine."""
    state = EndpointState(Endpoint(f"e{number}", f"http://e{number}"), EndpointHealth(assume_healthy=True))
    state.learn_kv_capacity(setup.kv_tokens, TRACE_BLOCK, setup.index_share)
    if setup.index_error != 1.0:
        state.size_index(int(state.nominal_blocks * setup.index_error))
    state.learns_rates = setup.learn
    if setup.rate_error != 1.0:
        rates = Rates()
        state.rates = Rates(
            prefill=rates.prefill * setup.rate_error,
            attention=rates.attention * setup.rate_error,
            step=rates.step,
            decode=rates.decode,
            context=rates.context,
        )
        state.learner = RateLearner(state.rates)
    return state
