"""Seats, waiting and tickets of a pool, one case at a time: a seat that was taken is given back, whatever happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from policies.dispatch import WINDOW
from policies.types import FailureCause, Outcome
from policies.view import View
from policies.waiting import Waiting
from router.errors import NoEndpoint, Overloaded
from router.lanes import WaitingRoom
from router.tickets import Ticket
from tests.policies.builders import PREFIX, make_state
from tests.router.builders import LARGE, end, make_pool, request, turns, waiting

AT_ONCE = "prompt-aware-at-once"


async def test_a_free_endpoint_is_had_at_once() -> None:
    state = make_state("e0")
    ticket = await make_pool([state]).dispatch(request())
    assert (ticket.endpoint, ticket.queued_seconds, state.in_flight) == ("e0", 0.0, 1)
    ticket.settle(None)
    ticket.settle(None)
    assert state.in_flight == 0


async def test_who_waits_is_served_when_a_seat_frees() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    first = await pool.dispatch(request("a"))
    second, third = waiting(pool, request("b"), request("c"))
    await turns()
    assert len(pool.waiting) == 2
    first.settle(None)
    ticket = await asyncio.wait_for(second, 60)
    assert (state.in_flight, third.done()) == (1, False)
    ticket.settle(None)
    (await asyncio.wait_for(third, 60)).settle(None)
    assert (state.in_flight, len(pool.waiting)) == (0, 0)


async def test_the_time_in_the_queue_is_told() -> None:
    now = [10.0]
    pool = make_pool([make_state("e0", max_in_flight=1)], clock=lambda: now[0])
    first = await pool.dispatch(request("a"))
    (second,) = waiting(pool, request("b"))
    await turns()
    now[0] = 12.5
    first.settle(None)
    assert (await asyncio.wait_for(second, 60)).queued_seconds == 2.5


async def test_a_full_queue_is_refused_at_once_and_says_when_to_come_back() -> None:
    pool = make_pool([make_state("e0", max_in_flight=1)], max_waiting=2)
    await pool.dispatch(request("a"))
    tasks = waiting(pool, request("b"), request("c"))
    await turns()
    with pytest.raises(Overloaded) as refused:
        await pool.dispatch(request("d"))
    assert (refused.value.code, refused.value.status) == ("queue_full", 503)
    assert refused.value.retry_after is not None
    await end(tasks)
    assert len(pool.waiting) == 0


async def test_a_deadline_ends_the_wait() -> None:
    pool = make_pool([make_state("e0", max_in_flight=1)])
    await pool.dispatch(request("a"))
    with pytest.raises(Overloaded) as refused:
        await pool.dispatch(request("b", deadline=0.0))
    assert refused.value.code == "deadline_exceeded"
    assert len(pool.waiting) == 0


async def test_without_an_available_endpoint_nobody_waits() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    ticket = await pool.dispatch(request("a"))
    tasks = waiting(pool, request("b"), request("c"))
    await turns()
    for _ in range(2):
        state.health.probe(False, 0.0)
    pool.run_pass()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, NoEndpoint) for one in found)
    with pytest.raises(NoEndpoint):
        await pool.dispatch(request("d"))
    ticket.settle(None)
    assert state.in_flight == 0


async def test_one_request_id_twice_at_once_is_two_requests() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    first = await pool.dispatch(request("same"))
    tasks = waiting(pool, request("same"), request("same"))
    await turns()
    assert len(pool.waiting) == 2
    first.settle(None)
    for task in tasks:
        (await asyncio.wait_for(task, 60)).settle(None)
    assert (state.in_flight, len(pool.waiting)) == (0, 0)


async def test_a_ticket_handed_over_in_the_moment_of_cancelling_is_given_back() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    first = await pool.dispatch(request("a"))
    second, third = waiting(pool, request("b"), request("c"))
    await turns()
    first.settle(None)  # hands the seat to the second ...
    second.cancel()  # ... which is cancelled before it has run again
    with pytest.raises(asyncio.CancelledError):
        await second
    (await asyncio.wait_for(third, 60)).settle(None)
    assert state.in_flight == 0


async def test_a_seat_freed_after_a_cancel_in_the_same_moment_goes_to_the_next() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    first = await pool.dispatch(request("a"))
    second, third = waiting(pool, request("b"), request("c"))
    await turns()
    second.cancel()
    first.settle(None)
    (await asyncio.wait_for(third, 60)).settle(None)
    assert (state.in_flight, second.cancelled()) == (0, True)


async def test_a_thousand_waiters_that_leave_at_once_cost_no_seat() -> None:
    """A load generator is killed: all its clients leave in one turn of the loop, those being served first."""
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    served = await pool.dispatch(request("a"))
    tasks = waiting(pool, *(request(f"r{n}") for n in range(1000)))
    await turns()
    for task in tasks:
        task.cancel()
    served.settle(None)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (state.in_flight, len(pool.waiting)) == (0, 0)


async def test_an_endpoint_that_has_failed_a_request_is_not_given_it_again_though_the_others_are_full() -> None:
    tried, full = make_state("tried"), make_state("full", max_in_flight=1)
    pool = make_pool([tried, full])
    other = await pool.dispatch(request("a"), frozenset({"tried"}))
    again = asyncio.create_task(pool.dispatch(request("b"), frozenset({"tried"})))
    await turns()
    assert tried.in_flight == 0
    other.settle(None)
    assert (await asyncio.wait_for(again, 60)).endpoint == "full"


async def test_all_who_have_room_are_sent_when_an_endpoint_comes_back() -> None:
    small, large = make_state("small", max_in_flight=1), make_state("large", healthy=False)
    pool = make_pool([small, large], profile=AT_ONCE)
    await pool.dispatch(request("a"))
    tasks = waiting(pool, *(request(f"r{n}") for n in range(WINDOW + 36)))
    await turns()
    large.health.probe(True, 0.0)
    pool.run_pass()
    await turns()
    assert (large.in_flight, len(pool.waiting)) == (WINDOW + 36, 0)
    await end(tasks)


@pytest.mark.parametrize("seats", [1, 256])
async def test_a_pass_over_a_busy_pool_does_not_look_at_everybody_who_waits(
    monkeypatch: pytest.MonkeyPatch, seats: int
) -> None:
    """Every first token and every end runs a pass: under overload it must not cost the whole queue each time."""
    pool = make_pool([make_state("e0", max_in_flight=seats)])
    await pool.dispatch(request("a", tokens=LARGE, blocks=()))
    tasks = waiting(pool, *(request(f"r{n}") for n in range(3 * WINDOW)))
    await turns()
    assert len(pool.waiting) == 3 * WINDOW
    looks = [0]

    def counted(self: WaitingRoom[Ticket]) -> Iterator[Waiting]:
        looks[0] += len(self)
        return iter(())

    def refreshed(*_: object) -> None:
        looks[0] += 1

    monkeypatch.setattr(WaitingRoom, "__iter__", counted)
    monkeypatch.setattr(View, "refresh", refreshed)
    pool.run_pass()
    assert looks[0] <= WINDOW
    monkeypatch.undo()
    await end(tasks)


async def test_an_answer_in_one_piece_that_comes_before_its_predicted_first_token_leaves_its_prefix() -> None:
    state = make_state("e0")
    pool = make_pool([state])
    ticket = await pool.dispatch(request(stream=False))
    ticket.settle(Outcome(200, started=True))
    assert state.index.match(PREFIX) == 4
    ticket = await pool.dispatch(request(stream=False, blocks=(5, 6)))
    ticket.settle(Outcome(500, started=True))
    assert state.index.match((5, 6)) == 0


async def test_an_answer_in_one_piece_ends_its_prefill_when_that_was_predicted() -> None:
    state = make_state("e0")
    ticket = await make_pool([state]).dispatch(request(stream=False))
    assert state.pending_prefills == 1
    async with asyncio.timeout(60):
        while state.pending_prefills:  # noqa: ASYNC110  # a timer of some milliseconds, which nobody can await
            await asyncio.sleep(0.002)
    assert state.in_flight == 1
    ticket.settle(None)
    assert state.in_flight == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_ticket_is_settled_exactly_once(stream: bool) -> None:
    state = make_state("e0")
    pool = make_pool([state])
    other = await pool.dispatch(request("other"))
    ticket = await pool.dispatch(request(stream=stream))
    for _ in range(3):
        ticket.settle(Outcome(0, FailureCause.CLOSED))
        ticket.settle(None)
        ticket.first_token()
    assert (state.in_flight, state.pending_prefills, sum(pool.desk.gate.requests.values())) == (1, 1, 1)
    assert state.available(0.0), "one failure, not three"
    other.settle(None)
    assert (state.in_flight, state.kv_tokens, sum(pool.desk.gate.requests.values())) == (0, 0.0, 0)
