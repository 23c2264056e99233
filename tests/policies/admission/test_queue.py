"""The queue is a naive sort made fast: whatever was added, removed and learned meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.order import ShortestPrefillFirst
from policies.admission.queue import Entry, Queue
from policies.cost import cached_tokens, own_seconds
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, Lane
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import chain_of, make_fleet, make_request, make_view

ORDER = ShortestPrefillFirst()
PATHS = st.lists(st.integers(0, 1), max_size=4)
REQUESTS = st.builds(
    make_request,
    prompt_tokens=st.sampled_from([1, 100, 100, 5000, 75_000]),  # equal keys are wanted
    blocks=st.builds(chain_of, PATHS),
    tenant=st.sampled_from("abc"),
    tier_priority=st.integers(0, 2),
    lane=st.sampled_from(Lane),
    arrived_at=st.sampled_from([0.0, 0.0, 1.0, 300.0]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), REQUESTS),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("touch"), PATHS),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=40,
)


def least_own(request: InferenceRequest, states: Sequence[EndpointState]) -> float:
    found = [cached_tokens(state, request) for state in states]
    return min(
        own_seconds(state.rates, request.prompt_tokens - cached, cached)
        for state, cached in zip(states, found, strict=True)
    )


class Naive:
    """The same by sorting everything every time. `arrival`: the keys as predicted when each request came."""

    def __init__(self, states: Sequence[EndpointState]) -> None:
        self.states = states
        self.waiting: list[Waiting] = []
        self.arrival: dict[int, float] = {}

    def add(self, waiting: Waiting) -> int:
        key = ORDER.standing(waiting.request) + least_own(waiting.request, self.states)
        ahead = sum(self.arrival[id(one)] <= key for one in self.waiting)
        self.waiting.append(waiting)
        self.arrival[id(waiting)] = key
        return ahead

    def next(self, columns: Sequence[int], window: int) -> list[Waiting]:
        by_arrival = sorted(self.waiting, key=lambda one: self.arrival[id(one)])[:window]
        seen = sorted(by_arrival, key=self.waiting.index)  # equals keep the order of arrival
        usable = [self.states[column] for column in columns]
        return sorted(seen, key=lambda one: ORDER.standing(one.request) + least_own(one.request, usable))


def played(steps: list[tuple[str, object]], states: Sequence[EndpointState]) -> tuple[Queue, Naive]:
    queue, naive = Queue(ORDER), Naive(states)
    for action, what in steps:
        if action == "add":
            assert isinstance(what, InferenceRequest)
            waiting = Waiting(what, frozenset({"e9"} if what.tier_priority == 2 else ()))
            assert queue.add(waiting, states) == naive.add(waiting)
        elif action == "remove" and naive.waiting:
            assert isinstance(what, int)
            gone = naive.waiting.pop(what % len(naive.waiting))
            assert queue.remove(gone)
            assert not queue.remove(gone)
        elif action == "touch":
            assert isinstance(what, list)
            states[len(what) % len(states)].index.touch(chain_of(what))
        elif action == "clear":
            states[0].index.clear()
        assert len(queue) == len(naive.waiting)
        assert list(queue) == naive.waiting
        assert list(queue.retries.values()) == [one for one in naive.waiting if one.excluded]
    return queue, naive


@given(STEPS, st.sets(st.integers(0, 2), max_size=2), st.integers(1, 40))
def test_the_order_is_that_of_a_naive_sort_for_any_adds_and_removes(
    steps: list[tuple[str, object]], closed: set[int], window: int
) -> None:
    states = make_fleet(3)
    queue, naive = played(steps, states)
    view = make_view(states, closed=[*closed])
    assert queue.next(view, window) == naive.next(view.open, window)
    assert queue.next(view, window) == naive.next(view.open, window), "looking changes nothing"
    for lane in Lane:
        assert queue.waiting[lane] == sum(one.request.lane is lane for one in naive.waiting)
        for tenant in "abc":
            waits = any((one.request.tenant, one.request.lane) == (tenant, lane) for one in naive.waiting)
            assert queue.has_line(tenant, [lane]) is waits


@given(STEPS)
def test_requests_that_are_next_are_refreshed_for_the_view(steps: list[tuple[str, object]]) -> None:
    states = make_fleet(3)
    queue, _ = played(steps, states)
    for waiting in queue.next(make_view(states), 64):
        assert waiting.cached == [cached_tokens(state, waiting.request) for state in states]


OFFSETS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(Lane)), st.one_of(st.none(), st.floats(0.0, 50.0)), max_size=9
)


@given(st.lists(REQUESTS, max_size=20), OFFSETS)
def test_an_offset_moves_all_of_a_tenants_lane_and_none_leaves_it_out(
    requests: list[InferenceRequest], offsets: dict[tuple[str, Lane], float | None]
) -> None:
    states, queue = make_fleet(2), Queue(ORDER)
    for request in requests:
        queue.add(Waiting(request), states)

    def offset(tenant: str, line: Sequence[Entry]) -> float | None:
        return offsets.get((tenant, line[0].waiting.request.lane), 0.0)

    def key(request: InferenceRequest) -> float:
        added = offsets.get((request.tenant, request.lane), 0.0)
        assert added is not None
        return added + ORDER.standing(request) + least_own(request, states)

    found = [one.request for one in queue.next(make_view(states), 64, offset)]
    left = [one for one in requests if offsets.get((one.tenant, one.lane), 0.0) is not None]
    assert [key(one) for one in found] == sorted(key(one) for one in left)
    assert sorted(map(id, found)) == sorted(map(id, left))


def test_one_request_twice_is_two_places() -> None:
    states, queue = make_fleet(1), Queue(ORDER)
    first, second = Waiting(make_request("same")), Waiting(make_request("same"))
    assert [queue.add(first, states), queue.add(second, states)] == [0, 1]
    assert queue.remove(first)
    assert list(queue) == [second]
    assert not queue.remove(first)


def test_a_longer_prompt_that_became_cached_while_it_waited_goes_first() -> None:
    states, queue = make_fleet(2), Queue(ORDER)
    chain = tuple(range(100))
    long, short = make_request("long", prompt_tokens=6400, blocks=chain), make_request("short", prompt_tokens=1000)
    for request in (long, short):
        queue.add(Waiting(request), states)

    def ids(view: View) -> list[str]:
        return [one.request.id for one in queue.next(view, 64)]

    assert ids(make_view(states)) == ["short", "long"]
    states[1].index.touch(chain)
    assert ids(make_view(states)) == ["long", "short"]
    assert ids(make_view(states, closed=[1])) == ["short", "long"]


@pytest.mark.interpreted("it counts the calls of a method")
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_pass_refreshes_no_more_than_its_window(monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    states, queue, looked = make_fleet(2), Queue(ORDER), [0]
    for number in range(200):
        queue.add(Waiting(make_request(f"r{number}", lane=list(Lane)[number % lanes])), states)
    refresh = View.refresh

    def counted(self: View, waiting: Waiting) -> None:
        looked[0] += 1
        refresh(self, waiting)

    monkeypatch.setattr(View, "refresh", counted)
    assert len(queue.next(make_view(states), 10)) == 10
    assert looked[0] == 10
