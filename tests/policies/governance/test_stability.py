"""The population stability index: its value where it is known, and what holds of it always."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance.stability import BINS, drift, edges, psi

_counts = st.dictionaries(st.integers(0, 63), st.integers(1, 5000), min_size=1, max_size=40)


def test_its_value_is_that_of_the_formula() -> None:
    expected, actual = [600.0, 300.0, 100.0], [300.0, 300.0, 400.0]
    by_hand = (0.3 - 0.6) * math.log(0.3 / 0.6) + 0 + (0.4 - 0.1) * math.log(0.4 / 0.1)
    assert psi(expected, actual) == pytest.approx(by_hand, rel=0.01)
    assert psi([0.0, 1000.0], [1000.0, 0.0]) < math.inf


@given(_counts, _counts, st.booleans())
def test_it_is_never_negative_and_nothing_where_nothing_has_changed(
    one: dict[int, int], other: dict[int, int], ordered: bool
) -> None:
    assert drift(one, other, ordered=ordered) >= -1e-12
    assert drift(one, one, ordered=ordered) == pytest.approx(0.0, abs=1e-12)


@given(_counts)
def test_bins_are_of_the_baselines_quantiles(counts: dict[int, int]) -> None:
    found, part = edges(counts), sum(counts.values()) / BINS
    assert found == sorted(set(found))
    assert len(found) < BINS
    low = -1
    for bound in found:
        assert sum(count for bucket, count in counts.items() if low < bucket <= bound) >= part
        low = bound


def draw(chance: random.Random, mean: float, answers: int) -> Counter[int]:
    return Counter(min(63, max(0, round(chance.gauss(mean, 4)))) for _ in range(answers))


def test_chance_alone_stays_far_below_what_counts_as_a_change_and_a_change_far_above() -> None:
    chance = random.Random(5)
    same = [drift(draw(chance, 30, 500), draw(chance, 30, 200), ordered=True) for _ in range(300)]
    assert sum(same) / len(same) == pytest.approx((BINS - 1) * (1 / 200 + 1 / 500), rel=0.4)
    assert max(same) < 0.25
    moved = [drift(draw(chance, 30, 500), draw(chance, 34, 200), ordered=True) for _ in range(300)]
    assert min(moved) > 0.25


def test_kinds_have_no_order_and_a_new_one_counts() -> None:
    assert drift({0: 950, 1: 50}, {0: 190, 1: 10}, ordered=False) < 0.01
    assert drift({0: 1000}, {0: 100, 3: 100}, ordered=False) > 0.25
