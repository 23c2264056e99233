"""Every picker chooses among the open columns only; ties, turns and chance follow their rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Rates
from policies.endpoint_state import EndpointState
from policies.interface import Picker
from policies.pickers import MAX_CREDITS, LowestCost, RandomPicker, RoundRobin
from policies.types import InferenceRequest
from policies.view import View
from tests.policies.builders import learn_rates, make_fleet, make_request, make_state, make_view, rng

COSTS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12)


def block(number: int, *more: int) -> InferenceRequest:
    """A request with this second block."""
    return make_request(blocks=(1, number, *more))


def picked(
    picker: Picker, view: View, costs: Sequence[float] | None = None, request: InferenceRequest | None = None
) -> str:
    """The endpoint that a request is sent to."""
    asked = make_request() if request is None else request
    column = picker.choose(asked, view, [0.0] * len(view.states) if costs is None else costs)
    picker.sent(view, column)
    return view.states[column].endpoint.name


def named(names: str) -> list[EndpointState]:
    return [make_state(name) for name in names]


@given(COSTS, st.sets(st.integers(0, 11)), st.sampled_from(["lowest", "round", "random"]))
def test_the_choice_is_always_an_open_column(costs: list[float], closed: set[int], which: str) -> None:
    pickers: dict[str, Picker] = {"lowest": LowestCost(), "round": RoundRobin(), "random": RandomPicker(rng())}
    view = make_view(make_fleet(len(costs)), closed=[*closed])
    if view.open:
        for _ in range(3):
            column = pickers[which].choose(make_request(), view, costs)
            pickers[which].sent(view, column)
            assert column in view.open


@given(COSTS, st.sets(st.integers(0, 11)))
def test_the_choice_is_within_the_tie_of_the_lowest_open_cost(costs: list[float], closed: set[int]) -> None:
    view = make_view(make_fleet(len(costs)), closed=[*closed])
    if view.open:
        column = LowestCost(0.001).choose(make_request(), view, costs)
        assert costs[column] <= min(costs[one] for one in view.open) + 0.001


def test_of_equals_none_gets_all_when_it_has_much_more_in_flight_than_the_others() -> None:
    states = named("abc")
    favourite = picked(LowestCost(), make_view(states))
    for state in states:
        for _ in range(20 if state.endpoint.name == favourite else 4):
            state.reserve(make_request(blocks=()), 0, 0.0, 0.0).first_token(0.0)
    assert picked(LowestCost(), make_view(states)) != favourite
    lowest = [0.0 if state.endpoint.name == favourite else 0.1 for state in states]
    assert picked(LowestCost(), make_view(states), lowest) == favourite, "a clearly lower cost counts all the same"


def test_of_slower_engines_costs_further_apart_are_equal() -> None:
    """A millisecond is one part in twelve of an A100's step and one in a hundred of theirs."""
    states = named("ab")
    cheaper = picked(LowestCost(), make_view(states))
    costs = [0.0 if state.endpoint.name != cheaper else 0.005 for state in states]
    assert picked(LowestCost(), make_view(states), costs) != cheaper
    for state in states:
        learn_rates(state, Rates(prefill=10 * Rates().prefill))
    assert picked(LowestCost(), make_view(states), costs) == cheaper


@pytest.mark.parametrize("picker", [LowestCost(), RoundRobin()])
def test_choosing_without_sending_changes_nothing(picker: Picker) -> None:
    view = make_view(named("abc"))
    chosen = {picker.choose(make_request(), view, [0.0] * 3) for _ in range(5)}
    assert len(chosen) == 1


def test_a_difference_above_the_tie_decides() -> None:
    view = make_view(named("sf"))
    assert {picked(LowestCost(), view, [0.0021, 0.001], block(number)) for number in range(20)} == {"f"}


def test_a_tie_sends_one_prefix_to_one_endpoint_and_different_prefixes_to_all() -> None:
    view, costs = make_view(make_fleet(4)), [number * 1e-5 for number in range(4)]
    chosen = Counter(picked(LowestCost(), view, costs, block(number)) for number in range(400))
    assert len(chosen) == 4
    assert min(chosen.values()) > 50
    assert picked(LowestCost(), view, costs, block(5, 6)) == picked(LowestCost(), view, costs, block(5, 99))


def test_a_lost_endpoint_moves_only_the_prefixes_that_were_there() -> None:
    states = make_fleet(4)
    for number in range(50):
        before = picked(LowestCost(), make_view(states), request=block(number))
        after = picked(LowestCost(), make_view(states, closed=[3]), request=block(number))
        assert before in (after, "e3")


def test_prompts_shorter_than_a_block_are_spread_by_request() -> None:
    view = make_view(make_fleet(4))
    without = {picked(LowestCost(), view, request=make_request(f"r{number}", blocks=())) for number in range(50)}
    with_one = {picked(LowestCost(), view, request=make_request(blocks=(number,))) for number in range(50)}
    assert len(without) == len(with_one) == 4


def test_round_robin_takes_turns_in_the_configured_order() -> None:
    picker, view = RoundRobin(), make_view(named("abc"))
    assert [picked(picker, view) for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_round_robin_gives_weight_its_share_without_bunching() -> None:
    picker, view = RoundRobin(), make_view([make_state("a", weight=3.0), make_state("b"), make_state("c")])
    turns = [picked(picker, view) for _ in range(10)]
    assert Counter(turns) == {"a": 6, "b": 2, "c": 2}
    assert all("aaa" not in "".join(turns)[start : start + 3] for start in range(8))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 8))
def test_round_robin_is_exact_over_every_full_turn(weights: list[int], turns: int) -> None:
    picker = RoundRobin()
    view = make_view([make_state(f"e{number}", weight=float(weight)) for number, weight in enumerate(weights)])
    counts = Counter(picked(picker, view) for _ in range(sum(weights) * turns))
    assert counts == {f"e{number}": weight * turns for number, weight in enumerate(weights)}


def test_round_robin_goes_on_when_an_endpoint_leaves_and_returns() -> None:
    picker, states = RoundRobin(), named("abc")
    for _ in range(4):
        picked(picker, make_view(states, closed=[2]))
    counts = Counter(picked(picker, make_view(states)) for _ in range(30))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_round_robin_forgets_names_beyond_its_bound() -> None:
    picker = RoundRobin()
    for number in range(MAX_CREDITS + 10):
        picked(picker, make_view([make_state(f"e{number}")]))
    assert len(picker._credits) <= MAX_CREDITS + 1


def test_random_picks_follow_the_weights() -> None:
    picker, view = RandomPicker(rng()), make_view([make_state("a", weight=3.0), make_state("b")])
    share = sum(picked(picker, view) == "a" for _ in range(2000)) / 2000
    assert share == pytest.approx(0.75, abs=0.04)


def test_the_same_seed_picks_the_same() -> None:
    view, one, two = make_view(named("abcd")), RandomPicker(rng(3)), RandomPicker(rng(3))
    assert [picked(one, view) for _ in range(5)] == [picked(two, view) for _ in range(5)]
