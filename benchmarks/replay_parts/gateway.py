"""The gateway's own policies, by the very objects that serve: profile, order, plan, states, reservations.

Floor: benchmarks, pure. What `router/pools.py` does with futures is done here on the virtual clock: a pass on every
arrival, first token and finish. What the router learns from answers is told as the router tells it.
"""

from __future__ import annotations

from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Guess, Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Job
from policies.admission.order import ShortestPrefillFirst
from policies.cost import Rates
from policies.decision import Decision
from policies.dispatch import WINDOW, plan
from policies.endpoint_state import EndpointState, Reservation
from policies.health import EndpointHealth
from policies.registry import make_profile
from policies.types import Endpoint, InferenceRequest, Lane, Outcome

LONG_TOKENS = 2048
"""Prompts of more tokens are long: the gateway's default."""


class Gateway:
    """One pool under a profile of `policies.registry`."""

    def __init__(self, fleet: Fleet, setup: Setup, profile: str) -> None:
        self._fleet = fleet
        self._setup = setup
        self._guess = Guess(setup)
        self.profile = make_profile(profile, setup.rng("profile"))
        self._order = ShortestPrefillFirst()
        self.states = tuple(_state(number, setup) for number in range(setup.endpoints))
        self._numbers = {state.endpoint.name: number for number, state in enumerate(self.states)}
        self._waiting: dict[int, tuple[InferenceRequest, Job]] = {}
        self._sent: dict[int, Reservation] = {}
        self._passing = self._again = False

    def arrive(self, job: Job, now: float) -> None:
        if len(self._waiting) >= self._setup.max_waiting:
            self._fleet.reject(job)
            return
        request = self._request(job, now)
        self._waiting[id(request)] = (request, job)
        self._pass(now)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self._sent[job.number].first_token(now)
        self.states[engine].health.on_first_token(now)
        self._pass(now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        self._sent.pop(job.number).release(now)
        self.states[engine].health.record(self._outcome(job, now), now)
        self._pass(now)

    def _pass(self, now: float) -> None:
        self._turn_away_the_late(now)
        while self._waiting and self._plan(now) >= WINDOW:
            pass

    def _plan(self, now: float) -> int:
        waiting = [request for request, _ in self._waiting.values()]
        return plan(waiting, self.states, self.profile, self._order, now, self._commit)

    def _commit(self, request: InferenceRequest, decision: Decision) -> None:
        _, job = self._waiting.pop(id(request))
        choice = decision.choice
        self._sent[job.number] = choice.state.reserve(
            request, choice.cached_tokens, choice.own_seconds, self._fleet.now
        )
        self._fleet.send(self._numbers[choice.state.endpoint.name], job)

    def _turn_away_the_late(self, now: float) -> None:
        if self._setup.max_wait == float("inf"):
            return
        for key, (request, job) in list(self._waiting.items()):
            if request.deadline > now:
                return  # in order of arrival, all with the same patience
            del self._waiting[key]
            self._fleet.reject(job)

    def _request(self, job: Job, now: float) -> InferenceRequest:
        tokens = self._guess.prompt(job)
        return InferenceRequest(
            id=str(job.number),
            tenant="acme",
            tier_priority=0,
            model="m",
            api="chat",
            lane=Lane.SHORT if tokens <= LONG_TOKENS else Lane.LONG,
            prompt_tokens=tokens,
            max_output_tokens=self._guess.output(job),
            prefix_blocks=job.blocks,
            tokens_per_block=TRACE_BLOCK * tokens / job.prompt,
            stream=True,
            arrived_at=now,
            deadline=now + self._setup.max_wait,
        )

    def _outcome(self, job: Job, now: float) -> Outcome:
        log = self._fleet.log
        first = log.first[job.number]
        return Outcome(
            status=200,
            started=True,
            ttft_seconds=None if first is None else first - log.arrived[job.number],
            total_seconds=now - log.arrived[job.number],
            prompt_tokens=job.prompt,
            cached_tokens=log.cached[job.number],
            completion_tokens=job.output,
        )


def _state(number: int, setup: Setup) -> EndpointState:
    """As a probe leaves it: healthy, its cache's size read from the engine."""
    state = EndpointState(Endpoint(f"e{number}", f"http://e{number}"), EndpointHealth(assume_healthy=True))
    state.learn_kv_capacity(setup.kv_tokens, TRACE_BLOCK, setup.index_share)
    if setup.rate_error != 1.0:
        rates = Rates()
        state.rates = Rates(
            prefill=rates.prefill * setup.rate_error,
            attention=rates.attention * setup.rate_error,
            step=rates.step,
            decode=rates.decode,
            context=rates.context,
        )
    return state
