"""Gateway replicas on a virtual clock: the very pools, offices and remotes that serve, joined by wires.

Floor: benchmarks. Requests come to a replica at random, as from a balancer that knows nothing. Three ways to share:

    Owned   the first replica decides for all, the others ask it for tickets
    Late    each decides for itself, by its own requests at once and by those of the others `lag` seconds later
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.replay_parts.gateway import SCRAPE_SECONDS, make_outcome, make_request, make_state, scrape
from benchmarks.replay_parts.setup import Guess, Setup
from benchmarks.replay_parts.trace import Job
from benchmarks.replicas_parts.engines import LoopFleet
from benchmarks.replicas_parts.wire import Way, Wire
from policies.admission.desk import Desk
from policies.admission.order import ShortestPrefillFirst
from policies.attempts import AttemptPolicy
from policies.coordination.ownership import Lease, Ownership
from policies.endpoint_state import EndpointState
from policies.first_byte import FirstByteLimit
from policies.registry import make_profile
from policies.retry import Budget, RetryPolicy
from policies.types import Lane
from policies.waiting import Waiting
from router.coordination.office import Office
from router.coordination.remote import Remote
from router.elsewhere import Told
from router.metrics import Metrics
from router.pools import Place, Pool
from router.tickets import Ticket
from router.timeouts import Timeouts
from router.upstream import Upstream

PROFILE, ALONE = "prompt-aware", "prompt-aware-at-once"
_POOL = "pool"
_PATIENCE_SECONDS = 1e9  # who is turned away would flatter the mean of the others
_NEVER = float("inf")  # a lease that is not lost: what happens then is not measured here


class Replica:
    """One pool before the fleet's engines, as this replica sees them."""

    def __init__(self, name: str, fleet: LoopFleet, setup: Setup) -> None:
        self.name = name
        self.wires: dict[str, Wire] = {}
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._clock = clock = self._loop.time
        self.states = [make_state(number, setup) for number in range(setup.endpoints)]
        self.pool = _make_pool(self.states, setup, clock, name)
        self.ownership = Ownership(_POOL, name, lease_seconds=_NEVER)
        self.office = Office(lambda _: self.remote, clock, Metrics())
        self.remote = Remote(self.ownership, self._reach, lambda: None, clock, Metrics(), self.office.seats)
        self._loop.call_at(setup.rng(f"scrape {name}").uniform(0.0, SCRAPE_SECONDS), self._scrape)

    def coordinate(self, owner: Replica, delay: float) -> None:
        """From now on `owner` decides, who has been told so before; `delay`: seconds of the way to it."""
        self.remote.serve(self.pool)
        if owner is not self:
            Wire(self, owner, delay=delay)
        self.ownership.seen(Lease(owner.name, "unix:/nowhere", 1), (owner.name, self.name), self._clock())
        self.remote.look()

    def _reach(self, lease: Lease) -> Wire | None:
        return self.wires.get(lease.replica)

    def _scrape(self) -> None:
        scrape(self.states, self._fleet)
        self._loop.call_later(SCRAPE_SECONDS, self._scrape)


class Group:
    """All replicas, as a router of the replay."""

    def __init__(self, fleet: LoopFleet, setup: Setup, count: int) -> None:
        self.replicas = [Replica(f"replica-{number}", fleet, setup) for number in range(count)]
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._guess = Guess(setup)
        self._balancer = setup.rng("balancer")
        self._numbers = {f"e{number}": number for number in range(setup.endpoints)}
        self._tickets: dict[int, Ticket] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def arrive(self, job: Job, now: float) -> None:
        task = self._loop.create_task(self._serve(self._balancer.choice(self.replicas), job, now))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self._tickets[job.number].first_token()

    def finish(self, job: Job, engine: int, now: float) -> None:
        self._tickets.pop(job.number).settle(make_outcome(self._fleet.log, job))

    async def _serve(self, replica: Replica, job: Job, now: float) -> None:
        request = make_request(job, self._guess.prompt(job), self._guess.output(job), now, _PATIENCE_SECONDS)
        ticket = await replica.pool.dispatch(request)
        self._tickets[job.number] = ticket
        self._sent(replica, job, ticket)
        self._fleet.send(self._numbers[ticket.endpoint], job)

    def _sent(self, replica: Replica, job: Job, ticket: Ticket) -> None:
        """A request has left."""

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fleet.fail(error)


class Owned(Group):
    """`latency`: seconds that a ticket is on its way, there and back."""

    def __init__(self, fleet: LoopFleet, setup: Setup, count: int, latency: float) -> None:
        super().__init__(fleet, setup, count)
        for replica in self.replicas:
            replica.coordinate(self.replicas[0], latency / 2)


class Late(Group):
    """`lag`: seconds until the others know of a dispatch, a first token or an end."""

    def __init__(self, fleet: LoopFleet, setup: Setup, count: int, lag: float) -> None:
        super().__init__(fleet, setup, count)
        self._news = Way(lag)
        self._views: dict[int, list[Ticket]] = {}  # what others believe of a request

    def first_token(self, job: Job, engine: int, now: float) -> None:
        super().first_token(job, engine, now)
        self._news.carry(partial(self._heard_first, job.number))

    def finish(self, job: Job, engine: int, now: float) -> None:
        super().finish(job, engine, now)
        self._news.carry(partial(self._heard_end, job))

    def _sent(self, replica: Replica, job: Job, ticket: Ticket) -> None:
        others = [one for one in self.replicas if one is not replica]
        self._news.carry(partial(self._heard, others, job.number, ticket))

    def _heard(self, others: Sequence[Replica], number: int, ticket: Ticket) -> None:
        choice = ticket.choice
        told = Told(ticket.endpoint, choice.cached_tokens, choice.own_seconds, choice.ttft_seconds)
        heard = [one.pool.bind(Waiting(ticket.request), told) for one in others]
        self._views[number] = [one for one in heard if one is not None]

    def _heard_first(self, number: int) -> None:
        for view in self._views[number]:
            view.first_token()

    def _heard_end(self, job: Job) -> None:
        for view in self._views.pop(job.number):
            view.settle(make_outcome(self._fleet.log, job))


def _make_pool(states: Sequence[EndpointState], setup: Setup, clock: Callable[[], float], name: str) -> Pool:
    retry = RetryPolicy(0, Budget(0.0, 1), _PATIENCE_SECONDS, setup.rng("retries"))
    timeouts = Timeouts(*[_PATIENCE_SECONDS] * 4)
    pool = Pool(
        _POOL,
        [Place(state, Upstream(state.endpoint.url, timeouts=timeouts)) for state in states],
        make_profile(PROFILE, setup.rng(f"profile of {name}")),
        Desk(ShortestPrefillFirst(), bounds=dict.fromkeys(Lane, setup.max_waiting)),
        clock,
        attempts=AttemptPolicy(retry, FirstByteLimit(*[_PATIENCE_SECONDS] * 3), 0.0),
        when_full=dict.fromkeys(Lane, 503),
        alone=make_profile(ALONE, setup.rng(f"alone of {name}")),
    )
    pool.take_over()
    return pool
