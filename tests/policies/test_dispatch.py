"""A pass sends what fits, in order, each request seeing those before it, sent or held back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.desk import Desk
from policies.admission.order import ShortestPrefillFirst
from policies.decision import Decision
from policies.dispatch import plan
from policies.endpoint_state import EndpointState
from policies.gate import KV_SHARE, WAIT_SECONDS
from policies.registry import PROFILES, make_profile
from policies.reservation import Reservation
from policies.types import InferenceRequest, Role
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import load, make_fleet, make_request, make_state, rng

AT_ONCE = "prompt-aware-at-once"
SIZES = st.lists(st.integers(1, 50_000), max_size=20)


class Caller:
    """Who runs passes: a desk, what was sent where, and the reservations made."""

    def __init__(
        self, requests: Sequence[InferenceRequest], states: Sequence[EndpointState], profile: str = "prompt-aware"
    ) -> None:
        self.desk = Desk(ShortestPrefillFirst())
        self.states = states
        self.profile = make_profile(profile, rng())
        self.sent: list[tuple[str, str]] = []
        self.reservations: list[Reservation] = []
        for request in requests:
            self.enter(request)

    def enter(self, request: InferenceRequest, *excluded: str) -> None:
        self.desk.enter(Waiting(request, frozenset(excluded)), self.states, 0.0)

    def commit(self, waiting: Waiting, decision: Decision) -> None:
        choice = decision.choice
        assert choice.state.endpoint.name not in waiting.excluded
        self.sent.append((waiting.request.id, choice.state.endpoint.name))
        self.reservations.append(choice.state.reserve(waiting.request, choice.cached_tokens, choice.own_seconds, 0.0))
        self.desk.sent(waiting, choice.state.rates, choice.cached_tokens, 0.0)

    def run(self, window: int = 64, now: float = 0.0) -> int:
        return plan(self.desk, self.states, self.profile, now, self.commit, window)


class NeverAsked:
    """Somebody waits, but nobody may ask who goes next."""

    def __len__(self) -> int:
        return 1

    def next(self, view: View, window: int) -> Sequence[Waiting]:
        raise AssertionError("ordered for nothing")

    def again(self, view: View, window: int) -> Sequence[Waiting]:
        return ()

    def allows(self, waiting: Waiting) -> bool:
        raise AssertionError("asked for nothing")


def requests(sizes: list[int]) -> list[InferenceRequest]:
    return [make_request(f"r{number}", prompt_tokens=size, blocks=()) for number, size in enumerate(sizes)]


@given(SIZES, st.lists(st.integers(0, 4), max_size=4), st.integers(1, 25))
def test_at_once_as_many_are_sent_as_there_are_seats_and_no_endpoint_gets_more_than_its_own(
    sizes: list[int], seats: list[int], window: int
) -> None:
    states = [make_state(f"e{number}", max_in_flight=count) for number, count in enumerate(seats)]
    caller = Caller(requests(sizes), states, AT_ONCE)
    sent = caller.run(window)
    assert sent == len(caller.sent) == min(len(sizes), sum(seats), window)
    assert len(caller.desk) == len(sizes) - sent
    assert all(state.in_flight <= state.endpoint.max_in_flight for state in states)


@given(SIZES, st.integers(1, 4), st.sampled_from([None, 2000, 60_000]))
def test_an_engine_gets_work_up_to_theta_and_kv_up_to_its_share_and_one_request_more_at_most(
    sizes: list[int], count: int, capacity: int | None
) -> None:
    states = [make_state(f"e{number}", kv_capacity_tokens=capacity) for number in range(count)]
    caller = Caller(requests(sizes), states)
    caller.run()
    for state in states:
        own = [one.own_seconds for one in caller.reservations if one.state is state]
        assert sum(own[:-1]) < WAIT_SECONDS, "the last one found less than θ before it"
        assert state.in_flight <= 1 or capacity is None or state.kv_tokens <= KV_SHARE * capacity
    assert not len(caller.desk) or all(state.in_flight for state in states), "nobody waits beside an idle engine"


@given(SIZES, st.integers(1, 4), st.sampled_from(sorted(PROFILES)))
def test_every_request_is_sent_in_the_end_also_one_larger_than_any_cache(
    sizes: list[int], count: int, profile: str
) -> None:
    states = [make_state(f"e{number}", kv_capacity_tokens=5000) for number in range(count)]
    caller = Caller(requests(sizes), states, profile)
    for _ in range(len(sizes)):
        caller.run()
        for reservation in caller.reservations:
            reservation.release(1.0)
    assert sorted(name for name, _ in caller.sent) == sorted(one.id for one in requests(sizes))


def test_the_shortest_goes_first_when_there_is_one_seat() -> None:
    caller = Caller(requests([9000, 100, 5000]), [make_state(max_in_flight=1)])
    assert caller.run() == 1
    assert caller.sent == [("r1", "e0")]


def test_later_requests_of_a_pass_see_the_work_of_earlier_ones() -> None:
    caller = Caller(requests([8000] * 8), make_fleet(4), AT_ONCE)
    assert caller.run() == 8
    assert [state.in_flight for state in caller.states] == [2, 2, 2, 2]


def test_later_requests_of_a_pass_see_the_affinity_of_earlier_ones() -> None:
    chain = tuple(range(63))
    growing = [make_request(f"r{n}", prompt_tokens=4032 + n, blocks=chain) for n in range(3)]
    caller = Caller(growing, make_fleet(2))
    caller.run()
    assert [name for name, _ in caller.sent] == ["r0", "r1", "r2"]
    assert len({endpoint for _, endpoint in caller.sent}) == 1
    assert [one.cached_tokens for one in caller.reservations] == [0, 4032, 4032]


def test_a_freed_seat_is_used_by_the_next_pass() -> None:
    caller = Caller(requests([100, 200]), [make_state(max_in_flight=1)])
    caller.run()
    assert caller.run() == 0
    caller.reservations[0].release(1.0)
    assert caller.run() == 1
    assert [id for id, _ in caller.sent] == ["r0", "r1"]


def test_a_first_token_lets_the_next_one_through() -> None:
    caller = Caller(requests([8000, 8001]), make_fleet(1))
    assert (caller.run(), caller.run()) == (1, 0)
    caller.reservations[0].first_token(1.0)
    assert caller.run(now=1.0) == 1


# -- held back


def held_back(count: int) -> tuple[Caller, InferenceRequest]:
    """A large request goes first, as it is old, and finds no room for its KV on any engine; a small one would."""
    states = [make_state(f"e{number}", kv_capacity_tokens=20_000) for number in range(count)]
    for state in states:
        load(state, 0.1, tokens=10_000)
    caller = Caller([make_request("large", prompt_tokens=15_000, blocks=(), arrived_at=-1000.0)], states)
    return caller, make_request("small", prompt_tokens=100, blocks=())


def test_a_later_smaller_request_does_not_take_the_place_of_one_held_back() -> None:
    caller, small = held_back(1)
    caller.enter(small)
    assert caller.run() == 0


def test_without_one_held_back_the_smaller_request_goes_there() -> None:
    caller, small = held_back(1)
    alone = Caller([small], caller.states)
    assert alone.run() == 1


def test_a_later_smaller_request_may_go_to_another_endpoint() -> None:
    caller, small = held_back(2)
    load(caller.states[1], 0.2)  # the large one would go to e0
    caller.enter(small)
    assert caller.run() == 1
    assert caller.sent == [("small", "e1")]


def test_what_was_held_back_counts_for_its_pass_only() -> None:
    caller, small = held_back(1)
    caller.run()
    (large,) = caller.desk.queue
    caller.desk.leave(large, 0.0)
    caller.enter(small)
    assert caller.run() == 1


# -- nothing to do


@pytest.mark.parametrize("states", [[], [make_state(healthy=False)]])
def test_nothing_is_sent_and_nothing_ordered_when_no_endpoint_takes_anyone(states: list[EndpointState]) -> None:
    caller = Caller([], states)
    assert plan(NeverAsked(), states, caller.profile, 0.0, caller.commit) == 0


def test_nothing_is_sent_and_nothing_ordered_while_the_gate_is_shut_everywhere() -> None:
    states = make_fleet(2)
    for state in states:
        load(state, 1.0)
    caller = Caller([], states)
    assert plan(NeverAsked(), states, caller.profile, 0.0, caller.commit) == 0
    assert [state.in_flight for state in states] == [1, 1]


def test_a_pass_over_an_empty_line_does_nothing() -> None:
    assert Caller([], make_fleet(2)).run() == 0


@pytest.mark.parametrize("profile", ["round-robin", "random", "least-outstanding"])
def test_every_profile_serves_a_pass(profile: str) -> None:
    assert Caller(requests([100] * 6), make_fleet(3, max_in_flight=2), profile).run() == 6


# -- requests that have failed elsewhere


def standby(hot_seconds: float) -> Caller:
    """Two hot engines with this much to do, and an idle warm one."""
    states = [make_state("hot-0"), make_state("hot-1"), make_state("warm", role=Role.WARM)]
    for state in states[:2]:
        load(state, hot_seconds)
    return Caller([], states)


@pytest.mark.parametrize("hot_seconds", [0.1, 5.0])
def test_a_standby_is_open_to_a_request_that_has_failed_on_all_hot_ones_busy_or_not(hot_seconds: float) -> None:
    caller = standby(hot_seconds)
    caller.enter(make_request("tried", blocks=()), "hot-0", "hot-1")
    assert caller.run() == 1
    assert caller.sent == [("tried", "warm")]


def test_a_standby_is_open_to_it_though_all_seats_of_the_hot_ones_are_taken() -> None:
    states = [make_state("hot", max_in_flight=1), make_state("warm", role=Role.WARM)]
    load(states[0], 0.1)
    caller = Caller([], states)
    caller.enter(make_request("fresh", blocks=()))
    caller.enter(make_request("tried", blocks=()), "hot")
    assert caller.run() == 1
    assert caller.sent == [("tried", "warm")]


def test_a_standby_is_not_open_to_those_who_can_wait_for_a_hot_one() -> None:
    caller = standby(5.0)
    caller.enter(make_request("fresh", blocks=()))
    caller.enter(make_request("half", blocks=()), "hot-0")
    assert caller.run() == 0
    assert caller.states[2].in_flight == 0


def test_the_standbys_own_gate_holds_for_all_that_come_to_it() -> None:
    caller = standby(5.0)
    for number in range(4):
        caller.enter(make_request(f"r{number}", prompt_tokens=4000, blocks=()), "hot-0", "hot-1")
    assert caller.run() == 2, "0.27 s of prefill each"
    assert caller.run() == 0


def test_one_that_may_go_nowhere_does_not_stop_those_behind_it() -> None:
    caller = Caller([], make_fleet(2))
    caller.enter(make_request("nowhere", prompt_tokens=1, blocks=()), "e0", "e1")
    caller.enter(make_request("fresh", blocks=()))
    assert caller.run() == 1
    assert len(caller.desk) == 1


def test_a_request_never_goes_back_to_where_it_has_failed() -> None:
    caller = Caller([], make_fleet(2))
    for number in range(3):
        caller.enter(make_request(f"r{number}", blocks=()), "e0")
    caller.run()
    assert {endpoint for _, endpoint in caller.sent} == {"e1"}


def test_a_failed_request_held_back_counts_for_those_behind_it() -> None:
    states = [make_state(f"e{number}", kv_capacity_tokens=20_000) for number in range(2)]
    for state in states:
        load(state, 0.1, tokens=10_000)
    load(states[0], 5.0)
    caller = Caller([], states)
    caller.enter(make_request("large", prompt_tokens=15_000, blocks=(), arrived_at=-1000.0), "e0")
    caller.enter(make_request("small", prompt_tokens=100, blocks=()))
    assert caller.run() == 0
