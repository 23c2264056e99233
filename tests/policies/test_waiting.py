"""What is kept with a waiting request is always what a fresh look would find, and only changes are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Rates, cached_tokens, own_seconds
from policies.endpoint_state import EndpointState
from policies.prefix_index import PrefixIndex
from policies.reservation import Reservation
from policies.types import InferenceRequest
from policies.waiting import Waiting
from tests.policies.builders import (
    PREFIX,
    chain_of,
    learn_rates,
    make_fleet,
    make_request,
    make_view,
    make_waiting,
    send,
)

PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=5)
ACTIONS = ["touch", "reserve", "first_token", "release", "resize", "clear", "forget", "rates", "restart", "nothing"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), PATHS, st.booleans()), max_size=40)


def change(state: EndpointState, action: str, path: Sequence[int], sent: list[Reservation]) -> None:
    """Anything that happens to an endpoint."""
    index, chain = state.index, chain_of(path)
    if action == "reserve":
        sent.append(state.reserve(make_request(blocks=chain), 0, 0.1, now=0.0))
    elif action == "first_token":
        for one in sent[-len(path) :]:
            one.first_token(1.0)
    elif action == "release" and sent:
        sent.pop(len(path) % len(sent)).release(1.0)
    does: dict[str, Callable[[], object]] = {
        "touch": lambda: index.touch(chain),
        "resize": lambda: index.resize(2 * len(path)),
        "clear": index.clear,
        "forget": lambda: index.forget_unused_since(3 * len(path)),
        "rates": lambda: learn_rates(state, replace(state.rates, prefill=1e-5 * len(path))),
        "restart": state.restarted,
    }
    if action in does:
        does[action]()


def fresh(states: Sequence[EndpointState], request: InferenceRequest) -> tuple[list[int], list[float]]:
    cached = [cached_tokens(state, request) for state in states]
    own = [
        own_seconds(state.rates, request.prompt_tokens - found, found)
        for state, found in zip(states, cached, strict=True)
    ]
    return cached, own


@given(STEPS, PATHS, st.integers(0, 500))
def test_a_refreshed_request_knows_what_a_fresh_computation_finds(
    steps: list[tuple[str, int, list[int], bool]], path: list[int], tokens: int
) -> None:
    states = make_fleet(3)
    sent: dict[int, list[Reservation]] = {0: [], 1: [], 2: []}
    for state in states:
        state.index.resize(8)
    request = make_request(prompt_tokens=tokens, blocks=chain_of(path))
    waiting = Waiting(request)
    for action, which, other, looks in steps:
        change(states[which], action, other, sent[which])
        if looks:
            make_view(states).refresh(waiting)
            assert (waiting.cached, waiting.own) == fresh(states, request)


@pytest.mark.interpreted("it counts the calls of a method")
def test_only_endpoints_that_have_changed_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    states, asked = make_fleet(4), list[str]()

    names = {id(state.index): state.endpoint.name for state in states}
    match = PrefixIndex.match

    def counted(self: PrefixIndex, blocks: Sequence[int]) -> int:
        asked.append(names[id(self)])
        return match(self, blocks)

    monkeypatch.setattr(PrefixIndex, "match", counted)
    for state in states:
        state.index.touch(PREFIX[:1])  # where not even the first block is, that alone is looked at
    waiting = make_waiting(states)
    assert asked == ["e0", "e1", "e2", "e3"]
    asked.clear()
    make_view(states).refresh(waiting)
    assert asked == []
    states[1].index.touch(PREFIX)
    learn_rates(states[3], Rates(prefill=1e-3))
    make_view(states).refresh(waiting)
    assert asked == ["e1", "e3"]


def test_a_pass_looks_for_what_has_changed_once_for_all_that_were_last_looked_at_together() -> None:
    states = make_fleet(3)
    view = make_view(states)
    together = [Waiting(make_request(str(number))) for number in range(4)]
    for waiting in together:
        view.refresh(waiting)
    states[1].index.touch(PREFIX)
    later, alone = make_view(states), make_waiting(states)
    for waiting in (*together, alone):
        later.refresh(waiting)
        assert waiting.cached == [0, 255, 0]
        assert waiting.versions is later.versions
    send(later, 0, together[0])
    later.refresh(together[1])
    assert (together[1].cached, together[1].own) == fresh(states, together[1].request)


def test_another_number_of_endpoints_is_looked_at_anew() -> None:
    states = make_fleet(3)
    states[2].index.touch(PREFIX)
    waiting = make_waiting(states[:2])
    for count in (3, 1):
        make_view(states[:count]).refresh(waiting)
        assert (waiting.cached, waiting.own) == fresh(states[:count], waiting.request)


def test_the_least_own_work_is_over_the_endpoints_asked_about() -> None:
    states = make_fleet(3)
    states[1].index.touch(PREFIX)
    waiting = make_waiting(states)
    assert waiting.least_own([0, 1, 2]) == waiting.own[1] < waiting.own[0]
    assert waiting.least_own([0, 2]) == waiting.own[0]
    assert waiting.least_own([]) == 0.0
