"""The waiting room hands over to those who are still there, in the bounds of the desk."""

from __future__ import annotations

from policies.endpoint_state import EndpointState
from policies.types import Rejection
from policies.waiting import Waiting
from router.errors import NoEndpoint
from router.lanes import Queued, WaitingRoom
from tests.policies.builders import make_state
from tests.router.builders import make_desk, request


def room_for(count: int) -> tuple[WaitingRoom[str], list[EndpointState]]:
    return WaitingRoom(make_desk(count)), [make_state("e0")]


async def test_the_waiting_room_keeps_the_order_of_arrival_and_its_bound() -> None:
    room, states = room_for(2)
    first, second, third = (Waiting(request("a")) for _ in range(3))
    places = [room.enter(one, states, 0.0) for one in (first, second, third)]
    assert isinstance(places[2], Rejection)
    assert (list(room), len(room)) == ([first, second], 2)
    room.desk.sent(second, states[0].rates, 0, 0.0)
    assert room.serve(second, "seat")
    assert isinstance(places[1], Queued)
    assert (places[1].future.result(), list(room), len(room)) == ("seat", [first], 1)
    room.leave(first, 0.0)
    room.leave(first, 0.0)
    assert not room.serve(first, "seat")
    assert isinstance(places[0], Queued)
    assert not places[0].future.done()
    assert len(room) == len(room.desk) == 0


async def test_who_has_left_or_was_cancelled_is_not_served() -> None:
    room, states = room_for(2)
    one = Waiting(request("a"))

    def enter_and_cancel() -> None:
        place = room.enter(one, states, 0.0)
        assert isinstance(place, Queued)
        place.future.cancel()

    enter_and_cancel()
    room.desk.sent(one, states[0].rates, 0, 0.0)
    assert not room.serve(one, "seat")
    assert len(room) == 0
    room.turn_away(one, NoEndpoint("gone"), 0.0)
    enter_and_cancel()
    room.turn_away(one, NoEndpoint("gone"), 0.0)
    assert len(room) == len(room.desk) == 0
