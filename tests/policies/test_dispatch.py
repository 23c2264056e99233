"""A pass sends what fits, in order, each request seeing those before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.order import ShortestPrefillFirst
from policies.decision import Decision
from policies.dispatch import plan
from policies.endpoint_state import EndpointState, Reservation
from policies.registry import make_profile
from policies.types import InferenceRequest
from tests.policies.builders import make_fleet, make_request, make_state, rng


class Waiting:
    """A caller: its waiting room, what it sent where, and the reservations it made."""

    def __init__(self, requests: list[InferenceRequest], states: list[EndpointState]) -> None:
        self.waiting = list(requests)
        self.states = states
        self.sent: list[tuple[str, str]] = []
        self.reservations: list[Reservation] = []

    def commit(self, request: InferenceRequest, decision: Decision) -> None:
        choice = decision.choice
        self.waiting.remove(request)
        self.sent.append((request.id, choice.state.endpoint.name))
        self.reservations.append(choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, 0.0))

    def run(self, profile: str = "prompt-aware", window: int = 64) -> int:
        order = ShortestPrefillFirst()
        return plan(self.waiting, self.states, make_profile(profile, rng()), order, 0.0, self.commit, window)


class NeverAsked:
    """An order that nobody may ask."""

    def first(self, *_: object) -> list[InferenceRequest]:
        raise AssertionError("ordered for nothing")


def requests(sizes: list[int]) -> list[InferenceRequest]:
    return [make_request(f"r{number}", prompt_tokens=size, blocks=()) for number, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 50_000), max_size=20), st.lists(st.integers(0, 4), max_size=4), st.integers(1, 25))
def test_as_many_are_sent_as_there_are_seats_and_no_endpoint_gets_more_than_its_own(
    sizes: list[int], seats: list[int], window: int
) -> None:
    states = [make_state(f"e{number}", max_in_flight=count) for number, count in enumerate(seats)]
    room = Waiting(requests(sizes), states)
    sent = room.run(window=window)
    assert sent == len(room.sent) == min(len(sizes), sum(seats), window)
    assert len(room.waiting) == len(sizes) - sent
    assert all(state.in_flight <= state.endpoint.max_in_flight for state in states)


def test_the_shortest_goes_first_when_there_is_one_seat() -> None:
    room = Waiting(requests([9000, 100, 5000]), [make_state(max_in_flight=1)])
    assert room.run() == 1
    assert room.sent == [("r1", "e0")]


def test_later_requests_of_a_pass_see_the_work_of_earlier_ones() -> None:
    room = Waiting(requests([8000] * 8), make_fleet(4))
    assert room.run() == 8
    assert [state.in_flight for state in room.states] == [2, 2, 2, 2]


def test_a_freed_seat_is_used_by_the_next_pass() -> None:
    room = Waiting(requests([100, 200]), [make_state(max_in_flight=1)])
    room.run()
    assert room.run() == 0
    room.reservations[0].release(1.0)
    assert room.run() == 1
    assert [id for id, _ in room.sent] == ["r0", "r1"]


@pytest.mark.parametrize("states", [[], [make_state(healthy=False)]])
def test_nothing_is_sent_and_nothing_ordered_when_no_endpoint_takes_anyone(states: list[EndpointState]) -> None:
    profile = make_profile("prompt-aware", rng())
    assert plan(requests([100]), states, profile, NeverAsked(), 0.0, Waiting([], states).commit) == 0


def test_a_pass_over_an_empty_room_does_nothing() -> None:
    assert Waiting([], make_fleet(2)).run() == 0


@pytest.mark.parametrize("profile", ["round-robin", "random", "least-outstanding"])
def test_every_profile_serves_a_pass(profile: str) -> None:
    room = Waiting(requests([100] * 6), make_fleet(3, max_in_flight=2))
    assert room.run(profile) == 6
