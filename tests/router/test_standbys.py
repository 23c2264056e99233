"""A pool whose hot endpoint goes: who is held, for how long, who takes over, and what is measured and put away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from policies.endpoint_state import EndpointState
from policies.standby import Level, StandbySettings
from policies.types import FailureCause, InferenceRequest, Lane, Outcome, Role, Tier
from router.errors import NoEndpoint
from router.hooks import HookFailed
from router.keeper import Detour, Terms
from router.metrics import Metrics
from router.pools import Place, Pool
from router.standby_engines import StandbysSettings
from router.standbys import Standbys
from router.tickets import Ticket
from router.wake import Leases, WakeFailed
from tests.policies.builders import make_state
from tests.router.builders import end, make_pool, request, turns, waiting

GOLD = Tier("gold", 1, 15.0, hold_seconds=10.0, hold_requests=2)
CALM = 30.0
GOOD = Outcome(200)
REFUSED = Outcome(0, FailureCause.CONNECT)


class Engines:
    """What engines would answer. `wakes`: set when /wake_up may be answered."""

    wake_seconds = 5.0

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.sleeping: set[str] = set()
        self.mute: set[str] = set()  # wake, and answer nothing
        self.wakes = asyncio.Event()
        self.calls: list[str] = []

    async def healthy(self, url: str) -> bool:
        return url not in self.dead

    async def asleep(self, url: str) -> bool:
        return url in self.sleeping

    async def wake(self, url: str) -> None:
        self.calls.append(f"wake {url}")
        await self.wakes.wait()
        self.sleeping.discard(url)

    async def sleep(self, url: str) -> bool:
        self.calls.append(f"sleep {url}")
        self.sleeping.add(url)
        return True

    async def canary(self, url: str) -> None:
        self.calls.append(f"canary {url}")
        if url in self.mute:
            raise WakeFailed("nothing comes")

    async def close(self) -> None:
        self.calls.append("close")


class Scene:
    """A pool with a hot and a warm endpoint, its standbys, and a clock that stands still."""

    def __init__(self, states: list[EndpointState], leases: Leases | None = None, **options: Any) -> None:
        self.now = 1000.0
        self.states = states
        self.pool = make_pool(states, name=options.pop("name", "p"), clock=lambda: self.now)
        self.pool.source, self.pool.known = options.pop("source", None), options.pop("known", True)
        self.engines = Engines()
        self.metrics = Metrics()
        degraded = options.pop("degraded", None)
        settings = StandbysSettings(machine=StandbySettings(calm_seconds=CALM), **options)
        self.leases = leases or Leases()
        self.standbys = Standbys(
            self.pool,
            settings,
            self.engines,
            self.leases,
            self.metrics,
            lambda: 5000.0,
            degraded,  # type: ignore[arg-type]
        )
        self.standbys.take_over(None)

    def kill(self, state: EndpointState) -> None:
        """As probes see it."""
        for _ in range(2):
            state.health.probe(False, self.now)
        self.engines.dead.add(state.endpoint.url)

    def revive(self, state: EndpointState) -> None:
        state.health.probe(True, self.now)
        self.engines.dead.discard(state.endpoint.url)

    async def pass_calm(self) -> None:
        """So much time that what is well counts as well."""
        self.standbys.look(self.now)
        self.now += CALM
        self.standbys.look(self.now)
        await turns()

    def count(self, name: str, *labels: str) -> float:
        text = self.metrics.render().decode()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith(f"{name}{{") and all(f'"{label}"' in line for label in labels)
        )


@asynccontextmanager
async def scene(*, asleep: bool = True, **options: Any) -> AsyncIterator[Scene]:
    hot, warm = make_state("hot"), make_state("warm", role=Role.WARM)
    one = Scene([hot, warm], **options)
    if asleep:
        warm.sleeping = True
        one.engines.sleeping.add(warm.endpoint.url)
    try:
        yield one
    finally:
        await one.standbys.stop()


def asked(name: str = "r", *, tier: Tier = GOLD, tenant: str = "acme", **fields: Any) -> InferenceRequest:
    return replace(request(name, deadline=1e6), tier=tier, tenant=tenant, arrived_at=1000.0, **fields)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


def finish(ticket: Ticket, outcome: Outcome = GOOD) -> None:
    ticket.first_token()
    ticket.settle(outcome)


async def test_who_finds_nobody_is_held_until_the_standby_has_woken_and_answered_its_canary() -> None:
    async with scene() as it:
        hot, warm = it.states
        it.kill(hot)
        (held,) = waiting(it.pool, asked())
        await until(lambda: it.engines.calls == ["wake http://warm"])
        assert (it.standbys.held, it.standbys.rising, held.done()) == (1, Level.WARM, False)
        it.now += 3.0
        it.engines.wakes.set()
        ticket = await asyncio.wait_for(held, 60)
        assert it.engines.calls == ["wake http://warm", "canary http://warm"]
        assert (ticket.endpoint, ticket.queued_seconds, it.standbys.held) == ("warm", 3.0, 0)
        finish(ticket)
        assert (it.standbys.level, warm.in_flight, len(it.pool.waiting)) == (Level.WARM, 0, 0)


async def test_the_recovery_is_measured_from_the_first_held_request_to_the_first_good_answer() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        told = []
        stop_listening = it.standbys.listen(lambda event: told.append((event.after, event.rto)))
        first, second = waiting(it.pool, asked("a"), asked("b"))
        await until(lambda: bool(it.engines.calls))
        it.now += 4.0
        it.engines.wakes.set()
        tickets = [await asyncio.wait_for(one, 60) for one in (first, second)]
        for ticket in tickets:
            it.now += 1.0
            finish(ticket)
        (event,) = it.standbys.events
        assert (event.cause, event.rto, event.met, event.at) == ("nobody", 5.0, True, 5000.0)
        assert told == [(Level.WARM, None), (Level.WARM, 5.0)]
        stop_listening()
        assert it.count("promptlane_recovery_seconds_count", "acme", "gold") == 1
        assert it.count("promptlane_recovery_missed_total") == 0
        assert it.count("promptlane_failovers_total", "p", "warm", "nobody") == 1


@pytest.mark.parametrize(
    ("cause", "seconds"),
    [
        (FailureCause.CLOSED, 2.0),
        (FailureCause.ENGINE_ABORT, 2.0),
        (FailureCause.TIMEOUT, 32.0),
        (FailureCause.HUNG, 32.0),
    ],
)
async def test_what_an_engine_breaks_off_was_in_trouble_since_then_and_what_it_let_wait_all_the_time(
    cause: FailureCause, seconds: float
) -> None:
    """A whole answer of half a minute was well until its engine died; of one that hung nobody knows."""
    async with scene() as it:
        ticket = await it.pool.dispatch(asked())
        it.now += 30.0
        it.kill(it.states[0])
        ticket.settle(Outcome(0, cause))
        (again,) = waiting(it.pool, asked())
        await until(lambda: bool(it.engines.calls))
        it.now += 2.0
        it.engines.wakes.set()
        finish(await asyncio.wait_for(again, 60))
        (event,) = it.standbys.events
        assert event.recoveries[0].seconds == seconds


async def test_a_target_that_is_missed_is_counted_once_also_when_nobody_ever_answers() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        tier = replace(GOLD, rto_seconds=2.0)
        late, never = waiting(it.pool, asked("a", tier=tier), asked("b", tier=tier, tenant="globex"))
        await until(lambda: bool(it.engines.calls))
        it.now += 3.0
        it.standbys.recoveries.look(it.now, rising=True)
        assert it.count("promptlane_recovery_missed_total", "acme", "gold") == 1
        it.engines.wakes.set()
        finish(await asyncio.wait_for(late, 60))
        (await asyncio.wait_for(never, 60)).settle(None)
        (event,) = it.standbys.events
        assert (event.met, event.recoveries[0].seconds) == (False, 3.0)
        assert it.count("promptlane_recovery_missed_total", "acme", "gold") == 1
        assert it.count("promptlane_recovery_missed_total", "globex", "gold") == 1


async def test_held_requests_are_bounded_in_number_and_in_time() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        tasks = waiting(it.pool, *(asked(str(number)) for number in range(3)))
        await until(lambda: tasks[2].done())
        assert isinstance(tasks[2].exception(), NoEndpoint)
        it.now += 9.9
        it.pool.run_pass()
        await turns()
        assert not tasks[0].done()
        it.now += 0.1
        it.pool.run_pass()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, NoEndpoint) for one in found)
        assert (it.standbys.held, len(it.pool.waiting)) == (0, 0)


async def test_a_client_that_leaves_while_it_is_held_gives_its_place_back() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        tasks = waiting(it.pool, asked("a"), asked("b"))
        await until(lambda: it.standbys.held == 2)
        await end(tasks)
        assert (it.standbys.held, len(it.pool.waiting)) == (0, 0)


async def test_a_failed_attempt_at_the_only_hot_endpoint_raises_the_standby_before_probes_know() -> None:
    async with scene() as it:
        hot = it.states[0]
        ticket = await it.pool.dispatch(asked())
        it.engines.dead.add(hot.endpoint.url)
        ticket.settle(REFUSED)
        held = asyncio.create_task(it.pool.dispatch(asked(), frozenset({"hot"})))
        await until(lambda: it.engines.calls == ["wake http://warm"])
        it.engines.wakes.set()
        again = await asyncio.wait_for(held, 60)
        assert (again.endpoint, hot.available(it.now)) == ("warm", True)
        finish(again)


async def test_an_engine_that_is_well_and_closed_one_connection_raises_nobody() -> None:
    async with scene() as it:
        ticket = await it.pool.dispatch(asked())
        ticket.settle(Outcome(0, FailureCause.CLOSED))
        with pytest.raises(NoEndpoint):
            await it.pool.dispatch(asked(), frozenset({"hot"}))
        assert (it.engines.calls, it.standbys.rising, it.standbys.held) == ([], None, 0)


async def test_an_awake_standby_takes_over_at_once_and_keeps_the_work_while_the_hot_one_proves_itself() -> None:
    async with scene(asleep=False) as it:
        hot, _ = it.states
        it.kill(hot)
        ticket = await it.pool.dispatch(asked())
        it.standbys.look(it.now)
        assert (ticket.endpoint, it.standbys.level, it.engines.calls) == ("warm", Level.WARM, [])
        it.revive(hot)
        again = await it.pool.dispatch(asked())
        assert again.endpoint == "warm"
        await it.pass_calm()
        assert (await it.pool.dispatch(asked())).endpoint == "hot"
        assert [(one.before, one.after) for one in it.standbys.events] == [
            (Level.HOT, Level.WARM),
            (Level.WARM, Level.HOT),
        ]


async def test_when_hot_is_back_before_the_standby_the_held_requests_go_there() -> None:
    async with scene() as it:
        hot = it.states[0]
        it.kill(hot)
        (held,) = waiting(it.pool, asked())
        await until(lambda: bool(it.engines.calls))
        it.revive(hot)
        it.pool.run_pass()
        assert (await asyncio.wait_for(held, 60)).endpoint == "hot"
        assert it.standbys.held == 0


async def test_a_gateway_that_has_just_started_wakes_nobody() -> None:
    unknown = make_state("hot", healthy=False)
    it = Scene([unknown, make_state("warm", role=Role.WARM)])
    it.standbys.look(it.now)
    assert (it.standbys.rising, it.standbys.level) == (None, Level.HOT)
    await it.standbys.stop()


async def test_an_engine_that_wakes_and_answers_nothing_gets_no_request() -> None:
    async with scene() as it:
        it.engines.mute.add("http://warm")
        it.engines.wakes.set()
        it.kill(it.states[0])
        (held,) = waiting(it.pool, asked())
        await until(held.done)
        assert isinstance(held.exception(), NoEndpoint)
        assert (it.states[1].sleeping, it.standbys.level, it.standbys.rising) == (True, Level.HOT, None)


async def test_drills_keep_endpoints_out_and_let_them_back() -> None:
    async with scene(asleep=False) as it:
        under_way = await it.pool.dispatch(asked())
        it.standbys.simulate_failure({"hot"})
        assert (it.standbys.level, (await it.pool.dispatch(asked())).endpoint) == (Level.WARM, "warm")
        finish(under_way)
        it.standbys.end_simulation()
        await it.pass_calm()
        assert (await it.pool.dispatch(asked())).endpoint == "hot"


async def test_a_pool_without_anybody_left_sends_its_requests_to_another_pool() -> None:
    other = make_pool([make_state("other")], name="small", clock=lambda: 1002.0)
    terms = Terms(None, 64, refuse_batch=True, shared=False)
    async with scene(degraded=(other, terms)) as it:
        it.engines.mute.add("http://warm")
        it.engines.wakes.set()
        it.kill(it.states[0])
        with pytest.raises(Detour) as detour:
            await it.pool.dispatch(asked())
        assert (detour.value.pool, detour.value.terms, it.standbys.level) == (other, terms, Level.DEGRADED)
        ticket = await other.dispatch(asked())
        ticket.watcher = detour.value.watcher
        finish(ticket)
        assert it.standbys.events[-1].rto == 2.0
        assert it.standbys.machine.level is Level.DEGRADED


class Hook:
    def __init__(self, error: str | None = None) -> None:
        self.runs: list[str] = []
        self.error = error

    async def run(self, action: str, pool: str, endpoints: list[str]) -> None:
        self.runs.append(f"{action} {pool} {' '.join(endpoints)}")
        if self.error is not None:
            raise HookFailed(self.error)


def cold_scene(**options: Any) -> Scene:
    return Scene([make_state("hot"), make_state("cold", role=Role.COLD, healthy=False)], **options)


async def test_a_cold_standby_is_started_once_however_many_ask() -> None:
    hook = Hook()
    it = cold_scene(start=hook)
    it.kill(it.states[0])
    held = waiting(it.pool, asked("a"), asked("b"))
    tickets = [await asyncio.wait_for(one, 60) for one in held]
    assert hook.runs == ["start p cold"]
    assert {one.endpoint for one in tickets} == {"cold"}
    assert it.standbys.level is Level.COLD
    await it.standbys.stop()


def comes(one: Scene, *states: EndpointState) -> None:
    """These are found, and no others."""
    one.pool.change([one.pool.places[0], *[Place(state, one.pool.places[0].upstream, key="k") for state in states]])
    one.standbys.refresh()


async def test_a_cold_standby_that_is_found_only_once_it_runs_is_started_and_takes_over() -> None:
    hot, cold = make_state("hot"), make_state("p.cold", role=Role.COLD)
    starts = Hook()
    one = Scene([hot], start=starts, stop=starts, source="pods")
    one.kill(hot)
    (held,) = waiting(one.pool, asked())
    await until(lambda: bool(starts.runs))
    assert (starts.runs, held.done()) == (["start p "], False)
    comes(one, cold)
    ticket = await asyncio.wait_for(held, 60)
    assert (ticket.endpoint, one.standbys.level) == ("p.cold", Level.COLD)
    instead = make_state("p.cold-anew", role=Role.COLD)  # its pod is replaced: it is put away as the first would be
    ticket.settle(GOOD)
    comes(one, instead)
    one.revive(hot)
    await one.pass_calm()
    assert one.standbys.level is Level.HOT
    assert "standby lower p.cold-anew" in {task.get_name() for task in asyncio.all_tasks()}
    await one.standbys.stop()


async def test_a_cold_standby_that_is_never_found_is_given_up() -> None:
    hot = make_state("hot")
    starts = Hook()
    one = Scene([hot], start=starts, give_up_seconds=0.05, source="pods")
    one.kill(hot)
    (held,) = waiting(one.pool, asked())
    with pytest.raises(NoEndpoint):
        await asyncio.wait_for(held, 60)
    assert one.standbys.rising is None
    await one.standbys.stop()


async def test_before_anything_was_found_nobody_is_started() -> None:
    starts = Hook()
    one = Scene([], start=starts, source="pods", known=False)
    (held,) = waiting(one.pool, asked())
    with pytest.raises(NoEndpoint):
        await asyncio.wait_for(held, 60)
    assert starts.runs == []
    await one.standbys.stop()


async def test_a_warm_standby_that_is_withdrawn_leaves_the_levels_of_its_pool() -> None:
    hot, warm = make_state("hot"), make_state("p.warm", role=Role.WARM)
    one = Scene([hot], source="pods")
    assert one.standbys.machine.levels == (Level.HOT,)
    comes(one, warm)
    assert one.standbys.machine.levels == (Level.HOT, Level.WARM)
    one.kill(hot)
    ticket = await asyncio.wait_for(waiting(one.pool, asked())[0], 60)
    assert ticket.endpoint == "p.warm"
    ticket.settle(GOOD)
    comes(one)
    with pytest.raises(NoEndpoint):
        await asyncio.wait_for(waiting(one.pool, asked())[0], 60)
    await one.standbys.stop()


async def test_starts_are_counted_by_the_hour_and_a_hook_that_fails_is_an_honest_refusal() -> None:
    hook = Hook("no such deployment")
    it = cold_scene(start=hook, starts_per_hour=2)
    it.kill(it.states[0])
    for _ in range(4):
        (held,) = waiting(it.pool, asked())
        await until(held.done)
        assert isinstance(held.exception(), NoEndpoint)
        it.now += 20.0
    assert len(hook.runs) == 2
    it.now += 3600.0
    (held,) = waiting(it.pool, asked())
    await until(held.done)
    assert len(hook.runs) == 3
    await it.standbys.stop()


async def test_a_shared_engine_is_one_pools_at_a_time_and_the_next_in_turn_has_it_afterwards() -> None:
    leases, shared = Leases(), frozenset({"http://warm"})
    one, two = (
        Scene([make_state(f"hot-{name}"), make_state("warm", role=Role.WARM)], leases, name=name, shared=shared)
        for name in ("one", "two")
    )
    assert [it.states[1].available(it.now) for it in (one, two)] == [False, False], "nobody has it yet"
    for it in (one, two):
        it.kill(it.states[0])
    (first,) = waiting(one.pool, asked())
    ticket = await asyncio.wait_for(first, 60)
    (second,) = waiting(two.pool, asked())
    await turns(10)
    assert (leases.holder("http://warm"), second.done(), two.standbys.held) == ("one", False, 1)
    finish(ticket)
    one.revive(one.states[0])
    await one.pass_calm()
    assert (await asyncio.wait_for(second, 60)).endpoint == "warm"
    assert leases.holder("http://warm") == "two"
    assert not one.states[1].available(one.now)
    for it in (one, two):
        await it.standbys.stop()


async def test_a_reload_in_the_middle_of_a_wake_wakes_on_and_loses_nobody() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        (held,) = waiting(it.pool, asked())
        await until(lambda: bool(it.engines.calls))
        after = make_pool(it.states, name="p", clock=lambda: it.now, predecessor=it.pool)
        settings = StandbysSettings(machine=StandbySettings(calm_seconds=CALM))
        following = Standbys(after, settings, it.engines, it.leases, it.metrics, lambda: 0.0)  # type: ignore[arg-type]
        following.take_over(it.standbys)
        await it.standbys.stop()
        after.run_pass()
        it.engines.wakes.set()
        ticket = await asyncio.wait_for(held, 60)
        assert (ticket.endpoint, following.level, following.held) == ("warm", Level.WARM, 0)
        finish(ticket)
        assert following.events[-1].recoveries[0].tenant == "acme"
        await following.stop()


async def test_what_ends_after_a_reload_is_told_to_who_is_in_charge_then() -> None:
    async with scene() as it:
        ticket = await it.pool.dispatch(asked())
        settings = StandbysSettings(machine=StandbySettings())
        following = Standbys(it.pool, settings, it.engines, it.leases, it.metrics, lambda: 0.0)  # type: ignore[arg-type]
        following.take_over(it.standbys)
        await it.standbys.stop()
        it.engines.dead.add("http://hot")
        it.kill(it.states[0])
        ticket.settle(REFUSED)
        await until(lambda: it.engines.calls[-1] == "wake http://warm")
        assert (following.rising, it.standbys.rising) == (Level.WARM, None)
        await following.stop()
        it.standbys.look(it.now)
        assert it.standbys.rising is None, "who is no more raises nobody"


async def test_who_is_held_is_told_so_once() -> None:
    async with scene() as it:
        it.kill(it.states[0])
        told: list[float] = []
        held = asyncio.create_task(it.pool.dispatch(asked(), on_hold=told.append))
        await until(lambda: bool(told))
        for _ in range(3):
            it.pool.run_pass()
        assert told == [3.0]
        await end([held])


async def test_latency_brings_the_standby_in_beside_the_hot_ones() -> None:
    async with scene(asleep=False) as it:
        for _ in range(20):
            it.standbys.answered(it.states[0], asked(), it.now + 3.0)
        it.standbys.look(it.now + 3.0)
        assert it.standbys.level is Level.WARM
        assert [state.rank for state in it.states] == [0, 0]


async def test_answers_of_long_requests_say_nothing_of_latency() -> None:
    async with scene(asleep=False) as it:
        for _ in range(50):
            it.standbys.answered(it.states[0], asked(lane=Lane.LONG), it.now + 30.0)
        it.standbys.look(it.now)
        assert it.standbys.level is Level.HOT


def test_a_pool_without_standbys_asks_nobody() -> None:
    pool: Pool = make_pool([make_state("hot")])
    assert pool.keeper is None


async def test_a_replica_that_does_not_look_after_the_pool_wakes_nobody() -> None:
    class Follows:
        minds = False

        def looks_after(self) -> bool:
            return self.minds

        def decides(self) -> bool:
            return True

    async with scene() as one:
        one.pool.remote = follows = Follows()  # type: ignore[assignment]
        one.kill(one.states[0])
        one.standbys.look(one.now)
        await turns()
        assert one.standbys.rising is None
        follows.minds = True
        one.standbys.look(one.now)
        assert one.standbys.rising is Level.WARM
