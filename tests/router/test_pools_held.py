"""Requests that are held back at the gateway though an endpoint has a seat: who serves them, and what if they leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from policies.types import Lane, Role
from tests.policies.builders import make_state
from tests.router.builders import LARGE, end, make_pool, request, turns, waiting


async def test_a_held_request_is_served_at_the_first_token_of_another() -> None:
    state = make_state("e0")
    pool = make_pool([state])
    first = await pool.dispatch(request("a", tokens=LARGE))
    (held,) = waiting(pool, request("b", tokens=LARGE))
    await turns()
    assert (state.in_flight, len(pool.waiting), held.done()) == (1, 1, False)
    first.first_token()
    second = await asyncio.wait_for(held, 60)
    assert (state.in_flight, second.choice.cached_tokens) == (2, 256)
    second.settle(None)
    first.settle(None)


async def test_a_held_request_is_served_when_an_answer_in_one_piece_is_believed_to_have_begun() -> None:
    pool = make_pool([make_state("e0")])
    first = await pool.dispatch(request("a", tokens=6000, stream=False))
    (held,) = waiting(pool, request("b"))
    await turns()
    assert len(pool.waiting) == 1
    (await asyncio.wait_for(held, 60)).settle(None)
    first.settle(None)


async def test_a_client_that_leaves_while_held_disappears_at_once() -> None:
    state = make_state("e0")
    pool = make_pool([state])
    first = await pool.dispatch(request("a", tokens=LARGE))
    leaves, stays = waiting(pool, request("b"), request("c"))
    await turns()
    leaves.cancel()
    await turns(1)
    assert [one.request.id for one in pool.waiting] == ["c"]
    assert len(pool.waiting) == len(pool.desk) == 1
    first.first_token()
    (await asyncio.wait_for(stays, 60)).settle(None)
    first.settle(None)
    assert (state.in_flight, leaves.cancelled()) == (0, True)


async def test_who_waits_is_told_how_many_stood_before_it_and_a_shorter_one_still_goes_first() -> None:
    pool = make_pool([make_state("e0")])
    first = await pool.dispatch(request("a", tokens=LARGE, blocks=()))
    long, longer, short = waiting(
        pool,
        request("long", tokens=LARGE, blocks=()),
        request("longer", tokens=LARGE + 1, blocks=()),
        request("short", tokens=6000, blocks=()),
    )
    tickets = [first]
    for task in (short, long, longer):
        await turns()
        assert not task.done()
        tickets[-1].first_token()
        tickets.append(await asyncio.wait_for(task, 60))
    assert [ticket.ahead for ticket in tickets] == [0, 0, 0, 1], "nobody was before the short one when it came"
    for ticket in tickets:
        ticket.settle(None)


async def test_a_held_request_that_is_turned_to_a_standby_need_not_wait_for_the_hot_one() -> None:
    """It has failed at the hot engine, where others wait."""
    hot, warm = make_state("hot"), make_state("warm", role=Role.WARM)
    pool = make_pool([hot, warm])
    first = await pool.dispatch(request("a", tokens=LARGE))
    tasks = waiting(pool, request("b"), request("c"))
    await turns()
    assert len(pool.waiting) == 2
    again = await asyncio.wait_for(pool.dispatch(request("d"), frozenset({"hot"})), 60)
    assert (again.endpoint, len(pool.waiting)) == ("warm", 2)
    again.settle(None)
    await end(tasks)
    first.settle(None)


async def test_a_tenant_whose_client_leaves_amid_an_answer_has_had_it() -> None:
    pool = make_pool([make_state("e0")])
    share = pool.desk.shares[Lane.SHORT, Lane.LONG]
    first = await pool.dispatch(request("first", tokens=LARGE, blocks=()))
    mine = [replace(request(tokens=LARGE, blocks=()), tenant="a", arrived_at=float(number)) for number in range(4)]
    other = replace(request(tokens=LARGE, blocks=()), tenant="b", arrived_at=900.0)
    *tasks, waits = waiting(pool, *mine, other)
    await turns()
    first.first_token()
    unseen = await asyncio.wait_for(tasks[0], 60)
    work = share.lag("a")
    unseen.settle(None)
    seen = await asyncio.wait_for(tasks[1], 60)
    assert share.lag("a") == work > 1.0, "the next one's; nothing came of the one before"
    seen.first_token()
    await asyncio.wait_for(tasks[2], 60)
    seen.settle(None)
    assert share.lag("a") == 2 * work, "its own, too"
    await end([*tasks, waits])
