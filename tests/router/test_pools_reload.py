"""Pools before and after a reload share endpoints, and nobody who waits is forgotten."""

from __future__ import annotations

import asyncio

from tests.policies.builders import make_state
from tests.router.builders import LARGE, end, make_pool, request, turns, waiting


async def test_who_waits_in_the_pool_before_a_reload_is_still_served() -> None:
    state = make_state("e0", max_in_flight=1)
    before = make_pool([state])
    first = await before.dispatch(request("a"))
    (old,) = waiting(before, request("b"))
    await turns()
    after = make_pool([state], predecessor=before)
    (new,) = waiting(after, request("c"))
    await turns()
    first.settle(None)
    ticket = await asyncio.wait_for(old, 60)
    assert not new.done()
    ticket.settle(None)
    after.run_pass()
    (await asyncio.wait_for(new, 60)).settle(None)
    assert (state.in_flight, len(before.waiting), len(after.waiting)) == (0, 0, 0)


async def test_a_seat_freed_by_a_request_from_before_a_reload_is_had_by_who_waits_after_it() -> None:
    state = make_state("e0", max_in_flight=1)
    before = make_pool([state])
    first = await before.dispatch(request("a"))
    after = make_pool([state], predecessor=before)
    (new,) = waiting(after, request("b"))
    await turns()
    first.settle(None)
    await turns()
    assert new.done(), "a seat is free and somebody waits for it"
    await end([new])


async def test_an_old_request_that_waits_again_after_two_reloads_is_served_when_a_seat_frees() -> None:
    state = make_state("e0", max_in_flight=1)
    first = make_pool([state])
    second = make_pool([state], predecessor=first)
    third = make_pool([state], predecessor=second)
    third.run_pass()
    newest = await third.dispatch(request("new"))
    (old,) = waiting(first, request("a retry"))
    await turns()
    newest.settle(None)
    await turns()
    assert old.done(), "a seat is free and somebody waits for it"
    await end([old])


async def test_who_is_held_before_a_reload_is_served_first_at_the_first_token_of_a_request_from_after_it() -> None:
    state = make_state("e0")
    before = make_pool([state])
    first = await before.dispatch(request("a", tokens=LARGE, blocks=()))
    (old,) = waiting(before, request("old", tokens=LARGE, blocks=()))
    await turns()
    after = make_pool([state], predecessor=before)
    (new,) = waiting(after, request("new", tokens=LARGE, blocks=()))
    await turns()
    assert (state.in_flight, len(before.waiting), len(after.waiting)) == (1, 1, 1)
    first.first_token()
    second = await asyncio.wait_for(old, 60)
    assert not new.done()
    second.first_token()
    third = await asyncio.wait_for(new, 60)
    for ticket in (first, second, third):
        ticket.settle(None)
    assert (state.in_flight, state.kv_tokens, sum(after.desk.gate.requests.values())) == (0, 0.0, 0)


async def test_who_was_held_is_sent_by_the_new_profile_where_that_holds_nobody() -> None:
    state = make_state("e0")
    before = make_pool([state])
    first = await before.dispatch(request("a", tokens=LARGE, blocks=()))
    (held,) = waiting(before, request("held", tokens=LARGE, blocks=()))
    await turns()
    after = make_pool([state], profile="round-robin", predecessor=before)
    new = await after.dispatch(request("new", tokens=LARGE, blocks=()))
    after.run_pass()
    ticket = await asyncio.wait_for(held, 60)
    assert ticket.decision.profile == "round-robin", "engines would never be idle enough for it again"
    for one in (first, new, ticket):
        one.settle(None)
    assert state.in_flight == 0
