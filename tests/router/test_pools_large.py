"""Pools of more endpoints than a decision looks at: whoever can take a request is found, waits end, reloads go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from policies.admission.engine_time import highest_cost
from policies.admission.limit import Use
from policies.cost import Rates
from policies.endpoint_state import EndpointState
from policies.shortlist import SMALL
from policies.types import InferenceRequest, Lane, Role
from policies.waiting import Waiting
from router.elsewhere import Told
from router.errors import NoEndpoint
from router.pools import Place, Pool
from router.tickets import Ticket
from router.upstream import Upstream
from tests.policies.builders import learn_rates, make_fleet, make_state
from tests.router.builders import LIMITS, NOBODY, end, make_pool, request, turns, waiting

MANY = 2 * SMALL


def places(states: Sequence[EndpointState]) -> list[Place]:
    return [Place(state, Upstream(NOBODY, timeouts=LIMITS)) for state in states]


def own(name: str, seed: int) -> InferenceRequest:
    rng = Random(seed)
    return request(name, blocks=tuple(rng.getrandbits(64) for _ in range(8)))


async def fill(pool: Pool, count: int) -> list[Ticket]:
    return [await asyncio.wait_for(pool.dispatch(own(f"r{number}", number)), 60) for number in range(count)]


async def test_every_seat_is_had_at_once_and_then_requests_wait_for_the_first_that_is_given_back() -> None:
    states = make_fleet(MANY, max_in_flight=1)
    pool = make_pool(states)
    tickets = await fill(pool, MANY)
    assert {ticket.endpoint for ticket in tickets} == {state.endpoint.name for state in states}
    late = waiting(pool, *[own(f"late{number}", number) for number in range(3)])
    await turns()
    assert len(pool.waiting) == 3
    tickets[70].settle(None)
    done, _ = await asyncio.wait(late, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().endpoint for task in done] == [tickets[70].endpoint]
    await end(late)


async def test_a_queue_of_many_is_sent_when_endpoints_become_free_and_each_is_sent_once() -> None:
    now = [0.0]
    states = make_fleet(MANY)
    pool = make_pool(states, clock=lambda: now[0])
    busy = [state.reserve(own("busy", 1), 0, 5.0, 0.0) for state in states]  # longer than the gate lets anybody wait
    tasks = waiting(pool, *[own(f"w{number}", number) for number in range(64)])
    await turns()
    assert len(pool.waiting) == 64
    for reservation in busy:
        reservation.first_token(1.0)
    now[0] = 1.0
    pool.run_pass()
    await turns()
    assert all(task.done() for task in tasks)
    assert sum(state.in_flight for state in states) == MANY + 64
    assert max(state.in_flight for state in states) <= 3
    await end(tasks)


@pytest.mark.parametrize("profile", ["prompt-aware", "session-affinity", "round-robin", "least-load"])
async def test_a_standby_serves_when_nobody_else_can_and_not_before(profile: str) -> None:
    hot, warm = make_fleet(MANY), [make_state("w", role=Role.WARM)]
    pool = make_pool([*hot, *warm], profile=profile)
    assert (await pool.dispatch(own("a", 1))).endpoint != "w"
    for state in hot:
        state.draining = True
    assert (await pool.dispatch(own("b", 2))).endpoint == "w"
    hot[33].draining = False
    pool.changed(hot[33])
    assert (await pool.dispatch(own("c", 3))).endpoint == "e33"


async def test_whoever_has_failed_a_request_is_not_asked_again_and_a_standby_may_be() -> None:
    hot, warm = [make_state("h")], [make_state(f"w{number}", role=Role.WARM) for number in range(MANY)]
    pool = make_pool([*hot, *warm])
    assert (await pool.dispatch(own("a", 1))).endpoint == "h"
    ticket = await pool.dispatch(own("a", 1), frozenset({"h"}))
    assert ticket.endpoint.startswith("w")
    with pytest.raises(NoEndpoint):
        await pool.dispatch(own("a", 1), frozenset({"h", *(f"w{number}" for number in range(MANY))}))


async def test_nobody_waits_for_a_pool_whose_last_endpoint_has_gone() -> None:
    states = make_fleet(MANY, max_in_flight=1)
    pool = make_pool(states)
    await fill(pool, MANY)
    tasks = waiting(pool, own("late", 1))
    await turns()
    for state in states:
        state.withdrawn = "gone"
    pool.changed()
    with pytest.raises(NoEndpoint):
        await asyncio.wait_for(tasks[0], 60)


async def test_a_pool_grows_and_shrinks_across_the_limit_while_requests_wait() -> None:
    states = make_fleet(MANY, max_in_flight=1)
    pool = make_pool(states[:SMALL])
    await fill(pool, SMALL)
    tasks = waiting(pool, *[own(f"w{number}", number) for number in range(MANY)])
    await turns()
    pool.change(places(states))
    pool.run_pass()
    await turns()
    assert sum(task.done() for task in tasks) == MANY - SMALL
    pool.change(places(states[SMALL - 5 : SMALL + 5]))
    states[SMALL - 1].endpoint = make_state("bigger", max_in_flight=3).endpoint
    pool.changed(states[SMALL - 1])
    await turns()
    assert sum(task.done() for task in tasks) == MANY - SMALL + 2
    assert all(state.on_change is None for state in states)
    await end(tasks)


async def test_after_a_reload_the_new_pool_has_the_shortlist_and_who_waits_at_the_old_one_is_served() -> None:
    states = make_fleet(MANY, max_in_flight=1)
    before = make_pool(states)
    tickets = await fill(before, MANY)
    old = waiting(before, own("old", 1))
    await turns()
    pool = make_pool(states[: MANY - 10], predecessor=before)
    new = waiting(pool, own("new", 2))
    await turns()
    tickets[0].settle(None)
    tickets[1].settle(None)
    await turns()
    assert (old[0].done(), new[0].done()) == (True, True)
    await end([*old, *new])


async def test_what_another_replica_has_decided_is_bound_by_name_also_after_names_have_changed() -> None:
    states = make_fleet(MANY)
    pool = make_pool(states)

    def bound(name: str) -> str | None:
        ticket = pool.bind(Waiting(own("r", 1)), Told(name, 0, 0.1, 0.1))
        return None if ticket is None else ticket.endpoint

    assert (bound("e70"), bound("e71"), bound("nobody")) == ("e70", "e71", None)
    states[70].endpoint, states[71].endpoint = states[71].endpoint, states[70].endpoint
    assert (bound("e70"), states[71].in_flight) == ("e70", 2)
    states[70].endpoint = make_state("new").endpoint
    assert (bound("new"), bound("e71")) == ("new", None)


async def test_batch_work_sees_the_load_of_the_whole_pool() -> None:
    """Of the few with the least to do all would be idle: batch would be let in however full the others are."""
    states = make_fleet(MANY, max_in_flight=10)
    pool = make_pool(states)
    for state in states[: MANY - SMALL // 2]:
        for _ in range(10):
            state.reserve(own("x", 1), 0, 1.0, 0.0)
    running = await asyncio.wait_for(pool.dispatch(replace(own("b0", 0), lane=Lane.BATCH)), 60)
    tasks = waiting(pool, *[replace(own(f"b{number}", number), lane=Lane.BATCH) for number in range(1, 40)])
    await turns()
    assert pool.desk.gate.load.saturation == pytest.approx(0.75, abs=0.03)
    assert sum(not task.done() for task in tasks) > 0
    running.settle(None)
    await end(tasks)


async def test_the_dearest_endpoint_is_known_by_one_of_each_kind() -> None:
    now = [0.0]
    states = make_fleet(MANY)
    for number, state in enumerate(states):
        state.endpoint = replace(state.endpoint, hourly_cost=float(number % 3))
    pool = make_pool(states, clock=lambda: now[0])
    use = Use(1_000, 100)
    assert len(pool.kinds()) == 3
    assert highest_cost(pool.kinds(), use) == highest_cost(states, use)
    learn_rates(states[2], Rates(prefill=1.0))
    now[0] = 2.0
    assert highest_cost(pool.kinds(), use) == highest_cost(states, use)
    assert make_pool(states[:3]).kinds() == tuple(states[:3])
