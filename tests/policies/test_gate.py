"""The gate holds a request back while an engine has enough to do or no room for its KV, and never for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Rates
from policies.endpoint_state import EndpointState
from policies.gate import KV_SHARE, WAIT_SECONDS, Gate
from policies.reservation import Reservation
from policies.types import InferenceRequest
from tests.policies.builders import (
    PREFIX,
    chain_of,
    learn_rates,
    load,
    make_fleet,
    make_request,
    make_state,
    make_view,
    make_waiting,
)

NO_PREFIX: tuple[int, ...] = ()


def admits(state: EndpointState, request: InferenceRequest, gate: Gate | None = None) -> bool:
    return (gate or Gate()).admits(make_view([state]), 0, make_waiting([state], request))


def decoding(state: EndpointState, prompt: int, output: int = 0, blocks: tuple[int, ...] = NO_PREFIX) -> Reservation:
    """A request of which only the KV counts: its prefill is over."""
    request = make_request(prompt_tokens=prompt, max_output_tokens=output, blocks=blocks)
    reservation = state.reserve(request, 0, 0.1, now=0.0)
    reservation.first_token(0.0)
    return reservation


def asking(prompt: int, output: int = 0, blocks: tuple[int, ...] = NO_PREFIX) -> InferenceRequest:
    return make_request(prompt_tokens=prompt, max_output_tokens=output, blocks=blocks)


def test_the_constants_are_those_of_the_study() -> None:
    assert (WAIT_SECONDS, KV_SHARE) == (0.4, 0.95)


@pytest.mark.parametrize(("pending", "goes"), [(0.0, True), (0.399, True), (0.4, False), (5.0, False)])
def test_an_engine_with_less_work_than_theta_takes_another_one(pending: float, goes: bool) -> None:
    state = make_state()
    load(state, pending)
    assert admits(state, asking(100_000)) is goes, "how long the request itself takes does not matter"


def test_an_engine_that_takes_ten_times_as_long_for_all_has_ten_times_theta() -> None:
    """The same prompts are held back before it, whatever seconds they take."""
    slow, fast = make_state("slow"), make_state("fast")
    learn_rates(slow, Rates(prefill=10 * Rates().prefill))
    learn_rates(fast, Rates(prefill=Rates().prefill / 10))
    for state, pending, goes in ((slow, 3.9, True), (fast, 0.39, True), (slow, 4.0, False), (fast, 0.4, False)):
        reservation = state.reserve(asking(10), 0, pending, now=0.0)
        assert admits(state, asking(10)) is goes
        assert Gate().shut(make_view([state])) is not goes
        reservation.release(0.0)


def test_work_held_back_in_this_pass_counts_like_work_that_was_sent() -> None:
    states = make_fleet(2)
    for state in states:
        load(state, 0.1)
    view, large, small = make_view(states), make_waiting(states, asking(10_000)), make_waiting(states, asking(10))
    assert Gate().admits(view, 0, small)
    view.held(0, large)
    assert not Gate().admits(view, 0, small), "it would take the place of the larger one for free"
    assert Gate().admits(view, 1, small)


@given(st.floats(0.0, 50.0), st.integers(1, 2_000_000), st.integers(0, 10_000), st.integers(1, 100_000))
def test_an_idle_engine_always_takes_one_also_one_larger_than_its_cache(
    held: float, prompt: int, output: int, capacity: int
) -> None:
    states = [make_state(kv_capacity_tokens=capacity)]
    view, waiting = make_view(states), make_waiting(states, asking(prompt, output))
    view.planned[0] += held
    assert not Gate().shut(view)
    assert Gate().admits(view, 0, waiting)
    states[0].reserve(waiting.request, 0, waiting.own[0], now=0.0)
    fits = prompt + output <= 0.5 * KV_SHARE * capacity and waiting.own[0] + held < WAIT_SECONDS
    view.sent(0)
    assert Gate().admits(view, 0, waiting) is fits, "but only one, if two do not fit"


@pytest.mark.parametrize(("prompt", "goes"), [(4400, True), (4401, False)])
def test_prompts_and_expected_answers_fill_at_most_the_share_of_the_cache(prompt: int, goes: bool) -> None:
    state = make_state(kv_capacity_tokens=10_000)
    decoding(state, 4500, 500)
    assert admits(state, asking(prompt, 100)) is goes  # 9500 in all


def test_blocks_that_are_shared_with_requests_under_way_are_counted_once() -> None:
    state = make_state(kv_capacity_tokens=10_000)
    shared = chain_of(range(100))  # 6400 tokens
    first = decoding(state, 6400, blocks=shared)
    assert admits(state, asking(6400 + 3000, blocks=(*shared, 1)))
    assert not admits(state, asking(6400 + 3200, blocks=(*shared, 1)))
    assert not admits(state, asking(6400, blocks=chain_of(range(1, 101))))
    second = decoding(state, 6400, blocks=shared)
    assert state.kv_tokens == 6400
    first.release(1.0)
    assert state.kv_tokens == 6400, "the other one still needs them"
    second.release(1.0)
    assert state.kv_tokens == 0


def test_a_cached_prefix_that_nobody_holds_needs_room_as_any_other() -> None:
    state = make_state(kv_capacity_tokens=1000)
    state.index.touch(PREFIX)
    decoding(state, 800)
    assert not admits(state, asking(256, blocks=PREFIX))


def test_where_the_capacity_is_unknown_only_the_wait_counts() -> None:
    state = make_state()
    decoding(state, 10_000_000)
    assert admits(state, asking(10_000_000))


def test_both_bounds_can_be_set() -> None:
    state = make_state(kv_capacity_tokens=1000)
    load(state, 1.0, tokens=400)
    assert not admits(state, asking(10))
    assert admits(state, asking(10), Gate(wait_seconds=2.0))
    assert not admits(state, asking(10), Gate(wait_seconds=2.0, kv_share=0.5))


def test_the_gate_is_shut_when_every_open_engine_has_enough_to_do() -> None:
    states = make_fleet(3)
    load(states[0], 1.0)
    load(states[1], 0.4)
    assert Gate().shut(make_view(states, closed=[2]))
    assert not Gate().shut(make_view(states)), "the third is idle"
    load(states[2], 0.1)
    view = make_view(states)
    assert not Gate().shut(view)
    view.held(2, make_waiting(states, asking(10_000)))
    assert Gate().shut(view)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1.0)), min_size=1, max_size=5),
    st.sets(st.integers(0, 4)),
    st.integers(1, 20_000),
)
def test_a_shut_gate_admits_nobody_anywhere(fleet: list[tuple[int, float]], closed: set[int], tokens: int) -> None:
    states = make_fleet(len(fleet))
    for state, (count, seconds) in zip(states, fleet, strict=True):
        for _ in range(count):
            load(state, seconds)
    view, waiting = make_view(states, closed=[*closed]), make_waiting(states, asking(tokens))
    if Gate().shut(view):
        assert not any(Gate().admits(view, column, waiting) for column in view.open)
