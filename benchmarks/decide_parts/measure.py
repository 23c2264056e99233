"""CPU time of one decision, and of one pass over those that wait.

Floor: benchmarks. Times are medians over many rounds of this process's CPU time, so that what else runs on the machine
and a collection of garbage in one of them do not count; microseconds. On a shared machine a core is also slower for
milliseconds at a time, which is no cost of the decision: what can be done again is, and the least of it is the round's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import median

from benchmarks.decide_parts.scenes import Crowd, Prompts, make_states
from policies.decision import Candidate
from policies.endpoint_state import EndpointState
from policies.gate import Gate
from policies.profile import Profile
from policies.registry import compose, make_profile, prompt_aware
from policies.reservation import EngineReport
from policies.shortlist import fitted
from policies.types import InferenceRequest
from policies.view import View
from policies.waiting import Waiting

IDLE_BLOCKS = 20
IDLE_GOAL, PASS_GOAL = 40.0, 1000.0
"""Microseconds."""
SHARED_WAITING, SHARED_TENANTS = 1000, 50
BATCH = 20
"""Decisions measured at once, as reading the clock of CPU time takes a third of a microsecond."""
TRIES = 3
_NUMBERS = {number: number for number in range(1000)}


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table. `goal`: None for a part of another line, and where there is none."""

    name: str
    endpoints: int
    microseconds: float
    goal: float | None = None


def all_figures(endpoints: Sequence[int], rounds: int) -> Iterator[Figure]:
    """The whole table. `rounds`: passes in each situation; as many batches of decisions."""
    for size in endpoints:
        yield from idle_decision(size, rounds)
    yield yardstick(rounds)
    yield from passes(max(endpoints), rounds)
    yield from passes(max(endpoints), rounds, SHARED_WAITING, SHARED_TENANTS)
    yield yardstick(rounds)


def yardstick(rounds: int) -> Figure:
    """The same work on every machine and at every minute, so that what is slow can be told from who makes it so."""
    return Figure("yardstick: 1,000 times a call, a lookup and a sum", 0, median(cpu(_work) for _ in range(rounds)))


def _work() -> int:
    return sum([_next(number) for number in range(1000)])


def _next(number: int) -> int:
    return _NUMBERS[number] + 1


def idle_decision(endpoints: int, rounds: int, seed: int = 1) -> Iterator[Figure]:
    """A prompt of 20 blocks, some of them cached somewhere, at a pool where nothing is under way. Each line under the
    first is what its step adds to those before it, when the whole is done again and again."""
    rng = Random(seed)
    prompts = Prompts(rng, endpoints)
    idle = IdlePool(make_profile("prompt-aware", rng), make_states(prompts, rng))
    steps = (idle.look, idle.place, idle.decide, idle.serve)
    took: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, times in zip(steps, took, strict=True):
            requests = [prompts.next(IDLE_BLOCKS) for _ in range(BATCH)]
            times.append(min(cpu(partial(each, step, requests)) for _ in range(TRIES)) / BATCH)
    look, place, decide, serve = map(median, took)
    yield Figure("one request on an idle pool: decided", endpoints, place, IDLE_GOAL)
    yield Figure("  look at the endpoints", endpoints, look)
    yield Figure("  place", endpoints, place - look)
    yield Figure("its books: reserve and release", endpoints, decide - place)
    yield Figure("  what a first token and the engine's usage add", endpoints, serve - decide)


class IdlePool:
    """Nothing is under way when one of these begins, nor when it ends; they do ever more."""

    def __init__(self, profile: Profile, states: Sequence[EndpointState]) -> None:
        self._profile = profile
        self._states = states
        self._shortlist = fitted(None, states, profile)
        self._now = 0.0

    def look(self, request: InferenceRequest) -> View:
        self._now += 1.0
        if self._shortlist is not None:
            view = self._shortlist.look(Waiting(request), self._now)
        else:
            view = self._profile.look(self._states, self._now)
        if isinstance(view, View):
            return view
        raise AssertionError("an idle pool refuses")

    def place(self, request: InferenceRequest) -> Candidate:
        decision = self._profile.place(Waiting(request), self.look(request))
        if decision is None:
            raise AssertionError("an idle pool holds back")
        return decision.choice

    def decide(self, request: InferenceRequest) -> None:
        choice = self.place(request)
        choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, self._now).release(self._now)

    def serve(self, request: InferenceRequest) -> None:
        """A whole life."""
        choice = self.place(request)
        reservation = choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, self._now)
        reservation.first_token(self._now + 0.1, seen=True)
        reservation.release(self._now + 0.9, EngineReport(request.prompt_tokens, choice.cached_tokens, 200))


def each(act: Callable[[InferenceRequest], object], requests: Sequence[InferenceRequest]) -> None:
    for request in requests:
        act(request)


def passes(endpoints: int, rounds: int, waiting: int = 64, tenants: int = 4, seed: int = 1) -> Iterator[Figure]:
    """One pass in each of the situations that a busy pool comes into."""
    name, goal = f"{waiting} wait: ", PASS_GOAL if waiting <= 64 else None
    crowd = Crowd(make_profile("prompt-aware", Random(seed)), endpoints, waiting, tenants, Random(seed))
    yield Figure(f"{name}one more comes", endpoints, median(_enterings(crowd, rounds)))
    yield Figure(f"{name}all gates shut", endpoints, median(cpu(crowd.run_pass) for _ in range(rounds)), goal)
    yield Figure(f"{name}one opens", endpoints, median(_events(crowd, rounds)), goal)
    # A gate that has no room for anybody: the pass looks at all of the window, and sends nobody.
    full = compose("full", prompt_aware(Gate(kv_share=0.0)), Random(seed))
    crowd = Crowd(full, endpoints, waiting, tenants, Random(seed))
    yield Figure(f"{name}one opens, nobody fits", endpoints, median(_events(crowd, rounds)), goal)
    changed = median(_events(crowd, rounds, crowd.forget))
    yield Figure(f"{name}everything changed, nobody fits", endpoints, changed, goal)


def _enterings(crowd: Crowd, rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        crowd.turn_away()
        yield cpu(crowd.enter)


def _events(crowd: Crowd, rounds: int, before: Callable[[], None] = lambda: None) -> Iterator[float]:
    """One endpoint after the other has done its prefills, and the pass that follows; then it is busy again."""
    for number in range(rounds):
        state = crowd.states[number % len(crowd.states)]
        crowd.open(state)
        before()
        yield cpu(crowd.run_pass)
        crowd.close(state)
        crowd.refill()


def cpu(act: Callable[[], object]) -> float:
    """Microseconds."""
    began = time.process_time_ns()
    act()
    return (time.process_time_ns() - began) / 1000
