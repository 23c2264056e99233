"""Pools and queues to decide on: full indexes, prompts of every length that are partly cached, engines that are busy.

Floor: benchmarks, pure. Only the gateway's own objects, in states that its pools come into.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from random import Random

from policies.admission.desk import Desk, Turn
from policies.admission.order import ShortestPrefillFirst
from policies.decision import Decision
from policies.dispatch import plan
from policies.endpoint_state import EndpointState
from policies.health import EndpointHealth
from policies.pool_rates import PoolRates
from policies.profile import Profile
from policies.reservation import Reservation
from policies.shortlist import IN_LINE, fitted
from policies.types import Endpoint, InferenceRequest, Lane
from policies.waiting import Waiting

KV_TOKENS = 409_600
BLOCK_TOKENS = 64.0
"""An 80 GB GPU with an 8B model (facts/routing.md); a block is what the gateway's are."""
LEAST_BLOCKS, MOST_BLOCKS = 2, 500
"""Prompts of about 150 to 32,000 tokens, evenly on a logarithmic scale: the median is 2,000 tokens."""
DOCUMENTS = 20
HOMES = 2
"""Chains that prompts begin with, per endpoint, and at how many endpoints each has been: twice what fits."""
BUSY_SECONDS = 0.5
BUSY_REQUESTS = 3
BUSY_BLOCKS = 20
"""What keeps an endpoint's gate shut: so many prefills of so many seconds."""
EVENT_SECONDS = 0.01
"""Between two events of a busy pool."""


class Prompts:
    """Requests like those of a chat service: each begins with a part of a document that endpoints have seen."""

    def __init__(self, rng: Random, endpoints: int, tenants: int = 4) -> None:
        self._rng = rng
        self.endpoints = endpoints
        self._tenants = tenants
        self._numbers = count()
        self.documents = [self._ids(MOST_BLOCKS) for _ in range(DOCUMENTS * endpoints)]

    def next(self, blocks: int | None = None, now: float = 0.0) -> InferenceRequest:
        """A prompt of so many blocks, or of any length."""
        rng, number = self._rng, next(self._numbers)
        if blocks is None:
            blocks = round(LEAST_BLOCKS * (MOST_BLOCKS / LEAST_BLOCKS) ** rng.random())
        seen = rng.randint(0, blocks)
        chain = (*rng.choice(self.documents)[:seen], *self._ids(blocks - seen))
        tokens = round(blocks * BLOCK_TOKENS) + rng.randint(1, 60)
        return InferenceRequest(
            id=str(number),
            tenant=f"tenant-{number % self._tenants}",
            tier_priority=0,
            model="m",
            api="chat",
            lane=Lane.SHORT if tokens <= 2048 else Lane.LONG,
            prompt_tokens=tokens,
            max_output_tokens=256,
            prefix_blocks=chain,
            tokens_per_block=BLOCK_TOKENS,
            stream=True,
            arrived_at=now,
            deadline=float("inf"),
        )

    def _ids(self, blocks: int) -> tuple[int, ...]:
        return tuple(self._rng.getrandbits(64) for _ in range(blocks))


def make_states(prompts: Prompts, rng: Random) -> tuple[EndpointState, ...]:
    """Idle endpoints that have served many prompts."""
    states = []
    for number in range(prompts.endpoints):
        health = EndpointHealth(assume_healthy=True)
        states.append(EndpointState(Endpoint(f"e{number}", f"http://e{number}"), health))
        states[-1].learn_kv_capacity(KV_TOKENS, BLOCK_TOKENS)
    for document in prompts.documents:
        for state in rng.sample(states, HOMES):
            state.index.touch(document[: rng.randint(1, len(document))])
    PoolRates(states).join()  # as every pool does
    return tuple(states)


class Crowd:
    """A pool in front of which `waiting` requests wait, of `tenants` tenants. All engines are busy at first."""

    def __init__(self, profile: Profile, endpoints: int, waiting: int, tenants: int, rng: Random) -> None:
        self._profile = profile
        self._now = 0.0
        self._prompts = Prompts(rng, endpoints, tenants)
        self.states = make_states(self._prompts, rng)
        self._shortlist = fitted(None, self.states, profile)
        self._desk = Desk(ShortestPrefillFirst(), bounds=dict.fromkeys(Lane, waiting), endpoints=endpoints)
        self._length = waiting
        self._held: dict[str, list[tuple[Reservation, Turn | None]]] = {}
        for state in self.states:
            self.close(state)
        self.refill()

    def refill(self) -> None:
        """As many wait as at first."""
        while len(self._desk) < self._length:
            self.enter()

    def enter(self) -> None:
        """One more waits."""
        waiting = Waiting(self._prompts.next(now=self._now))
        states = self.states if self._shortlist is None else self._shortlist.of(waiting.request, self._now)
        self._desk.enter(waiting, states, self._now)

    def turn_away(self) -> None:
        """Who came last waits no longer."""
        *_, last = self._desk.queue
        self._desk.leave(last, self._now)

    def close(self, state: EndpointState) -> None:
        """What the endpoint had is over. It has prefills to do for longer than the gate lets anybody wait, and another
        index than before."""
        for reservation, turn in self._held.pop(state.endpoint.name, []):
            reservation.release(self._now)
            if turn is not None:
                self._desk.ended(turn)
        busy = [self._prompts.next(BUSY_BLOCKS, self._now) for _ in range(BUSY_REQUESTS)]
        self._held[state.endpoint.name] = [(state.reserve(one, 0, BUSY_SECONDS, self._now), None) for one in busy]

    def open(self, state: EndpointState) -> None:
        """The endpoint's prefills are done; its requests decode."""
        self._now += EVENT_SECONDS
        for reservation, _ in self._held[state.endpoint.name]:
            reservation.first_token(self._now)

    def forget(self) -> None:
        """Every prediction must be made anew, at every endpoint."""
        for state in self.states:
            state.index.version += 1

    def run_pass(self) -> int:
        """How many were sent."""
        states: Sequence[EndpointState] = self.states
        whole = None
        if self._shortlist is not None:
            states = self._shortlist.for_line(self._desk.queue.soonest(IN_LINE), self._now)
            whole = self._shortlist.whole
        return plan(self._desk, states, self._profile, self._now, self._commit, whole=whole)

    def _commit(self, waiting: Waiting, decision: Decision) -> None:
        choice = decision.choice
        reservation = choice.state.reserve(waiting.request, choice.cached_tokens, choice.own_seconds, self._now)
        turn = self._desk.sent(waiting, choice.state.rates, choice.cached_tokens, self._now)
        self._held[choice.state.endpoint.name].append((reservation, turn))
