"""Seats, waiting and tickets under schedules of arrivals, first tokens, ends, leavers, deadlines and failing endpoints.

The property behind all of it: a seat that was taken is given back, whatever happened at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission.order import ShortestPrefillFirst
from policies.dispatch import WINDOW
from policies.endpoint_state import EndpointState
from policies.registry import make_profile
from policies.types import FailureCause, InferenceRequest, Outcome
from router.errors import NoEndpoint, Overloaded
from router.lanes import WaitingRoom
from router.pools import Place, Pool, Ticket
from router.upstream import Timeouts, Upstream
from tests.policies.builders import make_request, make_state

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

NOBODY = "http://127.0.0.1:9"  # never connected to: a pool only hands the connections out
LIMITS = Timeouts(1.0, 1.0, 1.0, 1.0)


def make_pool(
    states: Sequence[EndpointState],
    *,
    clock: Callable[[], float] = lambda: 0.0,
    max_waiting: int = 5000,
    profile: str = "prompt-aware",
    predecessor: Pool | None = None,
) -> Pool:
    pool = Pool(
        "p",
        [Place(state, Upstream(NOBODY, timeouts=LIMITS)) for state in states],
        make_profile(profile, Random(1)),
        ShortestPrefillFirst(),
        clock,
        retries=2,
        max_waiting=max_waiting,
        predecessor=predecessor,
    )
    pool.take_over()
    return pool


def request(name: str = "r", *, deadline: float = 1000.0, stream: bool = True) -> InferenceRequest:
    return replace(make_request(name), deadline=deadline, stream=stream)


async def turns(count: int = 4) -> None:
    """Lets everything happen that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


def waiting(pool: Pool, *requests: InferenceRequest) -> list[asyncio.Task[Ticket]]:
    return [asyncio.create_task(pool.dispatch(one)) for one in requests]


async def end(tasks: Sequence[asyncio.Task[Ticket]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- one by one


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
    ticket = await asyncio.wait_for(second, 5)
    assert (state.in_flight, third.done()) == (1, False)
    ticket.settle(None)
    (await asyncio.wait_for(third, 5)).settle(None)
    assert (state.in_flight, len(pool.waiting)) == (0, 0)


async def test_the_time_in_the_queue_is_told() -> None:
    now = [10.0]
    pool = make_pool([make_state("e0", max_in_flight=1)], clock=lambda: now[0])
    first = await pool.dispatch(request("a"))
    (second,) = waiting(pool, request("b"))
    await turns()
    now[0] = 12.5
    first.settle(None)
    assert (await asyncio.wait_for(second, 5)).queued_seconds == 2.5


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
        (await asyncio.wait_for(task, 5)).settle(None)
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
    (await asyncio.wait_for(third, 5)).settle(None)
    assert state.in_flight == 0


async def test_a_seat_freed_after_a_cancel_in_the_same_moment_goes_to_the_next() -> None:
    state = make_state("e0", max_in_flight=1)
    pool = make_pool([state])
    first = await pool.dispatch(request("a"))
    second, third = waiting(pool, request("b"), request("c"))
    await turns()
    second.cancel()
    first.settle(None)
    (await asyncio.wait_for(third, 5)).settle(None)
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
    assert (await asyncio.wait_for(again, 5)).endpoint == "full"


async def test_all_who_have_room_are_sent_when_an_endpoint_comes_back() -> None:
    small, large = make_state("small", max_in_flight=1), make_state("large", healthy=False)
    pool = make_pool([small, large])
    await pool.dispatch(request("a"))
    tasks = waiting(pool, *(request(f"r{n}") for n in range(WINDOW + 36)))
    await turns()
    large.health.probe(True, 0.0)
    pool.run_pass()
    await turns()
    assert (large.in_flight, len(pool.waiting)) == (WINDOW + 36, 0)
    await end(tasks)


async def test_a_pass_over_a_full_pool_does_not_look_at_everybody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every first token and every end runs a pass: under overload it must not cost the whole queue each time."""
    pool = make_pool([make_state("e0", max_in_flight=1)])
    await pool.dispatch(request("a"))
    tasks = waiting(pool, *(request(f"r{n}") for n in range(3 * WINDOW)))
    await turns()
    looks, rank = [0], pool.profile.rank

    def counted(*arguments: Any) -> Any:
        looks[0] += 1
        return rank(*arguments)

    monkeypatch.setattr(pool.profile, "rank", counted)
    pool.run_pass()
    assert looks[0] <= WINDOW
    await end(tasks)


async def test_an_answer_in_one_piece_ends_its_prefill_when_that_was_predicted() -> None:
    state = make_state("e0")
    ticket = await make_pool([state]).dispatch(request(stream=False))
    assert state.pending_prefills == 1
    async with asyncio.timeout(5):
        while state.pending_prefills:  # noqa: ASYNC110  # a timer of some milliseconds, which nobody can await
            await asyncio.sleep(0.002)
    assert state.in_flight == 1
    ticket.settle(None)
    assert state.in_flight == 0


# -- a reload


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
    ticket = await asyncio.wait_for(old, 5)
    assert not new.done()
    ticket.settle(None)
    after.run_pass()
    (await asyncio.wait_for(new, 5)).settle(None)
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


# -- any schedule

SCHEDULE = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "late", "token", "settle", "settle", "fail", "cancel", "down", "up"]),
        st.integers(0, 20),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Run:
    """One schedule played on one pool. Each step may be followed by turns of the loop, or by the next step at once."""

    def __init__(self, seats: list[int], max_waiting: int) -> None:
        self.states = [make_state(f"e{n}", max_in_flight=count) for n, count in enumerate(seats)]
        self.pool = make_pool(self.states, max_waiting=max_waiting)
        self.tasks: list[asyncio.Task[Ticket]] = []

    async def play(self, schedule: list[tuple[str, int, int]]) -> None:
        for what, which, pauses in schedule:
            self.step(what, which)
            self.check()
            await turns(pauses)
            self.check()
        await turns()
        if len(self.pool.waiting):
            assert all(state.full or not state.available(0.0) for state in self.states), (
                "a free seat, and somebody waits"
            )
        await self.finish()

    def step(self, what: str, which: int) -> None:
        if what in ("arrive", "late"):
            one = request(f"r{which}", deadline=0.0 if what == "late" else 1000.0)
            self.tasks.append(asyncio.create_task(self.pool.dispatch(one)))
        elif what == "cancel":
            if self.tasks:
                self.tasks[which % len(self.tasks)].cancel()
        elif what in ("down", "up"):
            state = self.states[which % len(self.states)]
            for _ in range(2):
                state.health.probe(what == "up", 0.0)
            self.pool.run_pass()
        elif tickets := self.tickets():
            ticket = tickets[which % len(tickets)]
            if what == "token":
                ticket.first_token()
            else:
                failed = Outcome(0, FailureCause.CLOSED) if what == "fail" else Outcome(200)
                ticket.settle(failed)

    def tickets(self) -> list[Ticket]:
        done = [task for task in self.tasks if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done]

    def check(self) -> None:
        for state in self.states:
            assert 0 <= state.in_flight <= state.endpoint.max_in_flight
            assert 0 <= state.pending_prefills <= state.in_flight
            assert min(state.outstanding_tokens, state.context_tokens, state.decode_tokens) >= 0
        assert len(self.pool.waiting) <= self.pool.waiting.limit

    async def finish(self) -> None:
        for task in self.tasks:
            task.cancel()
        for one in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(one, Ticket | asyncio.CancelledError | NoEndpoint | Overloaded), repr(one)
        for ticket in self.tickets():
            ticket.settle(None)
        await turns()
        assert len(self.pool.waiting) == 0
        for state in self.states:
            assert (state.in_flight, state.pending_prefills, state.outstanding_tokens) == (0, 0, 0.0)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 8), SCHEDULE)
def test_in_any_schedule_seats_are_bounded_used_and_given_back(
    seats: list[int], max_waiting: int, schedule: list[tuple[str, int, int]]
) -> None:
    async def scenario() -> None:
        await Run(seats, max_waiting).play(schedule)

    asyncio.run(scenario())


# -- the waiting room


async def test_the_waiting_room_keeps_the_order_of_arrival_and_its_bound() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    first, second = request("a"), request("a")
    futures = [room.enter(first), room.enter(second)]
    assert (list(room), len(room), room.full) == ([first, second], 2, True)
    assert room.serve(second, "seat")
    assert (futures[1].result(), list(room), room.full) == ("seat", [first], False)
    room.leave(first)
    room.leave(first)
    assert not room.serve(first, "seat")
    assert not futures[0].done()


async def test_who_has_left_or_was_cancelled_is_not_served() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    one = request("a")
    room.enter(one).cancel()
    assert not room.serve(one, "seat")
    assert len(room) == 0
    room.turn_away(one, NoEndpoint("gone"))
    room.enter(one).cancel()
    room.turn_away(one, NoEndpoint("gone"))
    assert len(room) == 0
