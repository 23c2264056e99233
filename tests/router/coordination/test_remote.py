"""A follower's requests: decided by the owner, charged on both sides, lost by nobody."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import FailureCause, Outcome
from router.coordination import office, remote
from router.coordination.frames import Cancel, Done, Fence
from router.coordination.remote import Mode
from router.errors import GatewayError, NoEndpoint, Overloaded
from router.tickets import Ticket
from tests.router.builders import end, request, turns
from tests.router.builders import waiting as asked
from tests.router.coordination.world import POOL, Replica, Wire, pair

OK = Outcome(200, started=True, ttft_seconds=0.1, prompt_tokens=256, completion_tokens=5)


async def soon(task: asyncio.Task[Ticket]) -> Ticket:
    return await asyncio.wait_for(task, 60)


async def test_the_owner_decides_and_both_are_charged_until_the_request_ends() -> None:
    owner, follower, wire = pair()
    ticket = await follower.pool.dispatch(request())
    assert (owner.in_flight, follower.in_flight, owner.office.seats(POOL)) == (1, 1, 1)
    ticket.first_token()
    await turns()
    assert [one.pending_prefills for one in (*owner.states, *follower.states)] == [0, 0]
    ticket.settle(OK)
    await turns()
    assert (owner.in_flight, follower.in_flight, owner.office.seats(), len(follower.remote.seats)) == (0, 0, 0, 0)
    assert isinstance(wire.said[-1], Done)


async def test_what_the_answer_says_of_the_decision_is_the_owners() -> None:
    owner, follower, _ = pair()
    ticket = await follower.pool.dispatch(request())
    (seat,) = next(iter(owner.office._followers.values())).seats.values()
    theirs, ours = seat.ticket.decision, ticket.decision
    assert [one[1:] for one in ours.ranked] == [(*one[1:5], ()) for one in theirs.ranked]
    assert ours.profile == theirs.profile
    ticket.settle(None)


async def test_failures_are_counted_against_the_endpoint_on_both_sides() -> None:
    owner, follower, _ = pair(names=("e0", "e1", "e2"))
    while owner.states[0].available(100.0):
        ticket = await follower.pool.dispatch(request(), frozenset({"e1", "e2"}))
        ticket.settle(Outcome(0, FailureCause.CONNECT))
        await turns()
    assert [one.available(100.0) for one in (*owner.states, *follower.states)] == [False, True, True] * 2


async def test_who_waits_at_the_owner_is_served_in_the_owners_order() -> None:
    owner, follower, _ = pair(seats=1)
    first = await owner.pool.dispatch(request("first"))
    long, short = asked(follower.pool, request("long", tokens=4000, blocks=()), request("short", blocks=()))
    await turns()
    assert (len(owner.pool.waiting), len(follower.pool.waiting)) == (2, 0)
    first.settle(None)
    ticket = await soon(short)
    assert (ticket.ahead, long.done()) == (0, False)
    ticket.settle(None)
    (await soon(long)).settle(None)
    await turns()
    assert (owner.in_flight, follower.in_flight) == (0, 0)


@pytest.mark.parametrize("until_answered", [False, True], ids=["while it waits", "as its answer is on its way"])
async def test_a_client_that_leaves_takes_its_request_along(until_answered: bool) -> None:
    owner, follower, wire = pair(seats=1)
    first = await owner.pool.dispatch(request("first"))
    (task,) = asked(follower.pool, request("leaves"))
    await turns()
    if until_answered:
        first.settle(None)
    await end([task])
    await turns()
    if not until_answered:
        assert isinstance(wire.said[-1], Cancel)
        first.settle(None)
    assert (owner.in_flight, follower.in_flight, len(owner.pool.waiting)) == (0, 0, 0)


async def test_refusals_are_those_of_a_pool_that_decides_itself() -> None:
    owner, follower, _ = pair(seats=1, max_waiting=0)
    ticket = await owner.pool.dispatch(request("a"))
    refused: list[GatewayError] = []
    for pool in (owner.pool, follower.pool):
        with pytest.raises(Overloaded) as caught:
            await pool.dispatch(request("b"))
        refused.append(caught.value)
    assert len({(type(e), e.code, e.message, e.retry_after, e.status, e.final) for e in refused}) == 1
    ticket.settle(None)


async def test_nobody_left_is_told_as_it_is() -> None:
    owner, follower, _ = pair()
    owner.states[0].draining = follower.states[0].draining = True
    with pytest.raises(NoEndpoint) as caught:
        await follower.pool.dispatch(request())
    assert caught.value.retry_after is not None


async def test_an_owner_that_reaches_no_engine_fails_nobody_who_does() -> None:
    owner, follower, _ = pair(names=("e0", "e1"))
    for state in owner.states:
        state.health.probe(False, 100.0)
        state.health.probe(False, 100.0)
    ticket = await follower.pool.dispatch(request(), frozenset({"e0"}))
    assert (follower.remote.mode, ticket.endpoint, owner.in_flight) == (Mode.ALONE, "e1", 0)
    ticket.settle(OK)
    follower.now += 1.01  # then it is asked again
    for state in owner.states:
        state.health.probe(True, 102.0)
    ticket = await follower.pool.dispatch(request())
    assert (follower.remote.mode, owner.in_flight) == (Mode.FOLLOWS, 1)
    ticket.settle(None)
    await turns()
    with pytest.raises(NoEndpoint):  # where this replica sees none either
        await follower.pool.dispatch(request(), frozenset({"e0", "e1"}))


async def test_a_deadline_ends_the_wait_at_the_owner() -> None:
    owner, follower, _ = pair(seats=1)
    ticket = await owner.pool.dispatch(request("a"))
    with pytest.raises(Overloaded) as caught:
        await follower.pool.dispatch(request("b", deadline=100.02))
    assert caught.value.code == "deadline_exceeded"
    ticket.settle(None)


async def test_without_an_owner_it_decides_alone_at_once_and_tells_the_next_owner() -> None:
    owner, follower = Replica("owner"), Replica("follower")
    ticket = await follower.pool.dispatch(request())
    assert (follower.remote.mode, ticket.decision.profile, owner.in_flight) == (Mode.ALONE, "prompt-aware-at-once", 0)
    Wire(follower, owner)
    owner.sees(owner)
    follower.sees(owner)
    await turns()
    assert (follower.remote.mode, owner.in_flight) == (Mode.FOLLOWS, 1)
    ticket.settle(OK)
    await turns()
    assert (owner.in_flight, follower.in_flight) == (0, 0)


async def test_who_waits_at_an_owner_that_dies_is_asked_for_at_the_next() -> None:
    owner, follower, wire = pair(seats=1)
    heir = Replica("heir", seats=1)
    Wire(follower, heir)
    await owner.pool.dispatch(request("a"))
    (task,) = asked(follower.pool, request("b"))
    await turns()
    wire.cut()
    await turns()
    assert (follower.remote.mode, task.done()) == (Mode.ALONE, False)  # for a pause
    heir.sees(heir, 2)
    follower.sees(heir, 2)
    ticket = await soon(task)
    assert (heir.in_flight, len(owner.pool.waiting)) == (1, 0)
    ticket.settle(None)
    await turns()
    assert (heir.in_flight, follower.in_flight) == (0, 0)


async def test_who_waits_at_an_owner_that_dies_is_sent_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    owner, follower, wire = pair(seats=1)
    await owner.pool.dispatch(request("a"))
    (task,) = asked(follower.pool, request("b"))
    await turns()
    wire.cut()
    await turns()
    assert not task.done()
    follower.now += 1
    (await soon(task)).settle(None)
    assert (follower.remote.mode, follower.in_flight) == (Mode.ALONE, 0)


async def test_an_owner_that_is_none_any_more_is_not_asked_for_ever() -> None:
    owner, follower, _ = pair()
    owner.ownership.stop()
    (task,) = asked(follower.pool, request())
    await turns(8)
    assert not task.done()
    assert follower.wakes
    heir = Replica("heir")
    Wire(follower, heir)
    heir.sees(heir, 2)
    follower.sees(heir, 2)
    (await soon(task)).settle(None)


async def test_without_an_heir_it_is_decided_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    owner, follower, _ = pair()
    owner.ownership.stop()
    (task,) = asked(follower.pool, request())
    await turns(8)
    follower.now += 0.02
    (await soon(task)).settle(None)
    assert follower.remote.mode is Mode.ALONE
    follower.now += 1.01  # then it is asked again
    follower.sees(owner)
    assert follower.remote.mode is Mode.FOLLOWS


async def test_who_waits_at_an_owner_that_hands_over_waits_at_the_next_all_the_same() -> None:
    owner, follower, _ = pair(seats=1)
    heir = Replica("heir", seats=1)
    Wire(follower, heir)
    Wire(owner, heir)
    first = await owner.pool.dispatch(request("first"))
    tasks = [*asked(owner.pool, request("own")), *asked(follower.pool, request("theirs"))]
    await turns()
    heir.sees(heir, 2)
    owner.sees(heir, 2)
    follower.sees(heir, 2)
    await turns(10)
    assert (len(owner.pool.waiting), len(heir.pool.waiting), heir.in_flight) == (0, 2, 1)
    first.settle(OK)
    for task in asyncio.as_completed(tasks):
        (await task).settle(OK)
    await turns()
    assert [one.in_flight for one in (owner, follower, heir)] == [0, 0, 0]
    assert [one.office.seats() for one in (owner, follower, heir)] == [0, 0, 0]


async def test_a_ticket_of_an_owner_that_has_been_replaced_is_refused_and_the_owner_fenced() -> None:
    owner, follower, wire = pair()
    heir = Replica("heir")
    Wire(follower, heir)
    heir.sees(heir, 2)
    (task,) = asked(follower.pool, request())
    await asyncio.sleep(0)
    follower.ownership.fenced(2)  # in the moment in which the answer is on its way
    await turns()
    assert Fence(POOL, 2) in wire.said
    assert (owner.in_flight, owner.remote.leads()) == (0, False)
    follower.sees(heir, 2)
    (await soon(task)).settle(None)
    await turns()
    assert [one.in_flight for one in (owner, heir, follower)] == [0, 0, 0]


async def test_a_ticket_of_the_turn_in_which_its_owner_was_replaced_is_not_given_in_the_new_owners_name() -> None:
    owner, follower, _ = pair(seats=1)
    heir = Replica("heir", seats=1)
    Wire(follower, heir)
    first = await owner.pool.dispatch(request("first"))
    (task,) = asked(follower.pool, request("waits"))
    await turns()
    first.settle(OK)
    assert owner.in_flight == 1  # the seat is its own now, and it has not been told
    owner.remote.fenced(2)
    await turns()
    assert (task.done(), owner.in_flight, follower.in_flight) == (False, 0, 0)
    heir.sees(heir, 2)
    follower.sees(heir, 2)
    (await soon(task)).settle(OK)
    await turns()
    assert [one.in_flight for one in (owner, heir, follower)] == [0, 0, 0]


async def test_a_new_owner_is_told_of_all_that_is_under_way_and_the_old_one_forgets_it() -> None:
    owner, follower, _ = pair()
    heir = Replica("heir")
    Wire(follower, heir)
    Wire(owner, heir)
    theirs, ours = await follower.pool.dispatch(request("a")), await owner.pool.dispatch(request("b"))
    theirs.first_token()
    heir.sees(heir, 2)
    follower.sees(heir, 2)
    owner.sees(heir, 2)
    await turns()
    assert [one.in_flight for one in (owner, follower, heir)] == [1, 1, 2]
    assert heir.states[0].pending_prefills == 1
    theirs.settle(OK)
    ours.settle(None)
    await turns()
    assert [one.in_flight for one in (owner, follower, heir)] == [0, 0, 0]


async def test_a_settlement_that_was_lost_with_a_connection_is_made_good() -> None:
    owner, follower, wire = pair()
    ended, goes_on = await follower.pool.dispatch(request("a")), await follower.pool.dispatch(request("b"))
    wire.cut()
    ended.settle(OK)
    assert owner.in_flight == 2
    wire.mend()
    await turns()
    assert (owner.in_flight, follower.in_flight) == (1, 1)
    goes_on.settle(OK)
    await turns()
    assert owner.in_flight == 0


async def test_a_ticket_whose_answer_was_lost_is_given_back_and_asked_for_again() -> None:
    owner, follower, wire = pair()
    (task,) = asked(follower.pool, request())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert owner.in_flight == 1  # given, and not yet heard of
    wire.cut()
    wire.mend()
    await turns()
    ticket = await soon(task)
    await turns()
    assert owner.in_flight == 1
    ticket.settle(None)
    await turns()
    assert owner.in_flight == 0


async def test_a_replica_that_died_gives_back_its_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "AWAY_SECONDS", 0.0)
    owner, follower, wire = pair()
    await follower.pool.dispatch(request())
    wire.cut()
    assert owner.in_flight == 1
    await asyncio.sleep(0)
    await turns()
    assert (owner.in_flight, owner.office.seats()) == (0, 0)


async def test_a_replica_in_another_life_has_nothing_under_way() -> None:
    owner, follower, wire = pair()
    await follower.pool.dispatch(request())
    wire.cut()
    again = Replica("follower")
    Wire(again, owner, life=b"2")
    assert owner.in_flight == 0


async def test_an_endpoint_that_only_the_owner_knows_is_given_back() -> None:
    owner, follower = Replica("owner", names=("e0", "new")), Replica("follower")
    owner.states[0].draining = True
    Wire(follower, owner)
    owner.sees(owner)
    follower.sees(owner)
    (task,) = asked(follower.pool, request())
    await turns(8)
    assert (owner.in_flight, task.done()) == (0, False)
    await end([task])


async def test_a_request_that_waits_alone_waits_at_the_owner_once_there_is_one() -> None:
    owner, follower = Replica("owner", seats=1), Replica("follower", seats=1)
    first = await follower.pool.dispatch(request("a"))
    (task,) = asked(follower.pool, request("b"))
    await turns()
    assert len(follower.pool.waiting) == 1
    Wire(follower, owner)
    owner.sees(owner)
    follower.sees(owner)
    await turns()
    assert (len(follower.pool.waiting), len(owner.pool.waiting), owner.in_flight) == (0, 1, 1)
    first.settle(None)
    (await soon(task)).settle(None)
    await turns()
    assert (owner.in_flight, follower.in_flight) == (0, 0)


async def test_standbys_are_the_owners_affair_until_a_replica_has_been_alone_for_two_seconds() -> None:
    owner, follower, wire = pair()
    assert (owner.remote.looks_after(), follower.remote.looks_after()) == (True, False)
    wire.cut()
    follower.now += 1.9
    assert not follower.remote.looks_after()
    follower.now += 0.2
    assert follower.remote.looks_after()


STEPS = st.lists(
    st.sampled_from(["ask", "ask", "ask", "first", "settle", "leave", "cut", "mend", "move", "turn", "turn"]),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_happens_to_wires_and_owners_nothing_stays_on_any_book(steps: list[str], draw: object) -> None:
    asyncio.run(_play(steps, draw))


async def _play(steps: list[str], draw: object) -> None:
    replicas = [Replica(name, seats=2) for name in "abc"]
    wires = [Wire(one, other) for one in replicas for other in replicas if one is not other]
    term, tasks, tickets = 1, [], []

    def all_see(owner: Replica) -> None:
        for one in replicas:
            one.sees(owner, term)

    all_see(replicas[0])
    for step in steps:
        if step == "ask":
            tasks += asked(draw.choice(replicas).pool, replace(request(), deadline=1e6))  # type: ignore[attr-defined]
        elif step in ("cut", "mend"):
            wire = draw.choice(wires)  # type: ignore[attr-defined]
            if (wire.desk is None) is (step == "mend"):
                getattr(wire, step)()
        elif step == "move":
            term += 1
            all_see(draw.choice(replicas))  # type: ignore[attr-defined]
        elif step == "leave" and tasks:
            tasks[draw.randrange(len(tasks))].cancel()  # type: ignore[attr-defined]
        elif step == "turn":
            await turns(2)
        tickets += [task.result() for task in tasks if task.done() and not task.cancelled()]
        tasks = [task for task in tasks if not task.done()]
        if tickets and step == "first":
            draw.choice(tickets).first_token()  # type: ignore[attr-defined]
        elif tickets and step == "settle":
            tickets.pop(draw.randrange(len(tickets))).settle(OK)  # type: ignore[attr-defined]
    for wire in wires:
        if wire.desk is None:
            wire.mend()
    await turns(6)
    for ticket in tickets:
        ticket.settle(None)
    await end(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result().settle(None)
    await turns(10)
    assert [one.in_flight for one in replicas] == [0, 0, 0]
    assert [len(one.pool.waiting) for one in replicas] == [0, 0, 0]
    assert [one.office.seats() for one in replicas] == [0, 0, 0]
    assert [len(one.remote.seats) for one in replicas] == [0, 0, 0]
