"""Two choices at random, and the better of them."""

from __future__ import annotations

from collections import Counter

from policies.pickers import PowerOfTwo, RandomPicker
from tests.policies.builders import make_fleet, make_request, make_state, make_view, rng


def test_of_two_endpoints_the_cheaper_one_always_wins() -> None:
    view, picker = make_view(make_fleet(2)), PowerOfTwo(rng())
    assert {picker.choose(make_request(), view, [2.0, 1.0]) for _ in range(50)} == {1}


def test_the_dearest_of_all_is_never_chosen_and_the_cheapest_not_always() -> None:
    view, picker = make_view(make_fleet(5)), PowerOfTwo(rng())
    chosen = Counter(picker.choose(make_request(), view, [0.0, 1.0, 2.0, 3.0, 4.0]) for _ in range(500))
    assert chosen[4] == 0
    assert 0.3 < chosen[0] / 500 < 0.5, "two of five draws hold the cheapest"


def test_only_open_columns_are_drawn_and_a_single_one_is_enough() -> None:
    picker = PowerOfTwo(rng())
    assert picker.choose(make_request(), make_view(make_fleet(3), closed=[0, 2]), [0.0] * 3) == 1
    two = make_view(make_fleet(4), closed=[0, 3])
    assert {picker.choose(make_request(), two, [0.0] * 4) for _ in range(50)} == {1, 2}


def test_of_equal_costs_each_goes_as_often_as_its_weight_draws_it_first() -> None:
    view = make_view([make_state("light"), make_state("heavy", weight=4.0)])
    picker = PowerOfTwo(rng())
    chosen = Counter(picker.choose(make_request(), view, [0.0, 0.0]) for _ in range(1000))
    assert 0.75 < chosen[1] / 1000 < 0.85


def test_two_choices_leave_the_fullest_endpoint_less_full_than_one() -> None:
    def fullest(picker: PowerOfTwo | RandomPicker) -> float:
        loads = [0.0] * 16
        for _ in range(1600):
            loads[picker.choose(make_request(), make_view(states), loads)] += 1
        return max(loads)

    states = make_fleet(16)
    assert fullest(PowerOfTwo(rng())) <= 105
    assert fullest(RandomPicker(rng())) > 110
