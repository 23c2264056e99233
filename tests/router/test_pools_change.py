"""Endpoints of a pool come and go while requests wait and are under way."""

from __future__ import annotations

import asyncio

from policies.types import Outcome
from router.pools import Place
from router.upstream import Upstream
from tests.policies.builders import make_state
from tests.router.builders import LIMITS, NOBODY, end, make_pool, request, turns, waiting


def place(name: str, **options: int) -> Place:
    return Place(make_state(name, **options), Upstream(NOBODY, timeouts=LIMITS), key=name)  # type: ignore[arg-type]


async def test_who_waits_is_served_by_an_endpoint_that_comes() -> None:
    pool = make_pool([make_state("e0", max_in_flight=1)])
    first = await pool.dispatch(request("a"))
    (second,) = waiting(pool, request("b"))
    await turns()
    assert len(pool.waiting) == 1
    new = place("e1")
    pool.change([*pool.places, new])
    pool.run_pass()
    ticket = await asyncio.wait_for(second, 60)
    assert ticket.endpoint == "e1"
    for one in (first, ticket):
        one.settle(None)
    assert [state.in_flight for state in pool.states] == [0, 0]


async def test_as_many_others_are_not_taken_for_those_of_before() -> None:
    states = [make_state(name, max_in_flight=1) for name in ("e0", "e1")]
    pool = make_pool(states)
    under_way = [await pool.dispatch(request(str(number), blocks=(number,))) for number in range(2)]
    late = waiting(pool, request("b", blocks=(0,)))
    await turns()
    (held,) = pool.waiting
    assert any(held.cached), "one of them has its prefix"
    pool.change([place("e2"), place("e3")])
    pool.run_pass()
    ticket = await asyncio.wait_for(late[0], 60)
    assert (ticket.endpoint in ("e2", "e3"), ticket.choice.cached_tokens) == (True, 0)
    for one in (*under_way, ticket):
        one.settle(Outcome(200, ttft_seconds=0.1, total_seconds=0.2))
    assert [state.in_flight for state in (*states, *pool.states)] == [0, 0, 0, 0]


async def test_what_is_under_way_where_nobody_is_any_more_ends_there_and_teaches_the_others_nothing() -> None:
    gone, stays = make_state("e0"), make_state("e1")
    pool = make_pool([gone, stays])
    ticket = await pool.dispatch(request("a"), exclude=frozenset({"e1"}))
    pool.change([one for one in pool.places if one.state is stays])
    assert (gone.pool_rates, stays.pool_rates is not None) == (None, True)
    assert (gone.health.fellows, gone.silence.fellows) == (None, ())
    assert stays.silence.fellows == []
    before = stays.rates
    ticket.first_token()
    ticket.settle(Outcome(200, started=True, ttft_seconds=0.1, total_seconds=0.2))
    assert (gone.in_flight, gone.kv_tokens, stays.rates) == (0, 0.0, before)


async def test_who_still_waits_from_before_a_reload_is_served_by_what_comes() -> None:
    state = make_state("e0", max_in_flight=1)
    before = make_pool([state])
    first = await before.dispatch(request("a"))
    (old,) = waiting(before, request("old"))
    await turns()
    after = make_pool([state], predecessor=before)
    new = place("e1")
    after.change([*after.places, new])
    after.run_pass()
    ticket = await asyncio.wait_for(old, 60)
    assert ticket.endpoint == "e1"
    for one in (first, ticket):
        one.settle(None)


async def test_without_any_endpoint_who_waits_is_told_so() -> None:
    pool = make_pool([make_state("e0", max_in_flight=1)])
    first = await pool.dispatch(request("a"))
    late = waiting(pool, request("b"))
    await turns()
    pool.change([])
    pool.run_pass()
    await turns()
    assert getattr(late[0].exception(), "code", "") == "no_endpoint"
    first.settle(None)
    await end(late)
