"""A view shows a pool as it is, and what a pass does to it at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import own_seconds, slowdown, step_seconds, wait_seconds
from tests.policies.builders import (
    PREFIX,
    load,
    make_fleet,
    make_request,
    make_state,
    make_view,
    make_waiting,
    send,
    ttfts,
)

SECONDS = st.floats(0.0, 1000.0)


def test_the_columns_are_the_single_predictions() -> None:
    states = make_fleet(3)
    load(states[0], 2.0)
    states[1].reserve(make_request(prompt_tokens=5000, blocks=()), 0, 1.0, now=0.0).first_token(0.0)
    view = make_view(states, now=1.0)
    assert view.waits == view.planned == [wait_seconds(state, 1.0) for state in states] == [1.5, 0.0, 0.0]
    assert view.steps == [step_seconds(state) for state in states]
    assert view.slowdowns == [slowdown(state.rates, step_seconds(state)) for state in states]
    assert view.versions == tuple(state.index.version for state in states)


def test_the_time_to_first_token_is_wait_and_own_slowed_by_the_decodes() -> None:
    states = make_fleet(1)
    states[0].index.touch(PREFIX[:1])
    states[0].reserve(make_request(prompt_tokens=5000, blocks=()), 0, 1.0, 0.0).first_token(0.0)
    load(states[0], 3.0)
    waiting = make_waiting(states, make_request(prompt_tokens=1000))
    step, own = step_seconds(states[0]), own_seconds(states[0].rates, 936, 64)
    slow = 1 + step / (8192 * states[0].rates.prefill)
    assert ttfts(make_view(states), waiting, [0]) == pytest.approx([(3.0 + own) * slow + step])


@given(st.lists(SECONDS, max_size=5), SECONDS, st.integers(1, 10_000))
def test_more_waiting_work_never_shortens_the_prediction(works: list[float], more: float, tokens: int) -> None:
    states = make_fleet(1)
    for seconds in works:
        load(states[0], seconds)
    waiting = make_waiting(states, make_request(prompt_tokens=tokens, blocks=()))
    (before,) = ttfts(make_view(states), waiting, [0])
    load(states[0], more)
    assert ttfts(make_view(states), waiting, [0])[0] >= before - 1e-9


def test_what_was_sent_is_seen_at_once() -> None:
    states = make_fleet(2)
    view, waiting = make_view(states), make_waiting(states)
    send(view, 0, waiting)
    assert view.waits == view.planned == [waiting.own[0], 0.0]
    assert view.versions == tuple(state.index.version for state in states)
    assert view.busy_share == 0.5


def test_what_was_held_back_counts_as_planned_and_not_as_sent() -> None:
    states = make_fleet(2)
    load(states[0], 1.0)
    view, waiting = make_view(states), make_waiting(states)
    before = ttfts(view, waiting, [0, 1])
    view.held(0, waiting)
    assert view.waits == [1.0, 0.0]
    assert view.planned == [1.0 + waiting.own[0], 0.0]
    assert ttfts(view, waiting, [0, 1]) == before
    assert view.busy_share == 0.5


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 20_000)), max_size=12), SECONDS)
def test_after_any_sends_and_holds_a_view_is_a_fresh_one_and_the_work_held_back(
    steps: list[tuple[bool, int, int]], now: float
) -> None:
    states = make_fleet(3)
    for state in states:
        load(state, 2.0)
    view, held = make_view(states, now=now), [0.0] * 3
    for sends, column, tokens in steps:
        waiting = make_waiting(states, make_request(prompt_tokens=tokens))
        if sends:
            send(view, column, waiting)
        else:
            view.held(column, waiting)
            held[column] += waiting.own[column]
    fresh = make_view(states, now=now)
    assert view.waits == fresh.waits
    assert view.versions == fresh.versions
    assert view.planned == pytest.approx([wait + more for wait, more in zip(fresh.waits, held, strict=True)])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 20_000)), max_size=8), st.floats(1.0, 3.0))
def test_the_terms_that_a_pass_keeps_are_those_that_a_fresh_look_would_give(
    steps: list[tuple[bool, int, int]], weight: float
) -> None:
    states = make_fleet(3)
    view = make_view(states)
    for sends, column, tokens in steps:
        waiting = make_waiting(states, make_request(prompt_tokens=tokens))
        view.terms(weight)
        if sends:
            send(view, column, waiting)
        else:
            view.held(column, waiting)
        found, share = view.terms(weight)
        columns = zip(view.planned, view.slowdowns, view.steps, strict=True)
        assert found == pytest.approx([wait * slow + weight * step for wait, slow, step in columns])
        assert share == pytest.approx([weight * slow for slow in view.slowdowns])


def test_an_endpoint_that_got_its_last_seat_taken_is_closed() -> None:
    states = [make_state("small", max_in_flight=1), make_state("large")]
    view, waiting = make_view(states), make_waiting(states)
    send(view, 0, waiting)
    assert view.open == [1]
    send(view, 1, waiting)
    assert view.open == [1]


def test_a_view_with_all_seats_taken_has_nothing_open_and_nobody_busy() -> None:
    states = [make_state(max_in_flight=1)]
    view = make_view(states)
    send(view, 0, make_waiting(states))
    assert (view.open, view.busy_share) == ([], 0.0)
